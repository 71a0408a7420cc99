"""The acceptance of the issue at full scale: write, flush, kill -9, reopen, compare everything. `-s` shows the times."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from opendata_log import LogDb, StorageConfig
from tests.crashes.child import large_batches
from tests.crashes.ledger import Child
from tests.servers.s3 import Seaweed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def check_large_log(place: dict[str, Any], records: int) -> None:
    started = time.monotonic()
    child = Child({**place, "large": records})
    child.listen_for("durable")
    written = time.monotonic()
    child.kill()
    killed = time.monotonic()
    with LogDb.open(storage=StorageConfig(**place)) as log:
        opened = time.monotonic()
        found = {name.key: [(entry.sequence, entry.value) for entry in log.scan(name.key)] for name in log.list_keys()}
        scanned = time.monotonic()
        counts = {name: log.count(name) for name in found}
    closed = time.monotonic()
    wanted = defaultdict(list)
    at = 0
    for batch in large_batches(records):
        for key, value in batch:
            wanted[key].append((at, value))
            at += 1

    print(
        f"\n{place['url']}: {records} records: start, append and flush {written - started:.1f} s, reopen "
        f"{opened - killed:.2f} s, scan of {len(found)} keys {scanned - opened:.1f} s, count {closed - scanned:.1f} s"
    )
    assert child.durable == records
    assert found == wanted
    assert counts == {name: len(rows) for name, rows in wanted.items()}


def test_a_million_records_on_local_files_survive_kill_nine_it_reads_them_back(tmp_path: Path) -> None:
    check_large_log({"url": str(tmp_path)}, 1_000_000)


@pytest.mark.s3
def test_a_hundred_thousand_records_on_seaweed_survive_kill_nine_it_reads_them_back(seaweed: Seaweed) -> None:
    check_large_log({"url": seaweed.url("large"), "storage_options": seaweed.storage_options}, 100_000)
