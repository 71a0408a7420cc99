"""Write walk, after `rows/memtable`, before `sst/builder`: builds the level-0 tables of a memtable, one or more per partition.

A thread takes the rows from the memtable. A worker process reads them from the log objects that hold the same batches. The log
is cut where a memtable is frozen, so both see exactly the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from lsm.object_store.reliable import ReliableStore
from lsm.rows.chunk import RowChunk, partition_rows
from lsm.rows.kind import VALUE
from lsm.rows.memtable import Memtable, SeriesRows
from lsm.rows.merge import merge_rows, prune_rows
from lsm.runtime import Runtime
from lsm.sst.builder import TableInfo
from lsm.sst.rolling import TABLE_BYTES_MAX, RollingTables
from lsm.sst.table_rules import Rules
from lsm.wal.replay import apply_frames, read_wal

Built = list[tuple[bytes, TableInfo]]
"""Pairs of partition prefix and table, in key order."""


class FlushJob(msgspec.Struct, frozen=True):
    """Build tables from batches first_seq..last_seq, which are in log objects wal_first..wal_last."""

    rules: Rules
    wal_first: int
    wal_last: int
    epoch_floor: int
    first_seq: int
    last_seq: int
    snapshots: tuple[int, ...]
    table_ids: tuple[int, int]
    """Table numbers for the tables: from the first up to, not including, the second."""


def flush_from_log(store: ReliableStore, wal_store: ReliableStore, runtime: Runtime, job: FlushJob) -> Built:
    """Read the job's log objects into a memtable, then do as `flush_memtable`."""
    table = Memtable(runtime)
    numbers = range(job.wal_first, job.wal_last + 1)
    wal = wal_store.with_cause("flush")
    for entries in read_wal(wal, runtime, numbers, job.rules.database, epoch_floor=job.epoch_floor):
        apply_frames(table, entries.frames, after_seq=job.first_seq - 1, until_seq=job.last_seq)
    return flush_memtable(store, runtime, table, job)


def flush_memtable(store: ReliableStore, runtime: Runtime, table: Memtable, job: FlushJob) -> Built:
    """Build and upload the tables of a memtable. No manifest names them until the flush commits."""
    flush_store = store.with_cause("flush")
    numbers = iter(range(*job.table_ids))
    built: Built = []
    for prefix, families, rows in _partitions(table, job.rules):

        def put(info: TableInfo, parts: list[bytes], prefix: bytes = prefix) -> None:
            flush_store.put_new(info.name, parts)
            built.append((prefix, info))

        tables = RollingTables(
            job.rules.database, numbers, job.rules.table_format, table_bytes=TABLE_BYTES_MAX, put=put
        )
        _fill(tables, families, rows, job.snapshots, runtime)
    return built


def _partitions(table: Memtable, rules: Rules) -> Iterator[tuple[bytes, list[SeriesRows], list[RowChunk]]]:
    """Yield each partition's prefix, its series families in order, and its rows (including the families' directories)."""
    families: dict[bytes, list[SeriesRows]] = {}
    directories: list[RowChunk] = []
    for family in sorted(table.series):
        families.setdefault(rules.prefix_of(family + b"\x00"), []).append(table.series[family])
        directory = rules.layout.directory(family) if rules.layout is not None else None
        if directory is not None:
            keys = [directory + name for name in table.series[family].names()]
            directories.append(RowChunk(keys, [table.last_seq] * len(keys), [VALUE] * len(keys), [b""] * len(keys)))
    rows: dict[bytes, list[RowChunk]] = {}
    sources = [table.all_rows(), *(iter([chunk]) for chunk in directories)]
    for chunk in merge_rows(sources):
        for prefix, start, end in partition_rows(chunk.keys, rules.prefix_of):
            rows.setdefault(prefix, []).append(chunk.slice(start, end))
    for prefix in sorted(families.keys() | rows.keys()):
        yield prefix, families.get(prefix, []), rows.get(prefix, [])


def _fill(
    tables: RollingTables,
    families: Sequence[SeriesRows],
    rows: Sequence[RowChunk],
    snapshots: Sequence[int],
    runtime: Runtime,
) -> None:
    """Add rows and families in key order. A family's rows and other rows never interleave."""
    low: bytes | None = None
    for series in [*families, None]:
        high = series.family if series is not None else None
        for chunk in rows:
            tables.add_rows(prune_rows(chunk.clip(low, high), snapshots, at_bottom=False))
        low = high
        for part in series.chunks() if series is not None else ():
            tables.add_series(part)
            runtime.hand_over()
    tables.finish()
