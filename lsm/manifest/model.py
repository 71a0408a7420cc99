"""The manifest as a value: which tables and which part of the log make up the database. Pure.

A manifest is immutable. An edit returns a new one, and `check` refuses an impossible one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain, pairwise
from operator import attrgetter, lt
from typing import Final

import msgspec

from lsm.errors import InternalError
from lsm.manifest.checkpoint import Checkpoint, Parent
from lsm.manifest.job_record import JobRecord
from lsm.object_store.names import COUNTER_BITS
from lsm.sst.builder import TableInfo

MANIFESTS_KEPT: Final = 8
"""Number of newest versions that are never deleted. So a number this close to the newest was never used before (rules G5,
M4)."""


class Run(msgspec.Struct, frozen=True, array_like=True):
    """A sorted run: tables with disjoint, ascending key ranges. `level` is its depth; deeper runs are older."""

    level: int
    tables: tuple[TableInfo, ...]

    @property
    def size(self) -> int:
        return sum(table.size for table in self.tables)

    def tables_for(self, low: bytes | None, high: bytes | None) -> tuple[TableInfo, ...]:
        """Return the tables that may hold keys in [low, high). Cost: O(log tables)."""
        tables = self.tables
        start = 0 if low is None else bisect_left(tables, low, key=lambda table: table.last_key)
        end = len(tables) if high is None else bisect_left(tables, high, key=lambda table: table.first_key)
        return tables[start : max(start, end)]


class Partition(msgspec.Struct, frozen=True, array_like=True):
    """One LSM tree: level 0 (tables that may overlap, newest first) above runs (newest first).

    `series_ends`: one more than the greatest number, for each series family flushed so far.
    """

    prefix: bytes
    l0: tuple[TableInfo, ...] = ()
    runs: tuple[Run, ...] = ()
    series_ends: tuple[tuple[bytes, int], ...] = ()

    def tables(self) -> Iterator[TableInfo]:
        return chain(self.l0, chain.from_iterable(run.tables for run in self.runs))

    @property
    def size(self) -> int:
        return sum(table.size for table in self.tables())


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """One version of the database.

    `number`: the version; 1, 2, 3 without gaps.
    `replay_after`: the newest log object whose batches are all in tables. Recovery starts at the next one and skips objects
    of an epoch below `wal_epoch_floor`.
    `last_seq`: the newest sequence number in a table.
    `gc_horizon`: tables with this number or a lower one may have been deleted, so no new table may have such a number.
    `gc_horizons`: the same for single epochs above `gc_horizon`, as (epoch, number).
    `settled`: (epoch, number) pairs; every table of the epoch up to the number is in a manifest or never will be.
    `fences`: log objects that fence older writers, or that replay skipped for their epoch. They are kept for ever.
    `parents`: for a clone, the databases that own some of its tables.
    `jobs`: the claimed compactions, oldest first.
    """

    number: int
    database: bytes
    writer_epoch: int = 0
    compactor_epoch: int = 0
    replay_after: int = 0
    wal_epoch_floor: int = 0
    last_seq: int = 0
    gc_horizon: int = 0
    fences: tuple[int, ...] = ()
    extractor_name: str = ""
    series_name: str = ""
    wal_url: str = ""
    partitions: tuple[Partition, ...] = ()
    gc_horizons: tuple[tuple[int, int], ...] = ()
    settled: tuple[tuple[int, int], ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    parents: tuple[Parent, ...] = ()
    jobs: tuple[JobRecord, ...] = ()

    def partition(self, prefix: bytes) -> Partition | None:
        """Return the partition with `prefix`, if there is one. Cost: O(log partitions)."""
        at = bisect_left(self.partitions, prefix, key=lambda partition: partition.prefix)
        if at < len(self.partitions) and self.partitions[at].prefix == prefix:
            return self.partitions[at]
        return None

    def partitions_for(self, low: bytes | None, high: bytes | None) -> tuple[Partition, ...]:
        """Return the partitions that may hold keys in [low, high), in key order."""
        partitions = self.partitions
        # One step back is enough: a key's prefix sorts at or before the key, and prefixes do not nest.
        start = 0
        if low is not None:
            start = max(0, bisect_right(partitions, low, key=lambda partition: partition.prefix) - 1)
        end = len(partitions)
        if high is not None:
            end = bisect_left(partitions, high, key=lambda partition: partition.prefix)
        return partitions[start : max(start, end)]

    def with_partition(self, changed: Partition) -> Manifest:
        """Return this manifest with one partition replaced or added, or removed if it has no table."""
        at = bisect_left(self.partitions, changed.prefix, key=lambda partition: partition.prefix)
        found = at < len(self.partitions) and self.partitions[at].prefix == changed.prefix
        new = (changed,) if changed.l0 or changed.runs else ()
        partitions = (*self.partitions[:at], *new, *self.partitions[at + found :])
        return msgspec.structs.replace(self, partitions=partitions)

    def series_ends(self) -> dict[bytes, int]:
        """Return one more than the greatest flushed number, for every series family."""
        return dict(chain.from_iterable(partition.series_ends for partition in self.partitions))

    def table_ids(self) -> set[int]:
        return {table.number for partition in self.partitions for table in partition.tables()}

    def names(self, object_name: str) -> bool:
        """Whether this version names the table. If so, the table must exist."""
        return any(table.name == object_name for partition in self.partitions for table in partition.tables())

    def owners(self) -> dict[int, bytes]:
        """Return, for a clone, the database that owns each table of a parent, by table number."""
        return {number: parent.database for parent in self.parents for number in parent.tables}

    def is_given_up(self, number: int) -> bool:
        """Whether table `number` may have been deleted. Such a table must not be published any more (rule G2)."""
        is_below = number <= self.gc_horizon or number <= dict(self.gc_horizons).get(number >> COUNTER_BITS, 0)
        return is_below and not self.is_claimed(number)

    def is_claimed(self, number: int) -> bool:
        """Whether table `number` belongs to a claimed compaction. The collector does not delete such tables (rule J2)."""
        return any(job.claims(number) for job in self.jobs)

    def with_settled(self, epoch: int, number: int) -> Manifest:
        """Return this manifest with `epoch` settled up to table `number`. Entries of past epochs are dropped."""
        kept = {each: to for each, to in self.settled if each in (self.writer_epoch, self.compactor_epoch)}
        kept[epoch] = max(number, kept.get(epoch, 0))
        return msgspec.structs.replace(self, settled=tuple(sorted(kept.items())))

    def checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        return next((each for each in self.checkpoints if each.id == checkpoint_id), None)

    def check(self) -> None:
        """Raise InternalError if this is not a possible database. Cost: visits every table."""
        seen: set[int] = set()
        for at in range(len(self.partitions)):
            self.check_partition(at)
            numbers = [table.number for table in self.partitions[at].tables()]
            self.check_fresh(seen, numbers)
            seen.update(numbers)

    def check_fresh(self, named: set[int], numbers: list[int]) -> None:
        """Raise InternalError if a table is named twice: within `numbers`, or in `numbers` and in `named`."""
        if len(set(numbers)) < len(numbers) or not named.isdisjoint(numbers):
            twice = next(number for at, number in enumerate(numbers) if number in named or number in numbers[:at])
            self._refuse(f"table {twice} is named twice")

    def check_partition(self, at: int) -> None:
        """Raise InternalError if the partition at index `at` is impossible, alone or next to its neighbours."""
        partition = self.partitions[at]
        for left, right in pairwise(self.partitions[max(0, at - 1) : at + 2]):
            # Partitions are sorted, and no prefix is a prefix of another.
            if right.prefix.startswith(left.prefix) or right.prefix <= left.prefix:
                self._refuse(f"partitions {left.prefix!r} and {right.prefix!r} overlap or are out of order")
        problem = _problem(partition)
        if problem:
            self._refuse(problem)

    def _refuse(self, problem: str) -> None:
        raise InternalError(f"manifest {self.number}: {problem}; nothing was written, please report this")


def dropped_partitions(old: Manifest, new: Manifest) -> set[bytes]:
    """Return the prefixes of partitions that `new` does not have any more. All their rows are gone."""
    return {each.prefix for each in old.partitions} - {each.prefix for each in new.partitions}


def may_have_dropped(known: Manifest, newer: Manifest) -> bool:
    """Whether a partition may have been dropped between `known` and `newer`.

    A partition that a flush added and a drain dropped in versions between the two is in neither of them. So the answer is
    also true if there are versions between them and a flush was committed since `known`.
    """
    has_flushed = (newer.replay_after, newer.last_seq) != (known.replay_after, known.last_seq)
    return (has_flushed and newer.number > known.number + 1) or bool(dropped_partitions(known, newer))


_first_key = attrgetter("first_key")
_last_key = attrgetter("last_key")


def _problem(partition: Partition) -> str | None:
    for table in partition.tables():
        if not (partition.prefix <= table.first_key <= table.last_key):
            return f"table {table.number} has keys outside partition {partition.prefix!r}"
    # Runs get deeper, and the tables of a run are disjoint and ascending.
    for upper, lower in pairwise(partition.runs):
        if upper.level >= lower.level:
            return f"run levels {upper.level}, {lower.level} of partition {partition.prefix!r} do not descend"
    for run in partition.runs:
        if not run.tables:
            return f"run {run.level} of partition {partition.prefix!r} is empty"
        if not all(map(lt, map(_last_key, run.tables), map(_first_key, run.tables[1:]))):
            one, two = next(pair for pair in pairwise(run.tables) if pair[0].last_key >= pair[1].first_key)
            return f"tables {one.number} and {two.number} of a run overlap"
    return None
