"""Power loss on local files: whatever was acknowledged is there whole; what was not is there whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import lsm
from lsm.object_store import file_descriptors as descriptors
from lsm.object_store import local
from lsm.object_store.contract import ObjectExists
from lsm.object_store.local import LocalStore
from tests.lsm.object_store.disk import PowerLoss, WatchedDisk
from tests.lsm.support import open_plain, read_rows, tiny

Watch = Callable[..., WatchedDisk]
Restore = Callable[[WatchedDisk, Path, int], Path]
TIMEOUT = 10.0


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """A disk below the store, on which nothing is yet."""

    def begin(seed: int, calls_left: int | None = None) -> WatchedDisk:
        root = tmp_path / f"{seed}.{calls_left}"
        root.mkdir()
        disk = WatchedDisk(root, random.Random(seed), calls_left=calls_left)
        for module in (local, descriptors):
            monkeypatch.setattr(module, "os", disk)
        return disk

    return begin


@pytest.fixture
def restore(monkeypatch: pytest.MonkeyPatch) -> Restore:
    """Switches it on again: what is left, which is no longer watched."""

    def begin(disk: WatchedDisk, target: Path, seed: int) -> Path:
        for module in (local, descriptors):
            monkeypatch.setattr(module, "os", os)
        return disk.outage(target, random.Random(seed))

    return begin


class Calls:
    """Creates and deletes under a seed, until the power fails; what was asked for, and what was answered."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.tried: dict[str, bytes] = {}
        self.deleted: set[str] = set()

    def run(self, store: LocalStore, chance: random.Random) -> None:
        for number in range(12):
            name = f"{chance.choice(('wal', 'sst', 'a/b'))}/{number:020d}.x"
            parts = [chance.randbytes(chance.choice((0, 1, 40, 3000))) for _ in range(chance.randrange(1, 4))]
            self.tried[name] = b"".join(parts)
            store.put_if_absent(name, parts, timeout=TIMEOUT)
            self.stored[name] = self.tried[name]
            if chance.random() < 0.3:
                with pytest.raises(ObjectExists):
                    store.put_if_absent(name, [b"other"], timeout=TIMEOUT)
            if chance.random() < 0.2:
                victim = chance.choice(sorted(self.stored))
                self.deleted.add(victim)
                store.delete(victim, timeout=TIMEOUT)
                del self.stored[victim]

    def check(self, store: LocalStore) -> None:
        found = {info.name: store.get(info.name, timeout=TIMEOUT) for info in store.list("", timeout=TIMEOUT)}
        assert self.stored.items() <= {name: found.get(name) for name in self.stored}.items()
        assert {name: self.tried[name] for name in found} == found
        for left in store.leftovers(timeout=TIMEOUT):
            store.delete(left.name, timeout=TIMEOUT)
        for name, data in self.tried.items():  # It goes on: every name is free or holds what was sent.
            if name not in found:
                store.put_if_absent(name, [data], timeout=TIMEOUT)
            assert store.get(name, timeout=TIMEOUT) == data


@pytest.mark.parametrize("use_tmpfile", [True, False])
def test_objects_survive_an_outage_at_every_call(
    watch: Watch, restore: Restore, tmp_path: Path, use_tmpfile: bool
) -> None:
    for seed in range(3):
        disk = watch(seed)
        Calls().run(LocalStore(f"{tmp_path}/{seed}.None/db", use_tmpfile=use_tmpfile), random.Random(seed))
        assert disk.calls > 60
        for at in range(disk.calls):
            cut, calls = watch(seed, at), Calls()
            with pytest.raises(PowerLoss):
                calls.run(LocalStore(f"{tmp_path}/{seed}.{at}/db", use_tmpfile=use_tmpfile), random.Random(seed))
            left = restore(cut, tmp_path / f"left {seed} {at}", at)
            calls.check(LocalStore(left / "db", use_tmpfile=use_tmpfile))


def write(root: Path, acknowledged: dict[bytes, bytes]) -> None:
    """A database's life; `acknowledged` has what was called durable. No thread but the caller's and the flush's."""
    settings = tiny(compaction_enabled=False, gc_interval=None)
    db = lsm.Db.open(str(root), settings)
    try:
        _write(db, acknowledged)
    finally:
        with contextlib.suppress(BaseException):
            db.close()


def _write(db: lsm.Db, acknowledged: dict[bytes, bytes]) -> None:
    for at in range(6):
        pair = b"k%d" % at, b"v" * (at * 40)
        db.put(*pair, await_durable=True)
        acknowledged[pair[0]] = pair[1]
        if at % 3 == 2:
            db.flush(lsm.FlushType.MEMTABLE)
            db.collect_garbage(min_age=0)


def test_a_database_opens_with_all_it_acknowledged_wherever_the_power_fails(
    watch: Watch, restore: Restore, tmp_path: Path
) -> None:
    whole: dict[bytes, bytes] = {}
    disk = watch(0)
    write(tmp_path / "0.None" / "db", whole)
    assert len(whole) == 6
    for at in range(0, disk.calls, 2):
        cut, acknowledged = watch(0, at), {}
        with pytest.raises((PowerLoss, lsm.Error)):
            write(tmp_path / f"0.{at}" / "db", acknowledged)
        left = restore(cut, tmp_path / f"left {at}", at)

        with open_plain(LocalStore(left / "db")) as db:
            found = dict(read_rows(db))
            assert acknowledged.items() <= found.items() <= whole.items(), at
            db.put(b"z", b"goes on", await_durable=True)
            db.collect_garbage(min_age=0)
