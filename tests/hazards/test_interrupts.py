"""KeyboardInterrupt and MemoryError at every line of append, flush, read and close.

Afterwards the handle works, or every call says why it does not: no hang, no half batch, nothing acknowledged that is gone,
no sequence for two records.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import sortedcontainers

import lsm
from lsm.object_store import MemoryStore
from lsm.rows.memtable import SeriesRows
from lsm.runtime import Runtime
from lsm.sst.cache import Loads
from opendata_log import Config, Error, LogDb, LogDbBuilder, SegmentConfig
from opendata_log.model.keys import SEQUENCE_MAX
from tests.hazards.interrupting import PRODUCT, Interrupter
from tests.lsm.support import engine_threads, open_plain
from tests.opendata_log.support import tiny

KEYS = (b"a", b"b", b"c")
SECONDS_MAX = 30
Row = tuple[int, bytes, bytes]


@dataclass
class Case:
    """One log, the batches appended to it, and the known state of each batch."""

    store: MemoryStore = field(default_factory=MemoryStore)
    known: dict[int, list[tuple[bytes, bytes]]] = field(default_factory=dict)
    """Batches whose append returned, by first sequence."""
    doubtful: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    """Batches whose append raised."""
    durable: int = 0
    batches: int = 0

    def __post_init__(self) -> None:
        self.log = self.open()

    def open(self) -> LogDb:
        config = Config(
            storage="memory://",
            segmentation=SegmentConfig(seal_byte_limit=1500),
            engine=tiny(l0_sst_size_bytes=4096, wal_uploads_max=2, compaction_enabled=False),
        )
        return LogDbBuilder(config).with_object_store(self.store).build()

    def append(self, call: Callable[[Any], Any] | None = None) -> None:
        self.batches += 1
        batch = [(key, b"%d-%d" % (self.batches, at) + bytes(20)) for at, key in enumerate(KEYS)]
        try:
            made = (call or self.log.try_append)(batch)
        except BaseException:
            self.doubtful.append(batch)
            raise
        assert made.start_sequence not in self.known
        self.known[made.start_sequence] = batch

    def flush(self) -> None:
        end = max((first + len(batch) for first, batch in self.known.items()), default=0)
        self.log.flush()
        self.durable = max(self.durable, end)

    def expected(self) -> list[Row]:
        return sorted(
            (first + at, key, value) for first, batch in self.known.items() for at, (key, value) in enumerate(batch)
        )


def rows_of(log: LogDb) -> list[Row]:
    found = [(e.sequence, e.key, e.value) for key in KEYS for e in log.scan(key).fetchall()]
    assert sum(log.count(key) for key in KEYS) == len(found)
    return sorted(found)


def nothing_yet(case: Case) -> None:
    pass


def some(case: Case) -> None:
    for _ in range(3):
        case.append()
    case.flush()
    case.append()


def in_tables(case: Case) -> None:
    some(case)
    case.log._db.flush(lsm.FlushType.MEMTABLE)
    case.log._db.drop_cached()


def nearly_full(case: Case) -> None:
    """The next batch is the last one of a memtable, a log object and a segment."""
    while case.log._db._engine.writer.unflushed_bytes < 4096 - 240:
        case.append()


def out_of_sequences(case: Case) -> None:
    some(case)
    sequences = case.log._writer._sequences
    sequences._usable, sequences._ahead = sequences.next + len(KEYS), None
    sequences._low = 1 << 20


def trapped_append(case: Case, trap: Interrupter) -> None:
    case.append(lambda batch: trap.run(lambda: case.log.try_append(batch)))


SCENES: dict[str, tuple[Callable[[Case], None], Callable[[Case, Interrupter], Any]]] = {
    "first append": (nothing_yet, trapped_append),
    "append": (some, trapped_append),
    "append_timeout": (
        some,
        lambda case, trap: case.append(lambda batch: trap.run(lambda: case.log.append_timeout(batch, 5))),
    ),
    "append that freezes": (nearly_full, trapped_append),
    "append that reserves": (
        out_of_sequences,
        lambda case, trap: case.append(lambda batch: trap.run(lambda: case.log.append_timeout(batch, 5))),
    ),
    "flush": (some, lambda case, trap: trap.run(case.flush)),
    "flush to tables": (some, lambda case, trap: trap.run(lambda: case.log._db.flush(lsm.FlushType.MEMTABLE))),
    "seal": (some, lambda case, trap: trap.run(case.log.seal_segment)),
    "read": (some, lambda case, trap: trap.run(lambda: rows_of(case.log))),
    "read tables": (in_tables, lambda case, trap: trap.run(lambda: rows_of(case.log))),
    "list": (in_tables, lambda case, trap: trap.run(lambda: list(case.log.list_keys()) + case.log.list_segments())),
    "close": (some, lambda case, trap: trap.run(case.log.close)),
}


def interrupted(name: str, at: int | None, error: type[BaseException]) -> Interrupter:
    """Run one case from beginning to end. Raises its failure."""
    prepare, act = SCENES[name]
    case = Case()
    prepare(case)
    trap = Interrupter(at, error)
    try:
        act(case, trap)
    except (error, Error, lsm.Error) as raised:
        assert trap.has_fired, f"{name}: {raised!r} without an interrupt"
    is_well = go_on(case)
    check(case, is_well)
    return trap


def go_on(case: Case) -> bool:
    """Return whether the handle still works. It may refuse a call only with an error of the library."""
    is_well = True
    calls: list[Callable[[], Any]] = [
        case.append,
        case.flush,
        lambda: check_read(case, rows_of(case.log)),
        case.append,
        case.flush,
    ]
    for call in calls:
        try:
            call()
        except Error as error:
            assert str(error)
            is_well = False
    try:
        case.log.close()
    except Error:
        is_well = False
    case.log.close()
    with pytest.raises(Error):
        case.log.try_append([(b"a", b"late")])
    return is_well


def check_read(case: Case, found: list[Row], *, after: int = SEQUENCE_MAX) -> None:
    """All rows acknowledged below `after`, and whole batches in doubt, in order, and no other rows."""
    here = {sequence: (key, value) for sequence, key, value in found}
    assert len(here) == len(found)
    for sequence, key, value in case.expected():
        if sequence < after:
            assert here.get(sequence) == (key, value), f"sequence {sequence}"
        here.pop(sequence, None)
    left = sorted((sequence, key, value) for sequence, (key, value) in here.items())
    while left:
        first = left[0][0]
        batch = next((b for b in case.doubtful if b == [(k, v) for _, k, v in left[: len(b)]]), None)
        assert batch is not None, f"part of a batch, or one that nobody appended: {left}"
        assert [sequence for sequence, _, _ in left[: len(batch)]] == list(range(first, first + len(batch)))
        left = left[len(batch) :]


def check(case: Case, is_well: bool) -> None:
    told = max((first + len(batch) for first, batch in case.known.items()), default=0)
    case.log = case.open()
    found = rows_of(case.log)
    check_read(case, found, after=SEQUENCE_MAX if is_well else case.durable)
    if not is_well:
        here = {sequence for sequence, _, _ in found}
        case.known = {first: batch for first, batch in case.known.items() if first in here}
    case.append()
    assert max(case.known) >= told, "a sequence was given twice"
    case.flush()
    check_read(case, rows_of(case.log))
    case.log.close()


def in_time(name: str, at: int | None, error: type[BaseException]) -> Interrupter:
    """Run the case in its own thread, which must end."""
    told: list[Any] = []

    def run() -> None:
        try:
            told.append(interrupted(name, at, error))
        except BaseException as failure:
            told.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS_MAX)
    assert told, f"{name}: hangs after {error.__name__} at line {at}"
    if isinstance(told[0], BaseException):
        raise AssertionError(f"{name}: {error.__name__} at line {at}") from told[0]
    found: Interrupter = told[0]
    return found


def interrupt_at(name: str, error: type[BaseException], most: int | None) -> None:
    """At every point, or at `most` of them."""
    # Threads in the background change how many points there are: those of a short run are there in most.
    points = min(in_time(name, None, error).points for _ in range(1 if most is None else 3))
    fired = 0
    for at in range(1, points + 1, 1 if most is None else max(1, points // most)):
        fired += in_time(name, at, error).has_fired
    assert fired > min(20, points // 2)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("name", SCENES)
def test_interrupted_at_many_points_it_goes_on_or_says_why_not(name: str, error: type[BaseException]) -> None:
    interrupt_at(name, error, 30)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("name", SCENES)
def test_interrupted_at_every_point_it_goes_on_or_says_why_not(name: str, error: type[BaseException]) -> None:
    interrupt_at(name, error, None)


def test_a_close_that_was_interrupted_is_finished_by_the_next_one() -> None:
    before = set(engine_threads())
    for at in range(1, in_time("close", None, KeyboardInterrupt).points, 97):
        case = Case()
        some(case)
        with contextlib.suppress(KeyboardInterrupt, Error):
            Interrupter(at, KeyboardInterrupt).run(case.log.close)
        with contextlib.suppress(Error):
            case.log.close()
        assert [one for one in engine_threads() if one not in before and not one.name.startswith("lsm-io")] == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_scan_that_was_interrupted_while_it_sorted_is_right_the_next_time(error: type[BaseException]) -> None:
    wanted = [(b"%03d" % at, b"x") for at in range(40)]
    for at in range(1, 400, 3):
        with open_plain(MemoryStore(), tiny()) as db:
            for key, value in reversed(wanted):
                db.put(key, value)
                if key == b"020":
                    assert len(list(db.scan())) == 20
            with contextlib.suppress(error):
                Interrupter(at, error, (*PRODUCT, sortedcontainers.__path__[0])).run(lambda db=db: list(db.scan()))
            assert [tuple(row) for row in db.scan()] == wanted


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_rows_that_were_being_grouped_when_it_was_interrupted_are_all_there(error: type[BaseException]) -> None:
    def appended(rows: SeriesRows, first: int) -> None:
        rows.append([b"a", b"b", b"a"], first, [b"%d" % (first + at) for at in range(3)])

    trap = Interrupter(None, error)
    at = 0
    while trap.has_fired or not at:
        at += 1
        rows = SeriesRows(b"f", Runtime())
        appended(rows, 0)
        appended(rows, 3)
        trap = Interrupter(at, error)
        with contextlib.suppress(error):
            trap.run(lambda rows=rows: rows.rows(b"a", 0, 6))
        appended(rows, 6)
        assert rows.rows(b"a", 0, 9) == ([0, 2, 3, 5, 6, 8], [b"0", b"2", b"3", b"5", b"6", b"8"]), trap.where
        assert rows.rows(b"b", 0, 9)[0] == [1, 4, 7]
    assert at > 20


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_load_that_was_interrupted_is_begun_anew_by_the_next_reader(error: type[BaseException]) -> None:
    class Nothing:
        def peek(self, key: object) -> None:
            return None

        def put(self, key: object, value: object, weight: int) -> None:
            return None

    trap = Interrupter(None, error)
    at = 0
    while trap.has_fired or not at:
        at += 1
        loads: Any = Loads(Runtime())
        trap = Interrupter(at, error)
        with contextlib.suppress(error):
            trap.run(lambda loads=loads: loads.get(Nothing(), b"key", lambda: (1, 1)))
        told: list[int] = []
        again = threading.Thread(
            target=lambda loads=loads, told=told: told.append(loads.get(Nothing(), b"key", lambda: (2, 1))), daemon=True
        )
        again.start()
        again.join(SECONDS_MAX)
        assert told == [2], trap.where
    assert at > 15
