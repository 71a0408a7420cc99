"""The process dies at every single store call of a scenario, three ways; what was promised is there afterwards.

One run without a crash counts the calls; then every call is the last one once before it is sent, once applied with its
reply lost, and once answered. After each death the database is opened on what the store holds, checked, written to, closed,
opened and checked again.
"""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest

import lsm
from lsm.object_store import MemoryStore
from tests.doubles import CrashAt, CrashingStore, SimulatedCrash
from tests.lsm.support import FAMILIES, abandon, append, open_db, read_rows, read_series, series_rows, tiny

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
SETTINGS = tiny(op_timeout=0.5, l0_sst_size_bytes=1 << 20, compaction_enabled=True)


class Scenario:
    """A fixed history. `accepted[i]` is the content after batch i; `durable` how many of them were promised."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.series: dict[tuple[bytes, bytes], list[tuple[int, bytes]]] = {}
        self.numbers = dict.fromkeys(FAMILIES, 0)
        self.accepted: list[dict[bytes, bytes]] = [{}]
        self.durable = 0
        self.causes: Counter[tuple[str, str]] = Counter()

    def run(self, store: CrashingStore) -> None:
        for turn in range(3):
            db = open_db(store, SETTINGS)
            try:
                self._work(db, turn)
                db.close()
                self.durable = len(self.accepted) - 1
            finally:
                self.causes.update(row for row, n in db.status().requests.items() for _ in range(n.requests))
                abandon(db)

    def _work(self, db: lsm.Db, turn: int) -> None:
        for at in range(3):
            self.put(db, b"p0k%d" % at, b"turn %d" % turn)
        self.put(db, b"p2z", b"x" * 500)
        self.flush(db, lsm.FlushType.WAL)
        self.append(db, turn, 6)
        self.flush(db, lsm.FlushType.MEMTABLE)
        self.write(db, {b"p0k0": None, b"p0A": b"%d" % turn, b"p1A": b"both"})
        self.flush(db, lsm.FlushType.WAL)
        with db.snapshot():
            self.append(db, turn, 3)
            self.put(db, b"p0k1", b"again")
            self.flush(db, lsm.FlushType.MEMTABLE)
            db.wait_idle(20)
            assert list(db.scan(b"p0k"))  # Reads are store calls, too.
        db.collect_garbage(min_age=0)
        self.put(db, b"p1k", b"last of %d" % turn)

    def put(self, db: lsm.Db, key: bytes, value: bytes) -> None:
        self.write(db, {key: value})

    def write(self, db: lsm.Db, changes: dict[bytes, bytes | None]) -> None:
        batch = lsm.WriteBatch()
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
                self.rows.pop(key, None)
            else:
                batch.put(key, value)
                self.rows[key] = value
        self._accept()
        db.write(batch)

    def append(self, db: lsm.Db, turn: int, count: int) -> None:
        family = FAMILIES[turn % 2]
        rows = [(b"s%d" % (at % 2), b"%d of %d" % (at, turn)) for at in range(count)]
        first = self.numbers[family]
        for number, (name, value) in enumerate(rows, first):
            self.series.setdefault((family, name), []).append((number, value))
        self.numbers[family] = first + count
        self._accept()
        append(db, family, rows, first)

    def _accept(self) -> None:
        self.accepted.append({**self.rows, **series_rows(self.series)})

    def flush(self, db: lsm.Db, kind: lsm.FlushType) -> None:
        db.flush(kind)
        self.durable = len(self.accepted) - 1


class RemoteStore(MemoryStore):
    """Asked by the probe as a server is."""

    decides_itself = False


def counted() -> tuple[int, Counter[tuple[str, str]], list[tuple[str, str]]]:
    store = CrashingStore(RemoteStore())
    scenario = Scenario()
    scenario.run(store)
    return store.calls, scenario.causes, store.log


CALLS, CAUSES, LOG = counted()


def check(memory: MemoryStore, scenario: Scenario, where: str) -> None:
    with open_db(memory, SETTINGS) as db:
        found = dict(read_rows(db))
        allowed = scenario.accepted[scenario.durable :]
        assert found in allowed, f"{where}: not a prefix that holds every promise"
        db.put(b"p0after", b"crash").await_durable()
        found[b"p0after"] = b"crash"
        for family in FAMILIES[:2]:
            rows = [row for name in (b"s0", b"s1") for row in read_series(db, family, name)]
            next_number = max((number for number, _ in rows), default=-1) + 1
            append(db, family, [(b"s0", b"new")], next_number)
            found.update(series_rows({(family, b"s0"): [(next_number, b"new")]}))
        db.wait_idle(20)
        db.collect_garbage(min_age=0)
        assert dict(read_rows(db)) == found, where
    with open_db(memory, SETTINGS) as db:
        assert dict(read_rows(db)) == found, where


def test_runs_through_every_kind_of_call() -> None:
    kinds = {cause for _, cause in CAUSES}
    objects = {(call, name.split("/")[0]) for call, name in LOG}

    assert {"open", "manifest", "wal", "flush", "compaction", "gc", "read", "probe"} <= kinds
    assert {(call, kind) for call in ("put_if_absent", "delete") for kind in ("manifest", "wal", "sst")} <= objects
    assert CALLS > 100


@pytest.mark.parametrize("how", CrashAt, ids=lambda how: how.name.lower())
@pytest.mark.parametrize("part", range(4))
def test_keeps_every_promise_after_a_crash_at(how: CrashAt, part: int) -> None:
    crashed = 0

    for at in range(1 + part, CALLS + 1, 4):
        memory = RemoteStore()
        store = CrashingStore(memory, at, how)
        scenario = Scenario()
        with contextlib.suppress(lsm.Error, SimulatedCrash):
            scenario.run(store)
        crashed += store.is_dead
        call, name = store.log[at - 1] if len(store.log) >= at else ("none", "")
        store.kill()
        check(memory, scenario, f"call {at} of {CALLS} ({call} {name}), {how.value}")

    # Background threads may need a call or two less than when they were counted.
    assert crashed >= (CALLS - 8) // 4
