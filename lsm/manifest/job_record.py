"""A compaction that somebody has claimed, as the manifest records it. Pure.

The record keeps the tables a job has made from the collector, and lets another compactor go on where this one died.
"""

from __future__ import annotations

import msgspec

from lsm.sst.builder import TableInfo


class JobPart(msgspec.Struct, frozen=True, array_like=True):
    """The keys [low, high) of a job (None: unbounded). Their tables get numbers from `first` up to, not including, `end`,
    in the order of their keys. `done`: tables of smaller keys, made under an earlier claim."""

    low: bytes | None
    high: bytes | None
    first: int
    end: int
    done: tuple[TableInfo, ...] = ()


class JobRecord(msgspec.Struct, frozen=True, array_like=True):
    """A claimed job: what it merges (as `CompactionSpec`), under which compactor epoch, and since when (wall clock).

    `id` is the first table number of its first claim. `where` names the compactor for people. `size`: bytes of its sources.
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
        """Whether a table of this number is an output of this job, finished or to come."""
        return any(
            part.first <= number < part.end or any(table.number == number for table in part.done) for part in self.parts
        )
