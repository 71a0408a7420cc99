"""The manifest's record of a claimed compaction. Pure.

The record protects the job's tables from the collector, and lets another compactor continue the job if this one dies.
"""

from __future__ import annotations

import msgspec

from lsm.sst.builder import TableInfo


class JobPart(msgspec.Struct, frozen=True, array_like=True):
    """The keys [low, high) of a job; None is unbounded. Its new tables get the numbers [first, end), in the order of their
    keys. `done`: tables with smaller keys that an earlier claim made."""

    low: bytes | None
    high: bytes | None
    first: int
    end: int
    done: tuple[TableInfo, ...] = ()


class JobRecord(msgspec.Struct, frozen=True, array_like=True):
    """A claimed job: what it merges (fields as in `CompactionSpec`), the compactor's epoch, and its start by the wall clock.

    `id` is the first table number of its first claim. `where` names the compactor's process, for people. `size`: bytes of
    the sources.
    """

    id: int
    epoch: int
    prefix: bytes
    l0: tuple[int, ...]
    tables: tuple[int, ...]
    target: int
    is_bottom: bool
    size: int
    started_ms: int
    where: str
    parts: tuple[JobPart, ...]

    @property
    def sources(self) -> frozenset[int]:
        return frozenset(self.l0) | frozenset(self.tables)

    def claims(self, number: int) -> bool:
        """Whether table `number` is an output of this job, written or still to be written."""
        return any(
            part.first <= number < part.end or any(table.number == number for table in part.done) for part in self.parts
        )
