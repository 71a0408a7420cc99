"""kill -9 of writers while a reader stays open, or is opened again. Per key, the reader sees each record once, in order, and
no record it has seen is missing later."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from opendata_log import LogDb, LogDbReader, ScanOptions, SnapshotExpired, StorageConfig
from tests.crashes.child import config_of
from tests.crashes.ledger import Child, rows_of
from tests.opendata_log.following import Listener
from tests.servers.s3 import Ministack, Seaweed

KEYS = [b"key-%d" % at for at in range(30)]


class Follower:
    """Polls every key from the position that its last scan returned, and keeps the records."""

    def __init__(self, place: dict[str, Any], chance: random.Random) -> None:
        self.seen: dict[bytes, list[tuple[int, bytes]]] = {key: [] for key in KEYS}
        self.expired = 0
        self._next = dict.fromkeys(KEYS, 0)
        self._place = place
        self._chance = chance
        self._reader = self._open()

    def _open(self) -> LogDbReader:
        storage = StorageConfig(url=self._place["url"], storage_options=self._place.get("storage_options", {}))
        return LogDbReader.open(storage=storage, refresh_interval=self._chance.choice((0.02, 0.1, 0.5)))

    def restart(self) -> None:
        self._reader.close()
        self._reader = self._open()

    def close(self) -> None:
        self._reader.close()

    def refresh(self) -> None:
        self._reader.refresh()

    def poll_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.poll(self._chance.choice(KEYS), self._chance.choice((None, 1, 7, 100)))

    def poll(self, key: bytes, limit: int | None) -> None:
        found = self._reader.scan(key, self._next[key], options=ScanOptions(limit=limit))
        seen = self.seen[key]
        try:
            for entry in found:
                assert entry.sequence >= self._next[key]
                assert not seen or entry.sequence > seen[-1][0]
                seen.append((entry.sequence, entry.value))
        except SnapshotExpired:
            self.expired += 1
        assert found.next_sequence >= self._next[key]
        assert not seen or found.next_sequence > seen[-1][0]
        self._next[key] = found.next_sequence

    def drain(self) -> None:
        self.refresh()
        for key in KEYS:
            expired = -1
            while expired != self.expired:
                expired = self.expired
                self.poll(key, None)


def check(log: LogDb, follower: Follower) -> None:
    """Assert that the log holds the records seen, and that the reader sees the log's records."""
    for key in KEYS:
        seen = follower.seen[key]
        rows = [(entry.sequence, entry.value) for entry in log.scan(key)]
        assert rows[: len(seen)] == seen, f"{key!r}: {len(seen)} seen"
    log.flush()
    follower.drain()
    for key in KEYS:
        assert follower.seen[key] == [(entry.sequence, entry.value) for entry in log.scan(key)]


def kills(place: dict[str, Any], count: int, chance: random.Random) -> Follower:
    """Children write and die; the next child fences some of them before."""
    children = [Child({**place, "seed": 0})]
    children[0].listen_for("opened")
    follower = Follower(place, chance)
    try:
        for seed in range(1, count + 1):
            follower.poll_for(0.05 + 0.3 * chance.random())
            overtakes = chance.random() < 0.3
            if not overtakes:
                children[-1].kill()
            if chance.random() < 0.3:
                follower.restart()
            children.append(Child({**place, "seed": seed}))
            if overtakes:
                follower.poll_for(0.3 * chance.random())
                children[-2].kill()
            children[-1].listen_for("opened")
        follower.poll_for(0.3)
        children[-1].kill()
        follower.poll_for(0.1)
        with LogDb.open(config_of({**place, "seed": 0})) as log:
            check(log, follower)
    finally:
        follower.close()
        for child in children:
            if child.process.returncode is None:
                child.kill()
    return follower


@pytest.mark.parametrize("seed", [1])
def test_a_reader_under_five_kills_it_sees_every_record_once(tmp_path: Path, seed: int) -> None:
    follower = kills({"url": str(tmp_path)}, 5, random.Random(seed))

    assert sum(map(len, follower.seen.values())) > 1000


def test_a_follower_of_every_key_under_kills_it_yields_every_record_once(tmp_path: Path) -> None:
    chance = random.Random(2)
    place = {"url": str(tmp_path)}
    reader = listener = None
    for seed in range(4):
        child = Child({**place, "seed": seed})
        child.listen_for("opened")
        if listener is None:
            reader = LogDbReader.open(storage=str(tmp_path), refresh_interval=0.05)
            listener = Listener(reader.follow_all(prefix=b"key-"))
        time.sleep(0.1 + 0.3 * chance.random())
        child.kill()
    assert reader is not None
    assert listener is not None
    with LogDb.open(config_of({**place, "seed": 0})) as log:
        rows = rows_of(log)
        listener.wait_for(len(rows))
    reader.close()
    assert listener.ended()
    assert listener.error is None
    assert [(entry.sequence, entry.key, entry.value) for entry in listener.entries] == rows


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_reader_under_thirty_kills_it_sees_every_record_once(tmp_path: Path) -> None:
    follower = kills({"url": str(tmp_path)}, 30, random.Random(30))

    assert sum(map(len, follower.seen.values())) > 10_000


@pytest.mark.s3
def test_a_reader_under_kills_on_ministack_it_sees_every_record_once(ministack: Ministack) -> None:
    place = {"url": ministack.url("follow"), "storage_options": ministack.storage_options}

    assert sum(map(len, kills(place, 3, random.Random(3)).seen.values())) > 100


@pytest.mark.s3
def test_a_reader_under_kills_of_writers_and_of_the_server_on_seaweed_it_sees_every_record_once(
    seaweed: Seaweed,
) -> None:
    place = {"url": seaweed.url("follow"), "storage_options": seaweed.storage_options}
    chance = random.Random(4)

    follower = kills(place, 2, chance)
    seaweed.restart()

    assert sum(map(len, follower.seen.values())) > 100
    again = Follower(place, chance)
    again.drain()
    again.close()
    assert again.seen == follower.seen
