"""Verification of a log: the engine verifies every stored byte, then the log's own rows are checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import lsm
from opendata_log.model.errors import CorruptionError, translate
from opendata_log.model.keys import (
    SEGMENT_META_PREFIX,
    SEQ_BLOCK_KEY,
    SYSTEM_SEGMENT_ID,
    LogPartitions,
    LogSeries,
    SeqBlock,
    entry_family,
    segment_of_prefix,
)
from opendata_log.model.record import Segment
from opendata_log.model.segment import SegmentTable, last_retired

TRIES = 10


def fsck(
    url: str,
    *,
    storage_options: Mapping[str, Any] | None = None,
    wal_url: str | None = None,
    parent_storage_options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> lsm.FsckReport:
    """Verify every byte and every reference of the log at `url`. Repairs nothing, and may run beside a writer.

    The engine's checks come first. Then: listings name every key, segment metadata is sound and exists for every tree, no
    segment reaches into the next one, and the sequence block covers all sequences that were given out (rules S1 to S3).
    `wal_url` `None`: the write-ahead log is at `url`. `progress`: called with the steps done and their total; `None`: no
    progress is reported.
    Cost: reads every byte, in bounded memory. Raises: NotFoundError where no log exists. Damage is in the report, not raised.
    """
    components: dict[str, Any] = {
        "storage_options": storage_options or {},
        "wal_url": wal_url,
        "parent_storage_options": parent_storage_options or {},
        "prefix_extractor": LogPartitions(),
        "series_layout": LogSeries(),
    }
    try:
        report = lsm.fsck(url, progress=progress, **components)
        if not report.is_sound:
            report.notes.append(
                "the log's own rows were not verified: they can be read once the damage above is mended"
            )
            return report
        _check_newest_rows(url, components, report)
    except lsm.CorruptionError as error:
        report.add_error(error)
    except lsm.Error as error:
        raise translate(error) from error
    return report


def _check_newest_rows(url: str, components: dict[str, Any], report: lsm.FsckReport) -> None:
    """As `_check_rows`, repeated where a collector deletes tables during the check."""
    for left in reversed(range(TRIES)):
        try:
            with lsm.DbReader.open(url, refresh_interval=None, **components) as db:
                _check_rows(db, report)
            break
        except lsm.SnapshotExpiredError:
            if not left:
                raise


def _check_rows(db: lsm.DbReader, report: lsm.FsckReport) -> None:
    try:
        segments = SegmentTable.stored(db.scan_prefix(SEGMENT_META_PREFIX))
        begin = segments.oldest.id if segments.oldest is not None else last_retired(db) + 1
        stored = db.get(SEQ_BLOCK_KEY)
        block = SeqBlock.decode(stored) if stored is not None else SeqBlock(0, 0)
    except CorruptionError as error:
        report.add(str(error))
        return
    retired = 0
    known = {segment.id for segment in segments} | {SYSTEM_SEGMENT_ID}
    for partition in db.manifest.partitions:
        segment_id = segment_of_prefix(partition.prefix)
        if segment_id in known:
            continue
        if segment_id is not None and segment_id < begin:
            retired += 1  # The next compaction drops it.
        else:
            report.add(
                f"partition {partition.prefix.hex()} holds records of segment {segment_id}, which has no metadata"
            )
    if retired:
        report.notes.append(f"{retired} segments that retention took have tables still: the next compaction drops them")
    for segment, following in pairwise([*segments, None]):
        assert segment is not None
        end = segment.start_seq + db.series_end(entry_family(segment.id))
        _check_end(report, segment, following, end, block)


def _check_end(report: lsm.FsckReport, segment: Segment, following: Segment | None, end: int, block: SeqBlock) -> None:
    if end == segment.start_seq:
        report.add(f"segment {segment.id} has metadata and no record: they are written in one batch")
    if following is not None and end > following.start_seq:
        report.add(
            f"segment {segment.id} goes to sequence {end - 1}, and segment {following.id} starts at {following.start_seq}"
        )
    if end > block.end:
        report.add(
            f"segment {segment.id} goes to sequence {end - 1}, and the sequences reserved end before {block.end}"
        )
