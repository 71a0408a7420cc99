"""What a compaction is, and the rules every proposal must keep, whoever proposes it. Pure.

docs/protocol.md, rules C1 to C4. Source: SlateDB checks less than this in its engine: a custom scheduler of its can skip
an older level-0 table and lose it. Here the engine refuses such a proposal before the job and again at its commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol

import msgspec

from lsm.errors import InvalidError
from lsm.manifest.model import Manifest, Partition, Run
from lsm.sst.builder import TableInfo


class CompactionSpec(msgspec.Struct, frozen=True):
    """Merge these tables of one partition into the run of level `target` (made if there is none).

    `l0`: numbers of level-0 tables; `tables`: numbers of tables in runs.
    """

    prefix: bytes
    l0: tuple[int, ...]
    tables: tuple[int, ...]
    target: int

    @property
    def numbers(self) -> frozenset[int]:
        return frozenset(self.l0) | frozenset(self.tables)


class CompactionScheduler(Protocol):
    """Decides what to compact. Pure: called with the current manifest and the tables running jobs work on."""

    def propose(self, manifest: Manifest, busy: frozenset[int]) -> Sequence[CompactionSpec]: ...


class Sources(msgspec.Struct, frozen=True):
    """A checked proposal: its sorted groups of tables, newest first, and whether nothing older lies below them."""

    groups: tuple[tuple[TableInfo, ...], ...]
    is_bottom: bool

    @property
    def tables(self) -> list[TableInfo]:
        return [table for group in self.groups for table in group]


def check_spec(manifest: Manifest, spec: CompactionSpec) -> Sources:
    """The tables a proposal names, if carrying it out keeps every row and their order.

    Raises: InvalidError saying which rule it breaks.
    """
    partition = manifest.partition(spec.prefix)
    if partition is None:
        raise InvalidError(f"compaction of partition {spec.prefix!r}: there is no such partition")
    if not spec.l0 and not spec.tables:
        raise InvalidError("a compaction needs at least one source")
    l0 = [table for table in partition.l0 if table.number in spec.l0]
    if len(l0) != len(spec.l0) or [table.number for table in partition.l0[len(partition.l0) - len(l0) :]] != [
        table.number for table in l0
    ]:
        # Rule C1: a level-0 table that stays behind older ones would come out newer than it is.
        raise InvalidError(f"level-0 sources {spec.l0} are not the oldest of partition {spec.prefix!r}")
    in_runs = [tuple(table for table in run.tables if table.number in spec.tables) for run in partition.runs]
    if sum(map(len, in_runs)) != len(spec.tables):
        raise InvalidError(f"tables {spec.tables} are not all in runs of partition {spec.prefix!r}")
    chosen = [*l0, *(table for tables in in_runs for table in tables)]
    _check_runs(partition, spec, l0, in_runs)
    low = min(table.first_key for table in chosen)
    high = max(table.last_key for table in chosen)
    below = [run for run in partition.runs if run.level > spec.target]
    is_bottom = not any(_touches(run.tables, low, high) for run in below)
    groups = [*((table,) for table in l0), *(tables for tables in in_runs if tables)]
    return Sources(tuple(groups), is_bottom)


def _check_runs(
    partition: Partition, spec: CompactionSpec, l0: Sequence[TableInfo], in_runs: Sequence[tuple[TableInfo, ...]]
) -> None:
    moved = list(l0)
    for run, tables in zip(partition.runs, in_runs, strict=True):
        if run.level > spec.target:
            if tables:
                raise InvalidError(f"source level {run.level} is below the target level {spec.target}")
            continue
        if run.level == spec.target:
            moved += tables
        # Rule C2: rows may not be moved past others of the same keys, and outputs may not overlap their new neighbours;
        # the range is that of everything that gets to this level from above, and at the target of all sources.
        left_out = [table for table in run.tables if table.number not in spec.tables]
        if moved and _touches(
            left_out, min(table.first_key for table in moved), max(table.last_key for table in moved)
        ):
            raise InvalidError(f"level {run.level} has tables in the range of the sources that are not sources")
        if run.level < spec.target:
            if partition.series_ends and tables != run.tables[: len(tables)]:
                # Rule C5: of a series, a deeper table holds the smaller numbers.
                raise InvalidError(f"the sources in level {run.level} are not its first tables, and it holds series")
            moved += tables


def _touches(tables: Iterable[TableInfo], low: bytes, high: bytes) -> bool:
    return any(table.first_key <= high and table.last_key >= low for table in tables)


def with_compaction(manifest: Manifest, spec: CompactionSpec, outputs: Sequence[TableInfo], *, moved: bool) -> Manifest:
    """The manifest with the sources replaced by the outputs. Raises: InvalidError: the sources are gone or changed."""
    check_spec(manifest, spec)
    if not moved and any(manifest.is_given_up(table.number) for table in outputs):
        # Rule G2: numbers at or below the horizon may be deleted already.
        raise InvalidError("the outputs were built too long ago and may be collected")
    partition = manifest.partition(spec.prefix)
    assert partition is not None
    gone = spec.numbers
    runs = {run.level: [table for table in run.tables if table.number not in gone] for run in partition.runs}
    runs.setdefault(spec.target, []).extend(outputs)
    return manifest.with_partition(
        msgspec.structs.replace(
            partition,
            l0=tuple(table for table in partition.l0 if table.number not in gone),
            runs=tuple(
                Run(level, tuple(sorted(tables, key=lambda table: table.first_key)))
                for level, tables in sorted(runs.items())
                if tables
            ),
        )
    )


def is_move(sources: Sources) -> bool:
    """Whether the sources are disjoint, so that relinking them is enough."""
    tables = sorted(sources.tables, key=lambda table: table.first_key)
    return all(one.last_key < two.first_key for one, two in pairwise(tables))
