"""What the log compacts: the shape its segments should have. Pure.

A segment is written once and in order. While it is active, only level 0 is relieved: its oldest tables become a new run on
top of the others, and runs are merged eight at a time when they are of a size. Once sealed, it is merged into one run, once.
The system segment is small and is kept in levels.

Source: OpenData Log's RFC 5. There the active segment's runs are left alone; merging them by size keeps reads short
where segments are never sealed.
"""

from __future__ import annotations

from collections.abc import Sequence

import lsm
from opendata_log.config import LogCompactionOptions
from opendata_log.keys import ROUTING_PREFIX_BYTES, SYSTEM_SEGMENT_ID, routing_prefix

TOP_LEVEL = 1 << 32
"""The level of a segment's first run; later ones are put above it. Deeper levels have greater numbers."""
RUNS_PER_MERGE = 8
TIER_BYTES = 64 << 20


class LogScheduler:
    """The policy, as the engine asks for it."""

    def __init__(self, options: LogCompactionOptions, *, l0_max_ssts: int) -> None:
        # Level 0 must be relieved before flushes wait for it, whatever the options say.
        self._l0_min = min(options.min_l0_per_compaction, l0_max_ssts)
        self._l0_max = max(options.max_l0_per_compaction, self._l0_min)
        self._l0_only = options.l0_only
        self._system = lsm.LeveledScheduler(l0_min=self._l0_min, l0_max=self._l0_max)

    def propose(self, manifest: lsm.Manifest, busy: frozenset[int]) -> Sequence[lsm.CompactionSpec]:
        """At most one job per segment; the fullest level 0 first."""
        found: list[lsm.CompactionSpec] = []
        newest = max((each.prefix for each in manifest.partitions), default=b"")
        for partition in sorted(manifest.partitions, key=lambda each: -len(each.l0)):
            if any(table.number in busy for table in partition.tables()):
                continue
            if partition.prefix == routing_prefix(SYSTEM_SEGMENT_ID):
                system = lsm.Manifest(manifest.number, manifest.database, partitions=(partition,))
                found += self._system.propose(system, busy)
            elif len(partition.prefix) == ROUTING_PREFIX_BYTES:
                found += self._for_segment(partition, is_active=partition.prefix == newest)
        return found

    def _for_segment(self, segment: lsm.Partition, *, is_active: bool) -> list[lsm.CompactionSpec]:
        runs = segment.runs
        if not is_active and not self._l0_only:
            if len(segment.l0) + len(runs) <= 1 and not segment.l0:
                return []
            return [_merge(segment, segment.l0, runs, target=runs[-1].level if runs else TOP_LEVEL)]
        if len(segment.l0) >= self._l0_min:
            return [_merge(segment, segment.l0[-self._l0_max :], (), target=runs[0].level - 1 if runs else TOP_LEVEL)]
        newest = runs[:RUNS_PER_MERGE]
        if not self._l0_only and len(newest) == RUNS_PER_MERGE and len({_tier(run.size) for run in newest}) == 1:
            return [_merge(segment, (), newest, target=newest[-1].level)]
        return []


def _merge(
    segment: lsm.Partition, l0: Sequence[lsm.TableInfo], runs: Sequence[lsm.Run], *, target: int
) -> lsm.CompactionSpec:
    return lsm.CompactionSpec(
        segment.prefix,
        tuple(table.number for table in l0),
        tuple(table.number for run in runs for table in run.tables),
        target,
    )


def _tier(size: int) -> int:
    """Runs of one tier are of a size, within a factor of eight."""
    tier = 0
    while size > TIER_BYTES:
        size //= RUNS_PER_MERGE
        tier += 1
    return tier
