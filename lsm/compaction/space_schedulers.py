"""Schedulers that save space: they compact tables with many deletes, or partitions with many old versions. Pure.

Put them after a scheduler that keeps reads short: `FirstOf((LeveledScheduler(), ...))`. There is no trigger by age, because
rows have no time to live.

Source: RocksDB's CompactOnDeletionCollector and max_size_amplification_percent; SlateDB has neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from lsm.compaction.plan import (
    CompactionScheduler,
    CompactionSpec,
    is_busy,
    merge_spec,
    overlapping,
)
from lsm.manifest.model import Manifest, Partition


class TombstoneTrigger(msgspec.Struct, frozen=True):
    """If at least `share` of a table's rows are deletes, merges it into the next deeper run that it overlaps. At the bottom,
    deletes are dropped. Each merge moves rows deeper, so the merges come to an end. Partitions with series are skipped, because
    their rows are not deleted one by one."""

    share: float = 0.5

    def propose(self, manifest: Manifest, busy: frozenset[int]) -> Sequence[CompactionSpec]:
        """Propose at most one job per partition: for the table with the greatest share of deletes."""
        found = (self._for(each) for each in manifest.partitions if not is_busy(each, busy))
        return [spec for spec in found if spec is not None]

    def _for(self, partition: Partition) -> CompactionSpec | None:
        best: CompactionSpec | None = None
        greatest = 0.0
        if partition.series_ends:
            return None
        for at, run in enumerate(partition.runs):
            for table in run.tables:
                share = table.tombstones / table.rows
                below = next((each for each in partition.runs[at + 1 :] if overlapping([table], each.tables)), None)
                if share >= self.share and share > greatest and below is not None:
                    greatest = share
                    numbers = (table.number, *(each.number for each in overlapping([table], below.tables)))
                    best = CompactionSpec(partition.prefix, (), numbers, below.level)
        return best


class SpaceTrigger(msgspec.Struct, frozen=True):
    """Merges a partition into its deepest run if the tables above it are at least `ratio` times as large. If all their rows are
    new versions of that run's rows, the partition takes about 1 + `ratio` times the space it needs."""

    ratio: float = 2.0

    def propose(self, manifest: Manifest, busy: frozenset[int]) -> Sequence[CompactionSpec]:
        """Propose at most one job per partition."""
        return [
            merge_spec(each, each.l0, each.runs, target=each.runs[-1].level)
            for each in manifest.partitions
            if each.runs
            and each.size - each.runs[-1].size >= self.ratio * each.runs[-1].size
            and not is_busy(each, busy)
        ]


class FirstOf(msgspec.Struct, frozen=True):
    """For each partition, the proposals of the first of these schedulers that has any."""

    schedulers: tuple[CompactionScheduler, ...]

    def propose(self, manifest: Manifest, busy: frozenset[int]) -> Sequence[CompactionSpec]:
        """Return the proposals in the order of the schedulers."""
        return list(self._merged(manifest, busy))

    def _merged(self, manifest: Manifest, busy: frozenset[int]) -> Iterator[CompactionSpec]:
        served: set[bytes] = set()
        for scheduler in self.schedulers:
            found = [spec for spec in scheduler.propose(manifest, busy) if spec.prefix not in served]
            served.update(spec.prefix for spec in found)
            yield from found
