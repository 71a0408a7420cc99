"""The compaction policy of a log: which tables of each segment are merged. Pure.

A segment is written once and in order, so a merge of its tables reclaims nothing; it only makes reads cheaper. The policy by
the state of a segment:

    system     segment 0: merged into one run as soon as level 0 has two tables; it is tiny
    active     the newest one in the manifest: its oldest level-0 table is only relinked as a run; no bytes are written
    sealed     a newer one is in the manifest, so it gets no more rows: merged into one run, once
    orphaned   older than every segment that has metadata: retention deleted it, and it is drained

So a row is written twice: when it is flushed, and when its segment is merged. A log that never sealed a segment and does not
seal by itself also has the active segment's runs merged by size, because reads would visit ever more runs otherwise.

Source: OpenData Log's RFC 5 and compaction.rs. Different on purpose: there, a compaction of level 0 rewrites its tables, so a
row is written three times with the final pass; and there, a segment counts as sealed before its last rows are in tables, so
that the final pass can run twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import lsm
from lsm import size_tier
from opendata_log.model.config import LogCompactionOptions, SegmentConfig
from opendata_log.model.keys import FIRST_SEGMENT_ID, SYSTEM_SEGMENT_ID, parse_routing_prefix, routing_prefix
from opendata_log.model.record import SegmentId
from opendata_log.model.segment import SegmentTable

SYSTEM_L0_TABLES = 2
RUNS_PER_MERGE = 16
RUNS_MAX = 64
"""Runs of the active segment that trigger a merge in a log that seals. The final pass needs some memory for each run."""
SIZE_RATIO = 4.0


class LiveSegments:
    """The segments that have metadata. The log's writer sets them, the scheduler reads them; this class never reads the log.

    Retention deletes segments from the oldest on, so two ids are enough. The order of the calls makes them safe. `begin` is
    called before a segment's first batch is written, so no table holds rows of a segment after the newest. `expire` is called
    when the deletion of the metadata is durable, so no crash restores a segment before the oldest.
    """

    def __init__(self) -> None:
        self._bounds: tuple[SegmentId, SegmentId] | None = None

    @property
    def bounds(self) -> tuple[SegmentId, SegmentId] | None:
        """The oldest and the newest segment with metadata; None before `load`."""
        return self._bounds

    def load(self, segments: SegmentTable, last_retired: SegmentId) -> None:
        """Set the segments that an open found. `last_retired`: the newest segment, where retention deleted all of them."""
        oldest, latest = segments.oldest, segments.latest
        self._bounds = (oldest.id if oldest else last_retired + 1, latest.id if latest else last_retired)

    def begin(self, segment_id: SegmentId) -> None:
        """The first batch of a segment will be written next."""
        assert self._bounds is not None
        self._bounds = (self._bounds[0], segment_id)

    def expire(self, oldest: SegmentId) -> None:
        """The metadata of every segment before `oldest` is durably deleted, so their tables can be dropped."""
        assert self._bounds is not None
        self._bounds = (oldest, self._bounds[1])


class SegmentState(Enum):
    """The state of a segment, as the module's docstring defines it."""

    SYSTEM = "system"
    ACTIVE = "active"
    SEALED = "sealed"
    ORPHANED = "orphaned"


def segment_states(
    manifest: lsm.Manifest, bounds: tuple[SegmentId, SegmentId] | None
) -> list[tuple[lsm.Partition, SegmentState]]:
    """The partitions of the manifest, each with the state of its segment. `bounds` None: no segment is orphaned.

    Raises: lsm.InternalError where the newest segment with tables has no metadata.
    """
    segments = [(parse_routing_prefix(partition.prefix), partition) for partition in manifest.partitions]
    newest = max((segment_id for segment_id, _ in segments if segment_id is not None), default=SYSTEM_SEGMENT_ID)
    if bounds is not None and newest > max(bounds[1], SYSTEM_SEGMENT_ID):
        raise lsm.InternalError(
            f"segment {newest} has tables and no metadata, the newest that has is {bounds[1]}: nothing is compacted or "
            "dropped; the log is damaged or met a bug, keep its objects and report this"
        )
    found: list[tuple[lsm.Partition, SegmentState]] = []
    for segment_id, partition in segments:
        if segment_id is None:
            continue  # Not a log's partition: LogPartitions makes no such prefix.
        if segment_id == SYSTEM_SEGMENT_ID:
            state = SegmentState.SYSTEM
        elif bounds is not None and segment_id < bounds[0]:
            state = SegmentState.ORPHANED
        else:
            state = SegmentState.ACTIVE if segment_id == newest else SegmentState.SEALED
        found.append((partition, state))
    return found


class LogScheduler:
    """The log's policy as the engine's compaction scheduler."""

    def __init__(
        self,
        options: LogCompactionOptions,
        live: LiveSegments,
        *,
        segmentation: SegmentConfig,
        l0_max_ssts: int,
    ) -> None:
        # Flushes wait for a full level 0, so it must be compacted before that, whatever the options are.
        self._l0_min = min(options.min_l0_per_compaction, l0_max_ssts)
        self._l0_max = max(options.max_l0_per_compaction, self._l0_min)
        self._l0_only = options.l0_only
        self._live = live
        self._seals = segmentation.seal_interval is not None or segmentation.seal_byte_limit is not None

    def propose(self, manifest: lsm.Manifest, busy: frozenset[int]) -> Sequence[lsm.CompactionSpec]:
        """At most one job per segment: drains first, then the fullest level 0. Raises: as `segment_states`.

        Beside a running job, only two kinds are proposed: a job that shrinks a level 0 which the running job does not work on,
        and a drain, which ends the running job.
        """
        found: list[tuple[bool, int, lsm.CompactionSpec]] = []
        # The bounds are newer than the manifest, so they include every segment that has tables in it.
        for segment, state in segment_states(manifest, self._live.bounds):
            is_busy = bool(busy) and any(table.number in busy for table in segment.tables())
            spec = self._beside(segment, state, busy) if is_busy else self._for(segment, state)
            if spec is not None:
                found.append((not spec.is_drain, -len(segment.l0), spec))
        return [spec for _, _, spec in sorted(found, key=lambda each: each[:2])]

    def _beside(self, segment: lsm.Partition, state: SegmentState, busy: frozenset[int]) -> lsm.CompactionSpec | None:
        """The job to run beside a job of the same segment; None: none. The level 0 of a sealed segment no longer grows."""
        if state is SegmentState.ORPHANED:
            return lsm.CompactionSpec.drain(segment)
        if state is SegmentState.SEALED or any(table.number in busy for table in segment.l0):
            return None
        return self._level0_job(segment)

    def _for(self, segment: lsm.Partition, state: SegmentState) -> lsm.CompactionSpec | None:
        l0, runs = segment.l0, segment.runs
        match state:
            case SegmentState.ORPHANED:
                return lsm.CompactionSpec.drain(segment)
            case SegmentState.SYSTEM:
                return _consolidation(segment) if len(l0) >= SYSTEM_L0_TABLES else None
            case SegmentState.SEALED if not self._l0_only:
                return _consolidation(segment) if l0 or len(runs) > 1 else None
        level0_job = self._level0_job(segment)
        if level0_job is not None or self._l0_only:
            return level0_job
        has_sealed = segment.prefix > routing_prefix(FIRST_SEGMENT_ID)
        count = RUNS_MAX if self._seals or has_sealed else RUNS_PER_MERGE
        tier = size_tier(runs, at_least=count, at_most=count, ratio=SIZE_RATIO)
        return lsm.merge_spec(segment, (), tier, target=tier[-1].level) if tier else None

    def _level0_job(self, segment: lsm.Partition) -> lsm.CompactionSpec | None:
        """The job that moves the oldest tables of a full level 0 into a run above all others; None: level 0 is not full."""
        if len(segment.l0) < self._l0_min:
            return None
        taken = segment.l0[-self._l0_max :] if self._l0_only else segment.l0[-1:]
        return lsm.merge_spec(segment, taken, (), target=lsm.level_above(segment))


def _consolidation(segment: lsm.Partition) -> lsm.CompactionSpec:
    """The job that merges all tables of a segment into its deepest run."""
    target = segment.runs[-1].level if segment.runs else lsm.level_above(segment)
    return lsm.merge_spec(segment, segment.l0, segment.runs, target=target)
