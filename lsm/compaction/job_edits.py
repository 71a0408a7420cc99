"""Edits of the manifest that claim a compaction, take one over, or commit its result. Pure.

docs/protocol.md, rules J1 to J5. Every edit refuses a superseded compactor, and returns None if its change is already made.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import msgspec

from lsm.compaction.plan import CompactionSpec, Sources, check_spec, with_compaction
from lsm.compaction.split import KeyRange
from lsm.errors import CompactorFencedError, InvalidError
from lsm.manifest.job_record import JobPart, JobRecord
from lsm.manifest.model import Manifest
from lsm.sst.builder import TableInfo


class SourcesClaimedError(InvalidError):
    """Raised if another claim names some of the sources. That claim must be taken up first."""


def spec_of(record: JobRecord) -> CompactionSpec:
    return CompactionSpec(record.prefix, record.l0, record.tables, record.target)


def outputs_max(size: int, rows: int, table_bytes: int) -> int:
    """Return an upper bound for the number of outputs. Outputs may be larger than the sources, if they are not compressed."""
    return min(rows, 64 * size // table_bytes) + 2


def new_record(
    spec: CompactionSpec,
    sources: Sources,
    ranges: Sequence[KeyRange],
    *,
    first: int,
    count: int,
    epoch: int,
    where: str,
    now_ms: int,
) -> JobRecord:
    """Return the record of a job. Each part may use `count` table numbers; the first part's start at `first`."""
    parts = tuple(
        JobPart(low, high, first + at * count, first + (at + 1) * count) for at, (low, high) in enumerate(ranges)
    )
    return JobRecord(
        id=first,
        epoch=epoch,
        prefix=spec.prefix,
        l0=spec.l0,
        tables=spec.tables,
        target=spec.target,
        is_bottom=sources.is_bottom,
        size=sum(table.size for table in sources.tables),
        started_ms=now_ms,
        where=where,
        parts=parts,
    )


def continued(
    record: JobRecord, finished: Sequence[Sequence[TableInfo]], *, first: int, count: int, epoch: int, where: str
) -> JobRecord:
    """Return the record of the same job under a new claim. `finished` tables of each part stay; the rest gets new numbers.

    Workers of the old claim that still run cannot finish a table under the new numbers.
    """
    parts: list[JobPart] = []
    for at, (part, tables) in enumerate(zip(record.parts, finished, strict=True)):
        low = tables[-1].last_key + b"\x00" if tables else part.low
        numbers = first + at * count, first + (at + 1) * count
        parts.append(JobPart(low, part.high, *numbers, (*part.done, *tables)))
    return msgspec.structs.replace(record, epoch=epoch, where=where, parts=tuple(parts))


def check_compactor(manifest: Manifest, epoch: int) -> None:
    """Check that no other compactor took over. Raises: CompactorFencedError."""
    if manifest.compactor_epoch != epoch:
        raise CompactorFencedError(
            f"another compactor (epoch {manifest.compactor_epoch}) took over from this one (epoch {epoch})"
        )


def with_claim(manifest: Manifest, record: JobRecord, *, replaces: JobRecord | None = None) -> Manifest | None:
    """Return the manifest with the job claimed, or claimed again. Raises: InvalidError if its sources are not available."""
    check_compactor(manifest, record.epoch)
    if record in manifest.jobs:
        return None
    if replaces is not None and replaces not in manifest.jobs:
        raise InvalidError(f"compaction {replaces.id} is not claimed any more")
    others = [job for job in manifest.jobs if job.id != record.id]
    if any(job.sources & record.sources for job in others):
        raise SourcesClaimedError(f"compaction {record.id} would merge tables another one is merging")
    _check_sources(manifest, record)
    return msgspec.structs.replace(manifest, jobs=(*others, record))


def without_claim(manifest: Manifest, job_id: int, epoch: int) -> Manifest | None:
    """Return the manifest without the claim, whose tables become garbage; `None` if there is no such claim."""
    check_compactor(manifest, epoch)
    kept = tuple(job for job in manifest.jobs if job.id != job_id)
    return None if len(kept) == len(manifest.jobs) else msgspec.structs.replace(manifest, jobs=kept)


def without_claims_of(manifest: Manifest, prefix: bytes) -> Manifest:
    """Return the manifest without the claims on a drained partition. Their tables become garbage."""
    kept = tuple(job for job in manifest.jobs if job.prefix != prefix)
    return manifest if len(kept) == len(manifest.jobs) else msgspec.structs.replace(manifest, jobs=kept)


def with_result(manifest: Manifest, record: JobRecord, outputs: Sequence[TableInfo]) -> Manifest | None:
    """Return the manifest with the job's sources replaced by its outputs, and without its claim, in one step (rule J3).

    `outputs`: the tables of this claim; those of earlier claims are in the record. Raises: InvalidError.
    """
    check_compactor(manifest, record.epoch)
    if all(job.id != record.id for job in manifest.jobs):
        return None  # An earlier attempt has done it, and its reply was lost: no other process removes claims of this epoch.
    _check_sources(manifest, record)
    made = [*chain.from_iterable(part.done for part in record.parts), *outputs]
    changed = with_compaction(manifest, spec_of(record), sorted(made, key=lambda table: table.first_key), moved=False)
    return without_claim(changed, record.id, record.epoch)


def _check_sources(manifest: Manifest, record: JobRecord) -> None:
    sources = check_spec(manifest, spec_of(record))
    if record.is_bottom and not sources.is_bottom:
        raise InvalidError(f"compaction {record.id} dropped deletes, and older rows lie below it now")
