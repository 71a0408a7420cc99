"""What a compaction is, and the rules every proposal must keep, whoever proposes it. Pure.

docs/protocol.md, rules C1 to C6. Source: SlateDB checks less than this in its engine: a custom scheduler of its can skip
an older level-0 table and lose it. Here the engine refuses such a proposal before the job and again at its commit.
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
"""Levels are stored as 64-bit numbers, and a policy may count up or down from any of them."""


class CompactionSpec(msgspec.Struct, frozen=True):
    """Merge these tables of one partition into the run of level `target` (made if there is none).

    `l0`: numbers of level-0 tables; `tables`: numbers of tables in runs. `is_drain`: drop the partition with all of its
    rows instead; nothing is read or written, and `l0` and `tables` name every table there is.
    """

    prefix: bytes
    l0: tuple[int, ...]
    tables: tuple[int, ...]
    target: int
    is_drain: bool = False

    @classmethod
    def drain(cls, partition: Partition) -> CompactionSpec:
        """Drop the partition, if it is still exactly this one when the proposal is carried out."""
        in_runs = tuple(table.number for run in partition.runs for table in run.tables)
        return cls(partition.prefix, tuple(table.number for table in partition.l0), in_runs, 0, is_drain=True)

    @property
    def numbers(self) -> frozenset[int]:
        return frozenset(self.l0) | frozenset(self.tables)


class CompactionScheduler(Protocol):
    """Decides what to compact. Pure: called with the current manifest and the tables running jobs work on.

    A proposal that names one of those is passed over, except for a drain, which ends the jobs of its partition.
    """

    def propose(self, manifest: Manifest, busy: frozenset[int]) -> Sequence[CompactionSpec]: ...


class Sources(msgspec.Struct, frozen=True):
    """A checked proposal: its sorted groups of tables, newest first, and whether nothing older lies below them.

    `is_in_place`: all of them are in the target run already, so only rewriting them can be meant. A drain has no groups.
    """

    groups: tuple[tuple[TableInfo, ...], ...]
    is_bottom: bool
    is_in_place: bool = False

    @property
    def tables(self) -> list[TableInfo]:
        return [table for group in self.groups for table in group]


def check_form(spec: object) -> CompactionSpec:
    """A proposal of the kind it should be, whoever made it: what it says is stored with the claim. Raises: InvalidError."""
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
    """The tables a proposal names, if carrying it out keeps every row and their order (a drain: drops what it names).

    Raises: InvalidError saying which rule it breaks.
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
        # Rule C1: a level-0 table that stays behind older ones would come out newer than it is.
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
    """Rule C6. Table numbers are never used twice, so the same numbers are the partition the scheduler looked at."""
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
        # Rule C2: rows may not be moved past others of the same keys or series, and outputs may not overlap their new
        # neighbours; the range is that of everything that gets to this level from above, and at the target of all sources.
        left_out = [table for table in run.tables if table.number not in spec.tables]
        if moved and _touches(left_out, *_range(moved, whole_series=_holds_series(partition, run, spec.target))):
            raise InvalidError(f"level {run.level} has tables in the range of the sources that are not sources")
        if run.level < spec.target:
            if partition.series_ends and tables != run.tables[: len(tables)]:
                # Rule C5: of a series, a deeper table holds the smaller numbers.
                raise InvalidError(f"the sources in level {run.level} are not its first tables, and it holds series")
            moved += tables


def _holds_series(partition: Partition, run: Run, target: int) -> bool:
    """Whether rows on their way down to the target pass a run that may hold earlier rows of their series."""
    return bool(partition.series_ends) and run.level < target


def _range(tables: Iterable[TableInfo], *, whole_series: bool) -> tuple[bytes, bytes]:
    """The keys from the first to the last of the tables, both included; or of every series that has a row in there."""
    tables = list(tables)
    if whole_series:
        # A row's number is the last eight bytes of its key. Other rows' keys make the range larger than it need be.
        return min(each.first_key[:-8] for each in tables), max(each.last_key[:-8] + b"\xff" * 8 for each in tables)
    return min(each.first_key for each in tables), max(each.last_key for each in tables)


def _touches(tables: Sequence[TableInfo], low: bytes, high: bytes) -> bool:
    return bool(_within(tables, low, high))


def with_compaction(manifest: Manifest, spec: CompactionSpec, outputs: Sequence[TableInfo], *, moved: bool) -> Manifest:
    """The manifest with the sources replaced by the outputs. Raises: InvalidError: the sources are gone or changed."""
    check_spec(manifest, spec)
    if not moved and any(manifest.is_given_up(table.number) for table in outputs):
        # Rule G2: numbers at or below the horizon may be deleted already.
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
"""Where a policy that only ever adds runs on top puts the first one; each newer one goes one level above it."""


def level_above(partition: Partition) -> int:
    """The level of a new run on top of all others."""
    return partition.runs[0].level - 1 if partition.runs else FIRST_LEVEL


def merge_spec(partition: Partition, l0: Iterable[TableInfo], runs: Iterable[Run], *, target: int) -> CompactionSpec:
    """These level-0 tables and the whole of these runs, merged into the run of level `target`."""
    in_runs = tuple(table.number for run in runs for table in run.tables)
    return CompactionSpec(partition.prefix, tuple(table.number for table in l0), in_runs, target)


def is_busy(partition: Partition, busy: frozenset[int]) -> bool:
    """Whether a running job works on the partition."""
    return bool(busy) and any(table.number in busy for table in partition.tables())


def is_level0_busy(partition: Partition, busy: frozenset[int]) -> bool:
    """Whether a running job works on level 0 of the partition: rule C1 lets nobody else take of it then."""
    return any(table.number in busy for table in partition.l0)


def relief_on_top(partition: Partition, busy: frozenset[int], *, l0_min: int, l0_max: int) -> CompactionSpec | None:
    """Level 0 of a partition whose runs a job works on, if it has `l0_min` tables: its oldest, at most `l0_max`, become a run
    above all others. Neither job can be in the way of the other: all that the running one has or makes lies below."""
    if len(partition.l0) < l0_min or is_level0_busy(partition, busy):
        return None
    return merge_spec(partition, partition.l0[-l0_max:], (), target=level_above(partition))


def overlapping(sources: Iterable[TableInfo], run: Sequence[TableInfo]) -> list[TableInfo]:
    """The tables of a run in the range of the sources."""
    return _within(run, *_range(sources, whole_series=False))


def _within(run: Sequence[TableInfo], low: bytes, high: bytes) -> list[TableInfo]:
    return [table for table in run if table.first_key <= high and table.last_key >= low]


def compact_range(
    manifest: Manifest, low: bytes | None, high: bytes | None, busy: frozenset[int] = frozenset()
) -> list[CompactionSpec]:
    """What it takes to have everything in [low, high) in one run of each partition, without the deletes in it.

    One job a partition, none for a partition in which nothing is to do or a job is running. Ask again when they are done:
    deletes may take a second job. Then this finds nothing more, unless rows came in or an open snapshot kept deletes.
    """
    found = []
    for partition in manifest.partitions_for(low, high):
        spec = None if is_busy(partition, busy) else _compact_range(partition, low, high)
        if spec is not None:
            found.append(spec)
    return found


def _compact_range(partition: Partition, low: bytes | None, high: bytes | None) -> CompactionSpec | None:
    # Rule C1: of level 0 everything older than a table that is wanted goes along.
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
            return None  # One run it is already, and no delete in it could go.
    chosen = {table.number for table in wanted}
    while True:
        grown = _closed(partition, l0, chosen, target)
        if grown == chosen:
            break
        chosen = grown
    tables = tuple(table.number for run in partition.runs for table in run.tables if table.number in chosen)
    return CompactionSpec(partition.prefix, tuple(table.number for table in l0), tables, target)


def _closed(partition: Partition, l0: Sequence[TableInfo], chosen: set[int], target: int) -> set[int]:
    """The chosen tables and those that rules C2 and C5 want along, from the top down."""
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
    """Whether changing the manifest is enough: the sources are disjoint, and no delete among them has come to its end at
    the bottom. A drain is one, too."""
    if sources.is_in_place or (sources.is_bottom and any(table.tombstones for table in sources.tables)):
        return False
    tables = sorted(sources.tables, key=lambda table: table.first_key)
    return all(one.last_key < two.first_key for one, two in pairwise(tables))
