"""A disk that is full from any write on: an error is raised, no acknowledged row is lost. Work resumes when there is room."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from opendata_log import Error, LogDb, SegmentConfig, StorageError
from tests.opendata_log.support import tiny, values

T = TypeVar("T")
WRITES = ("writev", "fdatasync", "link", "mkdir")


class Disk:
    """Counts the calls that take space, and refuses them from call number `full_at` on until room is made."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path, full_at: int | None) -> None:
        self.root = root
        self.calls = 0
        self.refused = 0
        self._full_at = full_at
        for name in WRITES:
            patch.setattr(os, name, self._limited(getattr(os, name)))

    def make_room(self) -> None:
        self._full_at = None

    def _limited(self, real: Callable[..., T]) -> Callable[..., T]:
        def call(*arguments: Any, **options: Any) -> T:
            self.calls += 1
            if self._full_at is not None and self.calls >= self._full_at:
                self.refused += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return call


def insistent(disk: Disk, call: Callable[[], T]) -> T:
    """The call's result. If the disk is full, make room and repeat the call until it succeeds."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return call()
        except Error as error:
            assert isinstance(error, StorageError)
            assert "free space" in str(error) or disk.refused
            assert time.monotonic() < deadline, error
            disk.make_room()
            time.sleep(0.02)


def scenario(place: Path, disk: Disk) -> None:
    settings = tiny(op_timeout=0.1, compaction_enabled=False, l0_sst_size_bytes=1500)

    def opened() -> LogDb:
        return insistent(
            disk,
            lambda: LogDb.open(storage=str(place), segmentation=SegmentConfig(seal_byte_limit=1500), engine=settings),
        )

    log = opened()
    accepted = []
    for at in range(20):
        value = b"%02d" % at + bytes(100)
        insistent(disk, lambda value=value: log.try_append([(b"k", value)]))
        accepted.append(value)
        if at % 4 == 3:
            insistent(disk, log.flush)
    assert values(log, b"k") == accepted
    durable = log.durable_sequence
    try:
        log.close()
    except StorageError:
        assert disk.refused
        disk.make_room()
        accepted = accepted[: int(durable)]
    log = opened()
    found = values(log, b"k")
    assert found[: len(accepted)] == accepted
    insistent(disk, lambda: log.try_append([(b"k", b"more")]))
    insistent(disk, log.flush)
    disk.make_room()
    log.close()
    assert not [name for name in os.listdir(place / "wal") if name.startswith(".tmp")]


def run(tmp_path: Path, full_at: int | None) -> Disk:
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path / str(full_at)
        disk = Disk(patch, place, full_at)
        scenario(place, disk)
    return disk


def fill_up(tmp_path: Path, most: int | None) -> None:
    calls = run(tmp_path, None).calls
    assert calls > 60
    for at in range(1, calls + 1, 1 if most is None else calls // most):
        run(tmp_path, at)


def test_a_disk_that_is_full_it_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    fill_up(tmp_path, 10)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_disk_that_is_full_at_any_write_it_says_so_and_goes_on(tmp_path: Path) -> None:
    fill_up(tmp_path, None)
