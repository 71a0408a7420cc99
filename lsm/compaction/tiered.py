"""The size-tiered policy: new runs go on top, and neighbouring runs of similar size are merged. Pure.

It rewrites a row fewer times than levels do, but a read visits more runs. Source: SlateDB's only policy, with its parameters.
SlateDB's check that the next tier is not full already is left out: here a partition has one job at a time, beside one that
shrinks level 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lsm.compaction.plan import CompactionSpec, is_busy, level0_on_top, level_above, merge_spec
from lsm.manifest.model import Manifest, Partition, Run


class SizeTieredScheduler(msgspec.Struct, frozen=True):
    """When level 0 has `l0_min` tables, its oldest tables (up to `l0_max`) become a new run. `runs_min` to `runs_max`
    neighbouring runs are merged if none of them is larger than `ratio` times any newer run among them."""

    l0_min: int = 4
    l0_max: int = 8
    runs_min: int = 4
    runs_max: int = 8
    ratio: float = 4.0

    def propose(self, manifest: Manifest, busy: frozenset[int]) -> Sequence[CompactionSpec]:
        """Propose at most one job per partition, fullest level 0 first. Beside a running job, only shrink level 0."""
        found: list[CompactionSpec] = []
        for partition in sorted(manifest.partitions, key=lambda each: -len(each.l0)):
            if not is_busy(partition, busy):
                found += self._for(partition)
            elif level0_job := level0_on_top(partition, busy, l0_min=self.l0_min, l0_max=self.l0_max):
                found.append(level0_job)
        return found

    def _for(self, partition: Partition) -> list[CompactionSpec]:
        if len(partition.l0) >= self.l0_min:
            return [merge_spec(partition, partition.l0[-self.l0_max :], (), target=level_above(partition))]
        tier = size_tier(partition.runs, at_least=self.runs_min, at_most=self.runs_max, ratio=self.ratio)
        return [merge_spec(partition, (), tier, target=tier[-1].level)] if tier else []


def size_tier(runs: Sequence[Run], *, at_least: int, at_most: int, ratio: float) -> Sequence[Run]:
    """Find the newest stretch of at least `at_least` of `runs` (newest first) in which no run is larger than `ratio` times any
    newer run of the stretch; return its oldest, up to `at_most`. Empty if there is no such stretch."""
    sizes = [run.size for run in runs]
    for start in range(len(runs) - at_least + 1):
        smallest, end = sizes[start], start + 1
        while end < len(runs) and sizes[end] <= ratio * smallest:
            smallest = min(smallest, sizes[end])
            end += 1
        if end - start >= at_least:
            return runs[max(start, end - at_most) : end]
    return ()
