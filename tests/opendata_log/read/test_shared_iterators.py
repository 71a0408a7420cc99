"""Iterators that several threads read from: a typed error or an entry, and no entry twice."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore
from opendata_log import Error, InvalidInputError, LogDb
from tests.lsm.support import open_plain
from tests.lsm.support import tiny as tiny_db
from tests.opendata_log.support import tiny

RECORDS = 6000


@pytest.fixture(autouse=True)
def busy_interpreter() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def log() -> Iterator[LogDb]:
    with LogDb.open(storage="memory://", engine=tiny(l0_sst_size_bytes=1 << 20, sst_block_size=512)) as log:
        for start in range(0, RECORDS, 100):
            log.try_append(
                [(b"k%03d" % (at % 500) if at % 2 else b"k", b"%d" % at) for at in range(start, start + 100)]
            )
        yield log


def by_all(read: Callable[[], Any], errors: type[Exception]) -> list[Any]:
    """What four threads got, together. Anything but `errors` fails."""
    found: list[Any] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                try:
                    got = read()
                except errors:
                    return
                except StopIteration:
                    return
                if not got:
                    return
                found.extend(got if isinstance(got, list) else [got])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    return found


def looped(entries: Any) -> Callable[[], Any]:
    """One `for` loop per thread."""

    def read() -> list[Any]:
        got = []
        try:
            for entry in entries:
                got.append(entry)
        except Error:
            pass
        return got

    return read


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("way", ["loop", "next", "fetchmany", "mixed"])
def test_a_scan_yields_each_entry_at_most_once(log: LogDb, way: str, reverse: bool) -> None:
    entries = log.scan(b"k", reverse=reverse)
    turns = iter(range(10**9))
    ways: dict[str, Callable[[], Any]] = {
        "loop": looped(entries),
        "next": lambda: next(entries),
        "fetchmany": lambda: entries.fetchmany(7),
        "mixed": lambda: entries.fetchmany(5) if next(turns) % 3 else next(entries),
    }

    found = by_all(ways[way], Error)

    assert len({entry.sequence for entry in found}) == len(found)


def test_a_loop_beside_fetchmany_yields_each_entry_at_most_once(log: LogDb) -> None:
    entries = log.scan(b"k")
    loops = looped(entries)
    turns = iter(range(10**9))

    found = by_all(lambda: loops() if next(turns) % 2 else entries.fetchmany(3), Error)

    assert len({entry.sequence for entry in found}) == len(found)


def test_a_list_of_keys_yields_each_key_at_most_once(log: LogDb) -> None:
    keys = log.list_keys()

    found = by_all(lambda: next(keys), Error)

    assert len(set(found)) == len(found)


def test_a_follower_yields_each_entry_at_most_once(log: LogDb) -> None:
    follower = log.follow(b"k", timeout=0.2)

    found = by_all(lambda: follower.fetchmany(9), Error)

    assert len({entry.sequence for entry in found}) == len(found)


def test_rows_of_the_engine_come_at_most_once() -> None:
    with open_plain(MemoryStore(), tiny_db()) as db:
        for start in range(0, 2000, 50):
            batch = lsm.WriteBatch()
            for at in range(start, start + 50):
                batch.put(b"%05d" % at, b"v")
            db.write(batch)
        rows = db.scan()

        found = by_all(lambda: next(rows), lsm.Error)

        assert len({row.key for row in found}) == len(found)


def test_who_comes_while_a_block_is_read_is_told(log: LogDb) -> None:
    entries = log.scan(b"k")
    outcomes: list[Any] = []

    def blocks() -> Iterator[Any]:
        for call in (entries.next_block, lambda: entries.fetchmany(1), entries.close):
            try:
                outcomes.append(call())
            except InvalidInputError as error:
                outcomes.append(str(error))
        return iter(())

    def once() -> Iterator[Any]:
        yield from blocks()

    entries._blocks_left = once()  # type: ignore[assignment]
    assert entries.fetchall() == []

    assert len(outcomes) == 3
    assert all("give each thread its own" in str(each) for each in outcomes)


def test_one_thread_after_the_other_may_read_on(log: LogDb) -> None:
    entries = log.scan(b"k")
    expected = log.scan(b"k").fetchall()
    found: list[Any] = []

    for _ in range(5):
        thread = threading.Thread(target=lambda: found.extend(entries.fetchmany(100)))
        thread.start()
        thread.join()
    found += list(entries)

    assert found == expected
