"""The whole engine against dictionaries: Hypothesis chooses what is called, and in which order."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

import lsm
from lsm import FlushType, IterationOrder
from lsm.object_store import MemoryStore
from lsm.rows.chunk import series_key
from tests.lsm.support import (
    FAMILIES,
    PARTITIONS,
    append,
    open_db,
    read_names,
    read_rows,
    read_series,
    read_series_descending,
    series_rows,
    tiny,
)

keys = st.builds(
    lambda prefix, kind, rest: prefix + kind + rest,
    st.sampled_from(PARTITIONS),
    st.sampled_from([b"A", b"k", b"z"]),
    st.sampled_from([b"", b"\x00", b"\x01", b"\xff", b"\xff\xff", b"a", b"ab", b"b\x00", b"c", b"d"]),
)
bounds = st.one_of(st.none(), keys, st.sampled_from([b"\x00", b"p", b"p1", b"p1L", b"p1L\xff", b"p2L", b"q"]))
values = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([b"", b"v" * 300, bytes(range(256)) * 3]),
    st.integers(0, 9).map(lambda n: b"%d" % n),
)
names = st.sampled_from([b"a", b"a\x00", b"a\x01", b"b", b"\xff", b"\x00", b"long" * 20])
Model = tuple[dict[bytes, bytes], dict[tuple[bytes, bytes], list[tuple[int, bytes]]]]


class DbMachine(RuleBasedStateMachine):
    """Every rule does the same to the database and to the model."""

    snapshots = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.rows: dict[bytes, bytes] = {}
        self.series: dict[tuple[bytes, bytes], list[tuple[int, bytes]]] = {}
        self.ends = dict.fromkeys(FAMILIES, 0)

    @initialize(
        block=st.sampled_from([64, 96, 256]),
        compression=st.sampled_from(["zstd", None]),
        wal=st.sampled_from([True, True, True, False]),
        l0_bytes=st.sampled_from([600, 2048]),
        uploads=st.sampled_from([1, 4]),
    )
    def open(self, block: int, compression: str | None, wal: bool, l0_bytes: int, uploads: int) -> None:
        self.settings = tiny(
            sst_block_size=block,
            compression=compression,
            wal_enabled=wal,
            l0_sst_size_bytes=l0_bytes,
            wal_uploads_max=uploads,
        )
        self.db = open_db(self.store, self.settings)

    # -- writing ------------------------------------------------------------------------------------------------------

    @rule(key=keys, value=values)
    def put(self, key: bytes, value: bytes) -> None:
        self.db.put(key, value)
        self.rows[key] = value

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        self.db.delete(key)
        self.rows.pop(key, None)

    @rule(
        operations=st.lists(st.tuples(keys, st.one_of(st.none(), values)), min_size=1, max_size=12),
        appended=st.lists(st.tuples(names, values), max_size=4),
        family=st.sampled_from(FAMILIES),
    )
    def write(
        self, operations: list[tuple[bytes, bytes | None]], appended: list[tuple[bytes, bytes]], family: bytes
    ) -> None:
        batch = lsm.WriteBatch()
        for key, value in operations:
            if value is None:
                batch.delete(key)
                self.rows.pop(key, None)
            else:
                batch.put(key, value)
                self.rows[key] = value
        if appended:
            batch.append_series(
                family, [name for name, _ in appended], self.ends[family], [value for _, value in appended]
            )
            self._remember(family, appended, self.ends[family])
        self.db.write(batch)

    @rule(
        family=st.sampled_from(FAMILIES),
        rows=st.lists(st.tuples(names, values), min_size=1, max_size=30),
        gap=st.sampled_from([0, 0, 0, 1, 1000]),
    )
    def append(self, family: bytes, rows: list[tuple[bytes, bytes]], gap: int) -> None:
        first = self.ends[family] + gap
        append(self.db, family, rows, first)
        self._remember(family, rows, first)

    def _remember(self, family: bytes, rows: list[tuple[bytes, bytes]], first: int) -> None:
        for number, (name, value) in enumerate(rows, first):
            self.series.setdefault((family, name), []).append((number, value))
        self.ends[family] = first + len(rows)

    # -- the background, made to happen ---------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(FlushType))
    def flush(self, kind: FlushType) -> None:
        if kind is FlushType.WAL and not self.settings.wal_enabled:
            return
        self.db.flush(kind)

    @rule()
    def compact(self) -> None:
        self.db.flush(FlushType.MEMTABLE)
        assert self.db.wait_idle(30)

    @rule()
    def collect(self) -> None:
        self.db.collect_garbage(min_age=0)

    @rule()
    def reopen(self) -> None:
        self.db.close()
        self.db = open_db(self.store, self.settings)

    # -- reading --------------------------------------------------------------------------------------------------------

    def _expected(self, low: bytes | None, high: bytes | None) -> list[tuple[bytes, bytes]]:
        everything = {**self.rows, **series_rows(self.series)}
        return sorted(
            (key, value)
            for key, value in everything.items()
            if (low is None or key >= low) and (high is None or key < high)
        )

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        assert self.db.get(key) == self.rows.get(key)

    @rule(wanted=st.lists(keys, max_size=8))
    def get_many(self, wanted: list[bytes]) -> None:
        assert self.db.get_many(wanted) == [self.rows.get(key) for key in wanted]

    @rule(family=st.sampled_from(FAMILIES), name=names, at=st.integers(0, 40))
    def get_series_row(self, family: bytes, name: bytes, at: int) -> None:
        rows = dict(self.series.get((family, name), []))

        assert self.db.get(series_key(family, name, at)) == rows.get(at)

    @rule(low=bounds, high=bounds, order=st.sampled_from(IterationOrder))
    def scan(self, low: bytes | None, high: bytes | None, order: IterationOrder) -> None:
        if low is not None and high is not None and low > high:
            with pytest.raises(lsm.InvalidError):
                self.db.scan(low, high, order=order)
            return
        expected = self._expected(low, high)
        if order is IterationOrder.DESCENDING:
            expected.reverse()
        assert read_rows(self.db, low, high, order=order) == expected

    @rule(prefix=st.sampled_from([*PARTITIONS, b"p0k", b"p1A", b"p2L", b"p", b"x"]))
    def scan_prefix(self, prefix: bytes) -> None:
        found = [tuple(row) for row in self.db.scan_prefix(prefix) if row.key[2:3] != b"D"]

        assert found == [row for row in self._expected(None, None) if row[0].startswith(prefix)]

    @rule(first=st.integers(0, 5), goal=keys)
    def seek(self, first: int, goal: bytes) -> None:
        with self.db.scan() as rows:
            taken = rows.fetchmany(first)
            if taken and goal <= taken[-1].key:
                with pytest.raises(lsm.InvalidError):
                    rows.seek(goal)
                return
            rows.seek(goal)

            assert [tuple(row) for row in rows if row.key[2:3] != b"D"] == self._expected(goal, None)

    @rule(family=st.sampled_from(FAMILIES), name=names, low=st.integers(0, 60), length=st.integers(0, 60))
    def scan_and_count_series(self, family: bytes, name: bytes, low: int, length: int) -> None:
        expected = [row for row in self.series.get((family, name), []) if low <= row[0] < low + length]

        assert read_series(self.db, family, name, low, low + length) == expected
        assert read_series_descending(self.db, family, name, low, low + length) == expected[::-1]
        assert self.db.count_series(family, name, low, low + length) == len(expected)

    @rule(family=st.sampled_from(FAMILIES))
    def list_names(self, family: bytes) -> None:
        assert read_names(self.db, family) == sorted(name for found, name in self.series if found == family)

    # -- snapshots ------------------------------------------------------------------------------------------------------

    @rule(target=snapshots)
    def snapshot(self) -> tuple[lsm.Db, lsm.Snapshot, list[tuple[bytes, bytes]]]:
        return self.db, self.db.snapshot(), self._expected(None, None)

    @rule(entry=snapshots, key=keys)
    def read_snapshot(self, entry: tuple[lsm.Db, lsm.Snapshot, list[tuple[bytes, bytes]]], key: bytes) -> None:
        db, snapshot, expected = entry
        if db is not self.db:
            with pytest.raises(lsm.ClosedError):
                snapshot.get(key)
            return
        assert read_rows(snapshot) == expected
        assert snapshot.get(key) == dict(expected).get(key)

    @rule(entry=consumes(snapshots))
    def close_snapshot(self, entry: tuple[lsm.Db, lsm.Snapshot, list[tuple[bytes, bytes]]]) -> None:
        entry[1].close()

    @precondition(lambda self: hasattr(self, "db"))
    @invariant()
    def manifest_is_possible(self) -> None:
        self.db.manifest.check()

    def teardown(self) -> None:
        if hasattr(self, "db"):
            assert read_rows(self.db) == self._expected(None, None)
            self.db.close()
            with open_db(self.store, self.settings) as db:
                assert read_rows(db) == self._expected(None, None)
                for (family, name), rows in self.series.items():
                    assert read_series(db, family, name) == rows
                    assert read_series_descending(db, family, name) == rows[::-1]


TestDbMachine = DbMachine.TestCase
TestDbMachine.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
