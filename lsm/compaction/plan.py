"""What a compaction is, and the rules that every proposal of every scheduler must keep. Pure.

docs/protocol.md, rules C1 to C6. Source: SlateDB's engine checks less: a custom scheduler can skip an older level-0 table and
lose it. Here the engine refuses such a proposal before the job, and again at its commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, Protocol

import msgspec

from lsm.checks import shown
from lsm.errors import InvalidError
from lsm.manifest.model import Manifest, Partition, Run
from lsm.sst.builder import TableInfo

LEVEL_MAX: Final = 1 << 62
"""Maximum level; the minimum is -LEVEL_MAX. Levels are stored in 64 bits, and policies may count up or down from any."""


class CompactionSpec(msgspec.Struct, frozen=True):
    """Merge these tables of one partition into the run of level `target`, which is created if it is missing.

    `l0`: numbers of level-0 tables. `tables`: numbers of tables in runs. `is_drain`: drop the partition with all its rows
    instead; no table is read or written, and `l0` and `tables` name every table of the partition.
    """

    prefix: bytes
    l0: tuple[int, ...]
    tables: tuple[int, ...]
    target: int
    is_drain: bool = False

    @classmethod
    def drain(cls, partition: Partition) -> CompactionSpec:
        """Return the proposal to drop the partition. It is refused if the partition has changed when it is carried out."""
        in_runs = tuple(table.number for run in partition.runs for table in run.tables)
        return cls(partition.prefix, tuple(table.number for table in partition.l0), in_runs, 0, is_drain=True)

    @property
    def numbers(self) -> frozenset[int]:
        return frozenset(self.l0) | frozenset(self.tables)


class CompactionScheduler(Protocol):
    """Decides what to compact. Pure: called with the current manifest and the numbers of the tables that running jobs work on.

    A proposal that names such a table is ignored, except for a drain, which ends the jobs of its partition.
    """

    def propose(self, manifest: Manifest, busy: frozenset[int]) -> Sequence[CompactionSpec]: ...


class Sources(msgspec.Struct, frozen=True):
    """A checked proposal: its groups of tables, newest group first, each sorted by key. A drain has no groups.

    `is_bottom`: no older row in their range lies below them. `is_in_place`: all tables are in the target run already, so the
    proposal can only mean to rewrite them.
    """

    groups: tuple[tuple[TableInfo, ...], ...]
    is_bottom: bool
    is_in_place: bool = False

    @property
    def tables(self) -> list[TableInfo]:
        return [table for group in self.groups for table in group]


def check_form(spec: object) -> CompactionSpec:
    """Check the types of a proposal, because its fields are stored with the claim; return it. Raises: InvalidError."""
    if not isinstance(spec, CompactionSpec):
        raise InvalidError(f"a scheduler proposes CompactionSpec, got {shown(spec)}")
    numbers = (spec.l0, spec.tables)
    if (
        type(spec.prefix) is not bytes
        or type(spec.target) is not int
        or type(spec.is_drain) is not bool
        or not all(type(each) is tuple and list(map(type, each)).count(int) == len(each) for each in numbers)
    ):
        raise InvalidError(
            f"a CompactionSpec is made of bytes, two tuples of table numbers, an int and a bool, got {shown(spec)}"
        )
    return spec


def check_spec(manifest: Manifest, spec: CompactionSpec) -> Sources:
    """Check that a proposal keeps every row and the order of rows, and return its tables. A drain must name all tables of its
    partition.

    Raises: InvalidError that names the broken rule.
    """
    partition = manifest.partition(spec.prefix)
    if partition is None:
        raise InvalidError(f"compaction of partition {spec.prefix!r}: there is no such partition")
    if not spec.l0 and not spec.tables:
        raise InvalidError("a compaction needs at least one source")
    if spec.is_drain:
        _check_drain(partition, spec)
        return Sources((), is_bottom=True)
    if abs(spec.target) > LEVEL_MAX:
        raise InvalidError(f"target level {spec.target} is out of range: at most {LEVEL_MAX} from zero")
    l0 = [table for table in partition.l0 if table.number in spec.l0]
    if len(l0) != len(spec.l0) or [table.number for table in partition.l0[len(partition.l0) - len(l0) :]] != [
        table.number for table in l0
    ]:
        # Rule C1: an older level-0 table that is left out would seem newer than the merged ones.
        raise InvalidError(f"level-0 sources {spec.l0} are not the oldest of partition {spec.prefix!r}")
    in_runs = [tuple(table for table in run.tables if table.number in spec.tables) for run in partition.runs]
    if sum(map(len, in_runs)) != len(spec.tables):
        raise InvalidError(f"tables {spec.tables} are not all in runs of partition {spec.prefix!r}")
    chosen = [*l0, *(table for tables in in_runs for table in tables)]
    _check_runs(partition, spec, l0, in_runs)
    low, high = _range(chosen, whole_series=False)
    below = [run for run in partition.runs if run.level > spec.target]
    is_bottom = not any(_touches(run.tables, low, high) for run in below)
    groups = [*((table,) for table in l0), *(tables for tables in in_runs if tables)]
    is_in_place = not l0 and all(run.level == spec.target for run, tables in zip(partition.runs, in_runs) if tables)
    return Sources(tuple(groups), is_bottom, is_in_place)


def _check_drain(partition: Partition, spec: CompactionSpec) -> None:
    """Rule C6. Table numbers are never reused, so equal numbers mean that the partition is the one the scheduler saw."""
    if not partition.prefix:
        raise InvalidError("the whole database cannot be drained: only a partition of a prefix extractor can")
    named = sorted((*spec.l0, *spec.tables))
    if named != sorted(table.number for table in partition.tables()):
        raise InvalidError(
            f"the drain of partition {partition.prefix!r} names other tables than it has: it would drop rows its "
            "scheduler did not know of, or leave some behind"
        )


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
        # Rule C2: rows must not move past others of the same keys or series, and outputs must not overlap their new
        # neighbours. Checked range: the rows moving down into this level; at the target, all sources.
        left_out = [table for table in run.tables if table.number not in spec.tables]
        if moved and _touches(left_out, *_range(moved, whole_series=_holds_series(partition, run, spec.target))):
            raise InvalidError(f"level {run.level} has tables in the range of the sources that are not sources")
        if run.level < spec.target:
            if partition.series_ends and tables != run.tables[: len(tables)]:
                # Rule C5: within a series, deeper tables hold smaller numbers.
                raise InvalidError(f"the sources in level {run.level} are not its first tables, and it holds series")
            moved += tables


def _holds_series(partition: Partition, run: Run, target: int) -> bool:
    """Whether rows on their way down to the target may pass earlier rows of their series in this run."""
    return bool(partition.series_ends) and run.level < target


def _range(tables: Iterable[TableInfo], *, whole_series: bool) -> tuple[bytes, bytes]:
    """Return the first and last key of the tables. `whole_series`: extended to the bounds of their series."""
    tables = list(tables)
    if whole_series:
        # A row's number is the last eight bytes of its key. Keys of rows in no series make the range larger than necessary.
        return min(each.first_key[:-8] for each in tables), max(each.last_key[:-8] + b"\xff" * 8 for each in tables)
    return min(each.first_key for each in tables), max(each.last_key for each in tables)


def _touches(tables: Sequence[TableInfo], low: bytes, high: bytes) -> bool:
    return bool(_within(tables, low, high))


def with_compaction(manifest: Manifest, spec: CompactionSpec, outputs: Sequence[TableInfo], *, moved: bool) -> Manifest:
    """Return the manifest with the sources replaced by the outputs. Raises: InvalidError: the sources are gone or changed."""
    check_spec(manifest, spec)
    if not moved and any(manifest.is_given_up(table.number) for table in outputs):
        # Rule G2: tables at or below the horizon may have been deleted.
        raise InvalidError("the outputs were built too long ago and may be collected")
    partition = manifest.partition(spec.prefix)
    assert partition is not None
    if spec.is_drain:
        return manifest.with_partition(Partition(spec.prefix))
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


FIRST_LEVEL: Final = 1 << 32
"""Level of the first run under a policy that only adds runs on top. Each newer run goes one level above the last."""


def level_above(partition: Partition) -> int:
    """Return the level of a new run above all others."""
    return partition.runs[0].level - 1 if partition.runs else FIRST_LEVEL


def merge_spec(partition: Partition, l0: Iterable[TableInfo], runs: Iterable[Run], *, target: int) -> CompactionSpec:
    """Propose to merge these level-0 tables and all tables of these runs into the run of level `target`."""
    in_runs = tuple(table.number for run in runs for table in run.tables)
    return CompactionSpec(partition.prefix, tuple(table.number for table in l0), in_runs, target)


def is_busy(partition: Partition, busy: frozenset[int]) -> bool:
    """Whether a running job works on any table of the partition."""
    return bool(busy) and any(table.number in busy for table in partition.tables())


def is_level0_busy(partition: Partition, busy: frozenset[int]) -> bool:
    """Whether a running job works on level 0 of the partition. If so, rule C1 lets no other job take tables from it."""
    return any(table.number in busy for table in partition.l0)


def level0_on_top(partition: Partition, busy: frozenset[int], *, l0_min: int, l0_max: int) -> CompactionSpec | None:
    """Propose to shrink level 0 beside a job that works on the runs: with `l0_min` tables, its oldest tables (up to
    `l0_max`) become a run above all others. The jobs cannot conflict, because all tables of the running job lie below that
    run."""
    if len(partition.l0) < l0_min or is_level0_busy(partition, busy):
        return None
    return merge_spec(partition, partition.l0[-l0_max:], (), target=level_above(partition))


def overlapping(sources: Iterable[TableInfo], run: Sequence[TableInfo]) -> list[TableInfo]:
    """Return the tables of a run that are in the range of the sources."""
    return _within(run, *_range(sources, whole_series=False))


def _within(run: Sequence[TableInfo], low: bytes, high: bytes) -> list[TableInfo]:
    return [table for table in run if table.first_key <= high and table.last_key >= low]


def compact_range(
    manifest: Manifest, low: bytes | None, high: bytes | None, busy: frozenset[int] = frozenset()
) -> list[CompactionSpec]:
    """Propose to merge all rows in [low, high) into one run per partition, without deletes.

    Returns one job per partition, and none for a partition that needs none or has a running job. Call it again after the jobs:
    deletes may need a second one. After that it returns nothing, unless rows arrived or an open snapshot kept deletes.
    """
    found = []
    for partition in manifest.partitions_for(low, high):
        spec = None if is_busy(partition, busy) else _compact_range(partition, low, high)
        if spec is not None:
            found.append(spec)
    return found


def _compact_range(partition: Partition, low: bytes | None, high: bytes | None) -> CompactionSpec | None:
    # Rule C1: all level-0 tables older than one in the range must be sources, too.
    newest = next((at for at, table in enumerate(partition.l0) if table.overlaps(low, high)), len(partition.l0))
    l0 = partition.l0[newest:]
    wanted = [table for run in partition.runs for table in run.tables_for(low, high)]
    if not l0 and not wanted:
        return None
    depths = [run.level for run in partition.runs if run.tables_for(low, high)]
    target = max(depths) if depths else partition.runs[0].level if partition.runs else 1
    if not l0 and len(depths) == 1:
        below = (run for run in partition.runs if run.level > target)
        if not any(table.tombstones for table in wanted) or any(overlapping(wanted, run.tables) for run in below):
            return None  # The rows are in one run already, and no delete could be dropped.
    chosen = {table.number for table in wanted}
    while True:
        grown = _closed(partition, l0, chosen, target)
        if grown == chosen:
            break
        chosen = grown
    tables = tuple(table.number for run in partition.runs for table in run.tables if table.number in chosen)
    return CompactionSpec(partition.prefix, tuple(table.number for table in l0), tables, target)


def _closed(partition: Partition, l0: Sequence[TableInfo], chosen: set[int], target: int) -> set[int]:
    """Return the chosen tables and the tables that rules C2 and C5 require with them, from the top down."""
    moved = list(l0)
    grown: set[int] = set()
    for run in partition.runs:
        if run.level > target:
            break
        tables = [table for table in run.tables if table.number in chosen]
        reaching = [*moved, *tables] if run.level == target else moved
        if reaching:
            whole_series = _holds_series(partition, run, target)
            tables += _within(run.tables, *_range(reaching, whole_series=whole_series))
        if partition.series_ends and run.level < target and tables:
            last = max(table.first_key for table in tables)
            tables = [table for table in run.tables if table.first_key <= last]
        grown |= {table.number for table in tables}
        moved += tables
    return grown


def is_move(sources: Sources) -> bool:
    """Whether changing the manifest is enough: the sources are disjoint, are not all in the target run already, and have no
    delete that can be dropped at the bottom. True for a drain."""
    if sources.is_in_place or (sources.is_bottom and any(table.tombstones for table in sources.tables)):
        return False
    tables = sorted(sources.tables, key=lambda table: table.first_key)
    return all(one.last_key < two.first_key for one, two in pairwise(tables))
