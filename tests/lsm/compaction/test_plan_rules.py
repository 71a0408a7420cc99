"""Whatever is proposed, by whoever: what the engine accepts keeps every row, and the order of every series.

A tree grows by flushes and by whatever proposals of a reckless scheduler get through the check, several at a time. After
every commit all rows are read as the engine reads them, from a model of the tables' contents.
"""

from __future__ import annotations

import itertools
import random
from typing import NamedTuple

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from lsm.compaction.plan import CompactionSpec, Sources, check_spec, compact_range, is_move, with_compaction
from lsm.errors import InvalidError
from lsm.manifest.model import Manifest, Partition
from lsm.sst.builder import TableInfo

PREFIX = b"p"
KEYS = [b"p%02d" % at for at in range(24)]
NAMES = 5
seeds = st.integers(0, 1 << 32)


class Row(NamedTuple):
    key: bytes
    is_delete: bool
    seq: int


class Job(NamedTuple):
    spec: CompactionSpec
    outputs: list[TableInfo]
    moved: bool


class Model:
    """One partition, what its tables hold, and what a reader must see."""

    def __init__(self, chance: random.Random, *, is_series: bool) -> None:
        self.chance = chance
        self.is_series = is_series
        self.manifest = Manifest(1, b"d" * 16)
        self.rows: dict[int, list[Row]] = {}
        self.truth: dict[bytes, int] = {}
        self.numbers = itertools.count(1)
        self.seqs = itertools.count(1)
        self.jobs: list[Job] = []
        self.accepted = 0

    @property
    def partition(self) -> Partition:
        return self.manifest.partition(PREFIX) or Partition(PREFIX)

    # -- what happens -----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        if self.is_series:
            # Few names at a time, so that tables of a run may hold one name's numbers next to each other.
            names = self.chance.sample(range(NAMES), self.chance.randint(1, NAMES))
            written = []
            for _ in range(self.chance.randint(1, 6)):
                number = next(self.seqs)
                written.append(Row(b"p%d-%08d" % (self.chance.choice(names), number), False, number))
        else:
            keys = self.chance.sample(KEYS, self.chance.randint(1, 6))
            written = [Row(key, self.chance.random() < 0.3, next(self.seqs)) for key in keys]
        for row in written:
            self.truth.pop(row.key, None)
            if not row.is_delete:
                self.truth[row.key] = row.seq
        new = tuple(self._tables(sorted(written), parts=1))
        partition = self.partition
        ends = ((PREFIX, 1),) if self.is_series else ()
        self.manifest = self.manifest.with_partition(
            msgspec.structs.replace(partition, l0=(*new, *partition.l0), series_ends=ends)
        )

    def start(self, spec: CompactionSpec) -> None:
        busy = {number for job in self.jobs for number in job.spec.numbers}
        if spec.is_drain or spec.numbers & busy:
            return
        try:
            sources = check_spec(self.manifest, spec)
        except InvalidError:
            return
        if is_move(sources):
            self.commit(Job(spec, sources.tables, True))
        else:
            self.jobs.append(Job(spec, self._merged(sources), False))

    def commit(self, job: Job) -> None:
        try:
            changed = with_compaction(self.manifest, job.spec, job.outputs, moved=job.moved)
        except InvalidError:
            return
        changed.check()
        self.manifest = changed
        self.accepted += 1
        self.verify()

    def _merged(self, sources: Sources) -> list[TableInfo]:
        newest: dict[bytes, Row] = {}
        for group in sources.groups:
            for table in group:
                for row in self.rows[table.number]:
                    newest.setdefault(row.key, row)
        kept = [row for row in newest.values() if not (row.is_delete and sources.is_bottom)]
        return list(self._tables(sorted(kept), parts=self.chance.randint(1, 4)))

    def _tables(self, rows: list[Row], *, parts: int) -> list[TableInfo]:
        cuts = sorted({0, len(rows), *(self.chance.randint(0, len(rows)) for _ in range(parts - 1))})
        found = []
        for start, end in itertools.pairwise(cuts):
            number, part = next(self.numbers), rows[start:end]
            self.rows[number] = part
            deletes = sum(row.is_delete for row in part)
            found.append(TableInfo(number, 100, len(part), part[0].key, part[-1].key, 0, 0, 100, deletes))
        return found

    # -- what is read -----------------------------------------------------------------------------------------------------

    def verify(self) -> None:
        if self.is_series:
            for name in range(NAMES):
                wanted = [key for key in sorted(self.truth) if key.startswith(b"p%d-" % name)]
                assert self._series(b"p%d-" % name) == wanted
        else:
            assert {key: seq for key in KEYS if (seq := self._get(key)) is not None} == self.truth

    def _get(self, key: bytes) -> int | None:
        for source in (*((table,) for table in self.partition.l0), *(run.tables for run in self.partition.runs)):
            for table in source:
                for row in self.rows[table.number]:
                    if row.key == key:
                        return None if row.is_delete else row.seq
        return None

    def _series(self, prefix: bytes) -> list[bytes]:
        """Oldest source first, nothing sorted: the order is the tree's."""
        sources = (
            *(run.tables for run in reversed(self.partition.runs)),
            *((each,) for each in self.partition.l0[::-1]),
        )
        return [
            row.key
            for source in sources
            for table in source
            for row in self.rows[table.number]
            if row.key.startswith(prefix)
        ]

    # -- reckless proposals -----------------------------------------------------------------------------------------------

    def proposal(self) -> CompactionSpec:
        """A lawful one, one that is lawful but for a table, or any."""
        low, high = sorted(self.chance.sample([None, *KEYS], 2), key=lambda key: key or b"")
        lawful = compact_range(self.manifest, low, high if self.chance.random() < 0.8 else None)
        partition = self.partition
        in_runs = [table.number for run in partition.runs for table in run.tables]
        levels = [run.level for run in partition.runs] or [1]
        target = self.chance.choice([*levels, levels[0] - 1, levels[-1] + 1, self.chance.randint(-1, 5)])
        if not lawful or self.chance.random() < 0.4:
            count = self.chance.randint(0, len(partition.l0))
            l0 = partition.l0[len(partition.l0) - count :]
            if self.chance.random() < 0.2:
                l0 = tuple(self.chance.sample(partition.l0, count))
            tables = self.chance.sample(in_runs, self.chance.randint(0, min(4, len(in_runs))))
            return CompactionSpec(PREFIX, tuple(each.number for each in l0), tuple(tables), target)
        spec = lawful[0]
        match self.chance.randrange(4):
            case 0 if spec.tables:
                left = self.chance.choice(spec.tables)
                spec = msgspec.structs.replace(spec, tables=tuple(each for each in spec.tables if each != left))
            case 1 if in_runs:
                spec = msgspec.structs.replace(spec, tables=tuple({*spec.tables, self.chance.choice(in_runs)}))
            case 2:
                spec = msgspec.structs.replace(spec, target=target)
        return spec


@given(seeds, st.booleans(), st.integers(5, 60))
@settings(max_examples=300, deadline=None)
def test_accepts_nothing_that_loses_or_reorders_rows(seed: int, is_series: bool, steps: int) -> None:
    chance = random.Random(seed)
    model = Model(chance, is_series=is_series)
    for _ in range(steps):
        match chance.randrange(5):
            case 0 | 1:
                model.flush()
                model.verify()
            case 2 | 3:
                model.start(model.proposal())
            case 4 if model.jobs:
                model.commit(model.jobs.pop(chance.randrange(len(model.jobs))))


@given(seeds, st.booleans())
@settings(max_examples=100, deadline=None)
def test_compacts_a_range_into_one_run_and_finds_nothing_more(seed: int, is_series: bool) -> None:
    chance = random.Random(seed)
    model = Model(chance, is_series=is_series)
    for _ in range(30):
        if chance.random() < 0.5:
            model.flush()
        else:
            model.start(model.proposal())
            for job in model.jobs:
                model.commit(job)
            model.jobs = []
    low, high = sorted(chance.sample(KEYS, 2))
    for _ in range(2):
        for spec in compact_range(model.manifest, low, high):
            check_spec(model.manifest, spec)  # Lawful by itself.
            before = model.accepted
            model.start(spec)
            for job in model.jobs:
                model.commit(job)
            model.jobs = []
            assert model.accepted == before + 1

    assert compact_range(model.manifest, low, high) == []
    overlapping = [
        *(each for each in model.partition.l0 if each.overlaps(low, high)),
        *(run.level for run in model.partition.runs if run.tables_for(low, high)),
    ]
    assert len(overlapping) <= 1


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_drains_only_what_is_named_whole(seed: int) -> None:
    model = Model(random.Random(seed), is_series=False)
    for _ in range(10):
        model.flush()
        model.start(model.proposal())
    drain = CompactionSpec.drain(model.partition)
    others = [
        msgspec.structs.replace(drain, l0=drain.l0[1:]),
        msgspec.structs.replace(drain, tables=(*drain.tables, 10**6)),
        msgspec.structs.replace(drain, l0=(*drain.l0, *drain.l0[:1])),
    ]
    for spec in others:
        if sorted((*spec.l0, *spec.tables)) != sorted((*drain.l0, *drain.tables)):
            try:
                with_compaction(model.manifest, spec, [], moved=True)
            except InvalidError:
                continue
            raise AssertionError(f"{spec} was accepted")
    assert with_compaction(model.manifest, drain, [], moved=True).partitions == ()
