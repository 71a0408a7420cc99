"""How a key's records, and the whole log, are spread over the engine's trees. Pure: values made from counts and manifests.

Source: opendata log/src/reader.rs and tree.rs at 5f5c2882. Different on purpose: there is one engine, so `reads` exists on
every storage; the count of records in memory is exact, so `total` always equals `count`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

import lsm
from opendata_log.model.keys import parse_routing_prefix
from opendata_log.model.record import SegmentId


class SegmentReads(msgspec.Struct, frozen=True, kw_only=True):
    """A key's records in tables, by tier: level 0, and the sorted runs."""

    l0: lsm.TierCount
    sorted_runs: lsm.TierCount


class SegmentInspection(msgspec.Struct, frozen=True, kw_only=True):
    """One segment's records of the range: `count` in all, of which `tail_scanned` are in no table yet."""

    segment_id: SegmentId
    count: int
    tail_scanned: int
    reads: SegmentReads


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """How the records of a key in a range are stored.

    `total` equals `count`. `reads` is the sum over `segments`, which are oldest first.
    """

    total: int
    reads: SegmentReads
    segments: list[SegmentInspection]


def inspection(found: Iterable[tuple[SegmentId, lsm.SeriesCount]]) -> Inspection:
    """The inspection that the segments' counts make."""
    segments = [
        SegmentInspection(
            segment_id=segment_id,
            count=count.total,
            tail_scanned=count.memory,
            reads=SegmentReads(l0=count.l0, sorted_runs=count.sorted_runs),
        )
        for segment_id, count in found
    ]
    return Inspection(
        total=sum(one.count for one in segments),
        reads=SegmentReads(
            l0=_sum(one.reads.l0 for one in segments), sorted_runs=_sum(one.reads.sorted_runs for one in segments)
        ),
        segments=segments,
    )


def _sum(tiers: Iterable[lsm.TierCount]) -> lsm.TierCount:
    rows = list(tiers)
    return lsm.TierCount(**{name: sum(getattr(one, name) for one in rows) for name in lsm.TierCount.__struct_fields__})


# -- the tree ---------------------------------------------------------------------------------------------------------


class LevelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Number and size of the tables of level 0, or of one sorted run. `estimated_bytes`: bytes as stored."""

    num_ssts: int
    estimated_bytes: int


class SegmentTree(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of one segment, `runs` newest first. `segment_id` 0: the system segment; None: a partition of no segment."""

    segment_id: SegmentId | None
    prefix: bytes
    l0: LevelSummary
    runs: list[LevelSummary]

    @property
    def estimated_bytes(self) -> int:
        """Bytes of all tables of the segment, as stored."""
        return self.l0.estimated_bytes + sum(run.estimated_bytes for run in self.runs)

    @property
    def total_ssts(self) -> int:
        """How many tables the segment has."""
        return self.l0.num_ssts + sum(run.num_ssts for run in self.runs)

    @property
    def is_empty(self) -> bool:
        """Whether the segment has no table."""
        return not self.total_ssts


class TreeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of the whole log in one manifest. Records that are in no table yet are not counted."""

    manifest_id: int
    """Number of the manifest."""
    writer_epoch: int
    """Epoch of the newest writer."""
    compactor_epoch: int
    """Epoch of the newest compactor."""
    last_l0_seq: int
    """Newest engine sequence number that is in tables; it is no sequence of the log."""
    segments: list[SegmentTree]
    """The trees in the order of their prefixes, so the oldest segment is first."""

    @property
    def estimated_bytes(self) -> int:
        """Bytes of all tables, as stored."""
        return sum(segment.estimated_bytes for segment in self.segments)


def tree_summary(manifest: lsm.Manifest) -> TreeSummary:
    """The summary of a manifest. Reads no table."""
    return TreeSummary(
        manifest_id=manifest.number,
        writer_epoch=manifest.writer_epoch,
        compactor_epoch=manifest.compactor_epoch,
        last_l0_seq=manifest.last_seq,
        segments=[_tree(partition) for partition in manifest.partitions],
    )


def _tree(partition: lsm.Partition) -> SegmentTree:
    return SegmentTree(
        segment_id=parse_routing_prefix(partition.prefix),
        prefix=partition.prefix,
        l0=_level(partition.l0),
        runs=[_level(run.tables) for run in partition.runs],
    )


def _level(tables: Iterable[lsm.TableInfo]) -> LevelSummary:
    sizes = [table.size for table in tables]
    return LevelSummary(num_ssts=len(sizes), estimated_bytes=sum(sizes))
