"""A running job: its parts, where each runs, and the job's status."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from itertools import chain

import msgspec

from lsm.compaction.job import CompactionJob
from lsm.compaction.plan import CompactionSpec, Sources
from lsm.manifest.job_record import JobRecord
from lsm.sst.builder import TableInfo
from lsm.sst.table_rules import Rules

WORKER_BYTES_MIN = 8 << 20
"""Minimum size of a job that runs in a worker. For a smaller one, starting a worker would take longer than a thread."""


class JobStatus(msgspec.Struct, frozen=True):
    """A running compaction. `size`: bytes of its sources. `age`: seconds since its start. `where`: process and executor.

    `parts`: number of key ranges; `finished_parts` of them are merged. `tables`: number of finished tables known so far.
    """

    prefix: bytes
    target: int
    size: int
    age: float
    where: str
    parts: int
    finished_parts: int
    tables: int


def jobs_of(
    record: JobRecord,
    sources: Sources,
    rules: Rules,
    snapshots: tuple[int, ...],
    *,
    table_bytes: int,
    keeps_markers: bool,
) -> list[CompactionJob]:
    """Return one job per key range of a record."""
    return [
        CompactionJob(
            rules=rules,
            sources=sources,
            snapshots=snapshots,
            table_bytes=table_bytes,
            table_ids=(part.first, part.end),
            low=part.low,
            high=part.high,
            keeps_markers=keeps_markers,
        )
        for part in record.parts
    ]


class Part:
    """One key range of a running job."""

    def __init__(self, job: CompactionJob) -> None:
        self.job = job
        self.future: Future[list[TableInfo]] | None = None
        self.is_elsewhere = False
        self.looked_at = 0.0
        self.progressed_at = 0.0
        self.tables = 0

    @property
    def is_done(self) -> bool:
        return self.future is not None and self.future.done()

    @property
    def is_running(self) -> bool:
        return self.future is not None and not self.future.done()


class RunningJob:
    """A job that this process has started. `record`: its claim; `None` for a job that makes a single table."""

    def __init__(
        self,
        spec: CompactionSpec,
        sources: Sources,
        record: JobRecord | None,
        jobs: Sequence[CompactionJob],
        *,
        first: int,
        started_at: float,
        where: str,
    ) -> None:
        self.spec = spec
        self.record = record
        self.first = first
        self.size = sum(table.size for table in sources.tables)
        self.is_level0_priority = is_level0_priority(spec, sources)
        self.parts = [Part(job) for job in jobs]
        self.started_at = started_at
        self.where = where
        self.is_cancelled = False

    @property
    def is_done(self) -> bool:
        return all(part.is_done for part in self.parts)

    @property
    def error(self) -> BaseException | None:
        """The error of a failed part; `None` if no part failed."""
        for part in self.parts:
            if part.future is not None and part.future.done():
                if part.future.cancelled():
                    return CancelledError()
                error = part.future.exception()
                if error is not None:
                    return error
        return None

    def failed_elsewhere(self, error: BaseException) -> bool:
        """Whether a part in another process ended with this error."""
        return any(
            part.is_elsewhere
            and part.is_done
            and part.future is not None
            and not part.future.cancelled()
            and part.future.exception() is error
            for part in self.parts
        )

    def outputs(self) -> list[TableInfo]:
        """Return the tables that the parts made under this claim. Requires: all parts are done."""
        return list(chain.from_iterable(part.future.result() for part in self.parts if part.future is not None))

    def cancel(self) -> None:
        """Cancel the parts. Requires: not holding the compactor's lock, which a cancelled future takes."""
        self.is_cancelled = True
        for part in self.parts:
            if part.future is not None and not part.future.done():
                part.future.cancel()

    def status(self, now: float) -> JobStatus:
        places = {"executor" if part.is_elsewhere else "thread" for part in self.parts if part.future is not None}
        earlier = sum(len(part.done) for part in self.record.parts) if self.record is not None else 0
        return JobStatus(
            prefix=self.spec.prefix,
            target=self.spec.target,
            size=self.size,
            age=now - self.started_at,
            where=f"{self.where} {'+'.join(sorted(places)) or 'waiting'}",
            parts=len(self.parts),
            finished_parts=sum(part.is_done for part in self.parts),
            tables=earlier + sum(part.tables for part in self.parts),
        )


def status_of(claim: JobRecord, now_ms: int) -> JobStatus:
    """Return the status of a job in another process, which may have died, from its claim."""
    return JobStatus(
        prefix=claim.prefix,
        target=claim.target,
        size=claim.size,
        age=max(0, now_ms - claim.started_ms) / 1000,
        where=claim.where,
        parts=len(claim.parts),
        finished_parts=0,
        tables=sum(len(part.done) for part in claim.parts),
    )


def is_level0_priority(spec: CompactionSpec, sources: Sources) -> bool:
    """Whether a job counts as shrinking level 0: at least a third of its bytes, or, in a small job, any, come from level 0."""
    size = sum(table.size for table in sources.tables)
    level0 = sum(group[0].size for group in sources.groups[: len(spec.l0)])
    return bool(spec.l0) and (3 * level0 >= size or size < WORKER_BYTES_MIN)
