"""Verifies running jobs: their claims, and the completion markers from which another compactor would continue them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lsm.audit.report import FsckReport
from lsm.audit.tables import TableCheck
from lsm.compaction.completion_markers import read_marker
from lsm.errors import CorruptionError
from lsm.manifest.job_record import JobRecord
from lsm.manifest.model import Manifest, Partition
from lsm.object_store.contract import ObjectInfo, ObjectMissing
from lsm.object_store.names import marker_name, marker_number
from lsm.object_store.reliable import ReliableStore
from lsm.sst.builder import TableInfo


def check_claims(
    store: ReliableStore,
    manifest: Manifest,
    stored: Sequence[ObjectInfo],
    report: FsckReport,
    check: TableCheck,
    is_claimed: Callable[[int], bool],
) -> None:
    """Verify the finished tables of every claimed job, and the completion markers in `stored`, the listing of `sst/`.

    `is_claimed`: whether the newest manifest still has the claim of a table whose marker is gone. A table without a marker is
    being written, or is garbage.
    """
    notes = [number for info in stored if (number := marker_number(info.name)) is not None]
    for job in manifest.jobs:
        finished = [table for part in job.parts for table in part.done]
        finished += _noted(store, manifest, job, notes, report, is_claimed)
        for table in finished:
            check.check_table(manifest.partition(job.prefix) or Partition(job.prefix), table)


def _noted(
    store: ReliableStore,
    manifest: Manifest,
    job: JobRecord,
    notes: Sequence[int],
    report: FsckReport,
    is_claimed: Callable[[int], bool],
) -> Iterator[TableInfo]:
    for number in notes:
        if not any(part.first <= number < part.end for part in job.parts):
            continue
        try:
            yield read_marker(store, number, manifest.database, is_known=True)
        except ObjectMissing:
            if is_claimed(number):
                report.add("is gone, and the claim it belongs to is not", object_name=marker_name(number))
        except CorruptionError as error:
            report.add_error(error)
