"""Care of a log from a task: the calls of the blocking log, off the loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from opendata_log import Config, LogDbReader
from opendata_log.aio import LogDb, LogDbBuilder
from opendata_log.model.errors import ClosedError
from tests.opendata_log.support import ManualClock, tiny


def test_checkpoints_clones_and_garbage_as_in_the_blocking_log(tmp_path: Path) -> None:
    async def use() -> None:
        builder = LogDbBuilder(Config(storage=str(tmp_path / "log"), engine=tiny())).with_clock(ManualClock())
        async with await builder.with_sst_block_size(512).build() as log:
            await log.try_append([(b"k", b"1")])
            kept = await log.create_checkpoint(lifetime=60.0, name="kept")
            await log.try_append([(b"k", b"2")])
            await log.clone(str(tmp_path / "clone"))
            assert await log.wait_idle(30)
            assert await log.collect_garbage(dry_run=True) is not None
            assert await log.seal_segment() == 1
            assert (await log.status()).last_seq > 0
        with pytest.raises(ClosedError):
            await log.flush()
        with LogDbReader.open(storage=str(tmp_path / "log"), checkpoint=kept.id) as reader:
            assert [entry.value for entry in reader.scan(b"k")] == [b"1"]
        async with await LogDb.open(storage=str(tmp_path / "clone")) as clone:
            assert [entry.value async for entry in clone.scan(b"k")] == [b"1", b"2"]

    asyncio.run(use())
