"""Verifies the log: every object's bytes, gaps, the order of epochs and fences, missing batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lsm.audit.report import FsckReport, Orphan
from lsm.errors import CorruptionError
from lsm.manifest.checkpoint import Checkpoint
from lsm.manifest.model import Manifest
from lsm.object_store.contract import ObjectInfo
from lsm.object_store.names import wal_name, wal_number
from lsm.object_store.reliable import ReliableStore
from lsm.wal.frames import Frame
from lsm.wal.gaps import lost, was_durable
from lsm.wal.replay import LogEntries, read_wal_object


def check_log(
    store: ReliableStore,
    manifest: Manifest,
    listed: dict[int, ObjectInfo],
    report: FsckReport,
    advance: Callable[[int], None],
) -> None:
    """Verify the log after `manifest`, its fences, and the log objects that checkpoints need. Memory: one object."""
    last_seq, epoch, end = manifest.last_seq, manifest.wal_epoch_floor, manifest.replay_after
    fences = set(manifest.fences)
    marks: dict[int, int] = {}
    for number, info in sorted(listed.items()):
        report.log_objects += 1
        report.bytes += info.size
        try:
            entries = read_wal_object(store, number, manifest.database, is_known=True)
        except CorruptionError as error:
            report.add_error(error)
            entries = None
        advance(info.size)
        if number <= manifest.replay_after:
            _check_old(report, manifest, info, number, entries)
        elif number == end + 1:
            end = number
            if entries is not None and entries.epoch >= epoch:
                epoch = entries.epoch
                last_seq = _check_batches(report, entries.frames, last_seq, wal_name(number))
        else:
            marks[number] = entries.durable_through if entries is not None else 0
    if was_durable(end + 1, marks):
        report.add_error(lost(end + 1))
    if marks:
        report.notes.append(f"log objects behind the gap at {end + 1}: uploads that a crash or a new owner cut off")
    for number in sorted(fences - listed.keys()):
        report.add("the fence is missing", object_name=wal_name(number))
    for checkpoint in manifest.checkpoints:
        _check_pinned(report, checkpoint, listed)


def _check_old(
    report: FsckReport, manifest: Manifest, info: ObjectInfo, number: int, entries: LogEntries | None
) -> None:
    if number in manifest.fences:
        if entries is not None and not entries.is_fence:
            report.add("is no fence, and the manifest says it is", object_name=info.name)
    elif number < manifest.replay_after and not any(each.needs_log(number) for each in manifest.checkpoints):
        report.orphans.append(Orphan(info.name, info.size))


def _check_batches(report: FsckReport, frames: Sequence[Frame], last_seq: int, name: str) -> int:
    for frame in frames:
        # A batch with rows and series rows is two frames with the same number.
        if frame.seq > last_seq + 1:
            report.add(f"batches {last_seq + 1} to {frame.seq - 1} are missing before it", object_name=name)
        last_seq = max(last_seq, frame.last_seq)
    return last_seq


def _check_pinned(report: FsckReport, checkpoint: Checkpoint, listed: dict[int, ObjectInfo]) -> None:
    for number in range(checkpoint.wal_first, checkpoint.wal_last + 1):
        if number not in listed:
            report.add(f"is missing, and checkpoint {checkpoint.id} needs it", object_name=wal_name(number))


def listed_log(objects: list[ObjectInfo]) -> dict[int, ObjectInfo]:
    """Return the log objects by number. Foreign names are left out."""
    return {number: info for info in objects if (number := wal_number(info.name)) is not None}
