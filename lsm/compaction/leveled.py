"""The default policy: level 0, then levels with one sorted run each, which grow by a ratio. Pure.

When level 0 has `l0_min` tables, its oldest tables (up to `l0_max`) are merged with the tables of level 1 that they overlap.
A level larger than its target gives one table to the next level: the one that overlaps least there. Source: LevelDB's leveled
compaction; SlateDB ships size-tiered only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from lsm.compaction.plan import CompactionSpec, is_busy, is_level0_busy, level0_on_top, merge_spec, overlapping
from lsm.manifest.model import Manifest, Partition, Run
from lsm.sst.builder import TableInfo


class LeveledScheduler(msgspec.Struct, frozen=True):
    """Parameters: see `l0_compaction_min`, `l0_compaction_max`, `level_base_bytes` and `level_size_ratio` of `Settings`."""

    l0_min: int = 4
    l0_max: int = 8
    base_bytes: int = 256 << 20
    ratio: int = 10

    def propose(self, manifest: Manifest, busy: frozenset[int]) -> Sequence[CompactionSpec]:
        """Propose at most one job per partition, fullest level 0 first. Beside a running job, only shrink level 0."""
        found: list[CompactionSpec] = []
        for partition in sorted(manifest.partitions, key=lambda each: -len(each.l0)):
            if is_busy(partition, busy):
                found += self._beside(partition, busy)
            else:
                found.extend(self._for(partition))
        return found

    def _beside(self, partition: Partition, busy: frozenset[int]) -> list[CompactionSpec]:
        """Propose to shrink level 0 while a job works on the runs."""
        if len(partition.l0) < self.l0_min or is_level0_busy(partition, busy):
            return []
        usual = self._level0_job(partition)
        level1 = {table.number for table in _level(partition, 1)}
        if usual is not None and busy.isdisjoint(level1 | usual.numbers):
            return [usual]
        # Merging into level 1 would put tables before those that the running job takes out of level 1 (rule C5).
        on_top = level0_on_top(partition, busy, l0_min=self.l0_min, l0_max=self.l0_max)
        return [on_top] if on_top is not None else []

    def _level0_job(self, partition: Partition) -> CompactionSpec | None:
        oldest = partition.l0[-self.l0_max :] if len(partition.l0) >= self.l0_min else ()
        # Runs above level 1, made by `level0_on_top` or by another policy.
        above = [run for run in partition.runs if run.level < 1]
        if not oldest and not above:
            return None
        spec = merge_spec(partition, oldest, above, target=1)
        sources = [*oldest, *(table for run in above for table in run.tables)]
        level1 = tuple(table.number for table in overlapping(sources, _level(partition, 1)))
        return msgspec.structs.replace(spec, tables=spec.tables + level1)

    def _for(self, partition: Partition) -> Iterator[CompactionSpec]:
        level0_job = self._level0_job(partition)
        if level0_job is not None:
            yield level0_job
            return
        for run in partition.runs:
            # The target goes by the level, not by the number of runs: otherwise a single run would be pushed down for ever.
            if run.size > self.base_bytes * self.ratio ** min(run.level - 1, 64):
                pushed, below = self._push(partition, run)
                numbers = (pushed.number, *(table.number for table in below))
                yield CompactionSpec(partition.prefix, (), numbers, run.level + 1)
                return

    def _push(self, partition: Partition, run: Run) -> tuple[TableInfo, list[TableInfo]]:
        """Return the table of the run that is cheapest to move down, and the tables that it overlaps there."""
        lower = _level(partition, run.level + 1)
        if partition.series_ends:
            return run.tables[0], overlapping(run.tables[:1], lower)  # Rule C5.
        choices = [(table, overlapping([table], lower)) for table in run.tables]
        return min(choices, key=lambda choice: sum(table.size for table in choice[1]) / max(1, choice[0].size))


def _level(partition: Partition, level: int) -> tuple[TableInfo, ...]:
    return next((run.tables for run in partition.runs if run.level == level), ())
