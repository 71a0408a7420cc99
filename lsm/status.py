"""The status of a handle: plain values, computed on request."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from lsm.compaction.running_job import JobStatus
from lsm.manifest.model import Partition
from lsm.object_store.reliable import Traffic
from lsm.observe.health import BackgroundStatus, failing_for, newest_failure
from lsm.opening.engine import Engine
from lsm.sst.cache import CachesStatus


class PartitionStatus(msgspec.Struct, frozen=True):
    """One LSM tree. `l0`: number of tables in level 0. `levels`: number of tables by level. `size`: bytes of all tables."""

    prefix: bytes
    l0: int
    levels: Mapping[int, int]
    size: int


class Status(msgspec.Struct, frozen=True):
    """A handle's state at one moment.

    `durable_seq`: batches up to this one are durable. `close_reason`: `None` while the handle is open. `slowed_by`: why writers
    that may wait are slowed; `None` while they are not. `refused_compactions`: number of proposals that would have lost or
    reordered rows. `jobs`: running compactions of this process, and those of other processes, known from their claims.
    `requests`: every object-store request so far, by (kind, cause).

    `failing_for`: seconds since requests of some kind began to fail; `None` while none fail. `last_failure`: the last failure
    of a request or of background work, even if a later attempt succeeded; `None` if nothing has failed. `background`:
    background work that has ever failed, by name (`flush`, `compaction`, `collection`, `retention`).
    """

    url: str
    manifest_number: int
    writer_epoch: int
    last_seq: int
    durable_seq: int
    flushed_seq: int
    unflushed_bytes: int
    frozen_memtables: int
    slowed_by: str | None
    close_reason: str | None
    partitions: tuple[PartitionStatus, ...]
    compactions: int
    jobs: tuple[JobStatus, ...]
    refused_compactions: int
    caches: CachesStatus
    requests: Mapping[tuple[str, str], Traffic]
    failing_for: float | None
    last_failure: str | None
    background: Mapping[str, BackgroundStatus]

    @property
    def is_slowed(self) -> bool:
        """Whether writers that may wait are slowed."""
        return self.slowed_by is not None


class ReaderStatus(msgspec.Struct, frozen=True):
    """A reader's state at one moment.

    `next_log_object`: number of the log object that the next poll looks for. `memory_bytes`: bytes of log rows in the reader's
    memory, which are in no table that it knows. `refresh_age`: seconds since the start of the last successful poll.
    `refresh_interval`: current seconds between polls; `None`: only `refresh()` polls. `last_failure`: error of the last poll;
    `None` if it succeeded. `failing_for`: seconds since polls began to fail; `None` while they succeed. `close_reason`: why
    reads fail; `None` while they succeed.
    """

    url: str
    manifest_number: int
    next_log_object: int
    last_seq: int
    memory_bytes: int
    refresh_age: float
    refresh_interval: float | None
    last_failure: str | None
    close_reason: str | None
    caches: CachesStatus
    requests: Mapping[tuple[str, str], Traffic]
    failing_for: float | None


def status_of_handle(engine: Engine, reason: Exception | None) -> Status:
    """Return the current state of a `Db`. `reason`: why the handle takes no more work; `None` while it does."""
    view, writer, compactor = engine.views.current, engine.writer, engine.compactor
    stores = [engine.stores.main.health, engine.stores.wal.health]
    requests = engine.stores.main.traffic()
    if engine.stores.wal is not engine.stores.main:
        requests |= engine.stores.wal.traffic()
    return Status(
        url=engine.stores.main.url,
        manifest_number=view.manifest.number,
        writer_epoch=engine.epoch,
        last_seq=writer.last_seq,
        durable_seq=engine.wal.durable_seq,
        flushed_seq=engine.flusher.flushed_seq,
        unflushed_bytes=writer.unflushed_bytes,
        slowed_by=writer.pressure.reason,
        frozen_memtables=len(view.memtables) - 1,
        close_reason=None if reason is None else str(reason),
        partitions=tuple(map(_partition_status, view.manifest.partitions)),
        compactions=compactor.committed if compactor is not None else 0,
        jobs=engine.jobs(),
        refused_compactions=compactor.refused if compactor is not None else 0,
        caches=engine.tables.cache_status(),
        requests=requests,
        failing_for=failing_for(*stores),
        last_failure=newest_failure(engine.health, *stores),
        background=engine.health.status(),
    )


def _partition_status(partition: Partition) -> PartitionStatus:
    levels = {run.level: len(run.tables) for run in partition.runs}
    return PartitionStatus(partition.prefix, len(partition.l0), levels, partition.size)
