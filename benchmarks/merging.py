"""Merge rate of one core: a compaction job on tables in memory, in four shapes, by the CPU time of its thread.

`interleaved`: the sources' keys alternate, so every row is merged. `spliced`: stretches of a few megabytes belong to one
source each, so stored blocks are copied. `rows` have keys of 16 bytes; `series` are a thousand
streams. The floor sorts the same number of tuples where rows are merged, and packs the bytes that were merged, as blocks,
with zstd where they are copied, in hexadecimal digits: a machine that is busy slows both.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from typing import Final

from benchmarks.tasks import Figures, Task
from benchmarks.workloads import Workload
from lsm.compaction.job import CompactionJob, compact
from lsm.compaction.plan import Sources
from lsm.native import zstd
from lsm.object_store.memory import MemoryStore
from lsm.object_store.reliable import ReliableStore
from lsm.rows.chunk import RowChunk, SeriesChunk
from lsm.rows.kind import VALUE
from lsm.settings import Settings
from lsm.sst.builder import TableFormat, TableInfo
from lsm.sst.rolling import RollingTables
from lsm.sst.table_rules import Rules
from lsm.workers.pool import process_runtime

_DATABASE: Final = bytes(16)
_FAMILY: Final = b"f"
_SOURCES: Final = 4
_STRETCH_BYTES: Final = 4 << 20
_SETTINGS: Final = Settings()
_FORMAT: Final = TableFormat(
    block_bytes=_SETTINGS.sst_block_size,
    compression=_SETTINGS.compression,
    compression_level=_SETTINGS.compression_level,
    filter_bits_per_key=_SETTINGS.filter_bits_per_key,
    min_filter_keys=_SETTINGS.min_filter_keys,
    sequence_range_bytes=_SETTINGS.sequence_range_bytes,
)
_RUNTIME: Final = process_runtime()

Fill = Callable[[RollingTables], None]


class _OneFamily:
    """All keys are of one series family, which has no directory."""

    name = "one family"

    def family(self, key: bytes) -> bytes | None:
        return _FAMILY

    def directory(self, family: bytes) -> bytes | None:
        return None


def merge(task: Task) -> Figures:
    """All four shapes: rows, and megabytes of keys and values, per CPU second."""
    figures: Figures = {}
    for shape, fills in _shapes(task.workload):
        seconds = _floor(task.workload, shape) if task.store == "floor" else _compaction(task.workload, shape, fills)
        figures[f"{shape}_per_s"] = task.workload.records / seconds
        figures[f"{shape}_mb_per_s"] = task.workload.records * (16 + task.workload.value_bytes) / seconds / 1e6
    return figures


def _compaction(workload: Workload, shape: str, fills: list[Fill]) -> float:
    store = ReliableStore(MemoryStore(), _RUNTIME, op_timeout=60, request_timeout=60)
    groups = [_source(store, number, fill) for number, fill in enumerate(fills, 1)]
    layout = _OneFamily() if shape.startswith("series") else None
    job = CompactionJob(
        rules=Rules(_DATABASE, _FORMAT, None, layout),
        sources=Sources(tuple(reversed(groups)), is_bottom=True),
        snapshots=(),
        table_bytes=_SETTINGS.max_sst_size,
        table_ids=(1 << 30, 1 << 31),
    )
    gc.collect()
    start = time.thread_time()
    outputs = compact(store, _RUNTIME, job)
    elapsed = time.thread_time() - start
    assert sum(table.rows for table in outputs) == workload.records, f"{shape}: rows were lost"
    return elapsed


def _floor(workload: Workload, shape: str) -> float:
    gc.collect()
    if shape.endswith("interleaved"):
        keys = _keys(workload.records)
        sources = [list(zip(keys[at::_SOURCES], range(at, len(keys), _SOURCES))) for at in range(_SOURCES)]
        gc.freeze()
        start = time.thread_time()
        sorted(sources[0] + sources[1] + sources[2] + sources[3])
        return time.thread_time() - start
    size = workload.records * (16 + workload.value_bytes)
    block = random.Random(1).randbytes(_FORMAT.block_bytes // 2).hex().encode()
    pack = zstd.compressor(_FORMAT.compression_level)
    start = time.thread_time()
    for _ in range(size // len(block)):
        pack(block)
    return time.thread_time() - start


def _source(store: ReliableStore, number: int, fill: Fill) -> tuple[TableInfo, ...]:
    made: list[TableInfo] = []

    def put(info: TableInfo, parts: list[bytes]) -> None:
        store.put_new(info.name, parts)
        made.append(info)

    first = number << 20
    tables = RollingTables(
        _DATABASE, iter(range(first, first + 1000)), _FORMAT, table_bytes=_SETTINGS.max_sst_size, put=put
    )
    fill(tables)
    tables.finish()
    return tuple(made)


def _shapes(workload: Workload) -> Iterator[tuple[str, list[Fill]]]:
    """Each shape with the functions that fill its sources, oldest first."""
    records, row_bytes = workload.records, 16 + workload.value_bytes
    keys = _keys(records)
    values = [value for batch in workload.batches() for _, value in batch]
    stretch = _STRETCH_BYTES // row_bytes
    stretches = [range(start, min(start + stretch, records)) for start in range(0, records, stretch)]
    yield "rows_interleaved", [_rows(keys, values, [range(at, records, _SOURCES)]) for at in range(_SOURCES)]
    yield "rows_spliced", [_rows(keys, values, stretches[at::_SOURCES]) for at in range(_SOURCES)]
    whole = [range(at * records // _SOURCES, (at + 1) * records // _SOURCES) for at in range(_SOURCES)]
    yield "series_interleaved", [_series(values, [rows], workload.keys) for rows in whole]
    streams = max(1, workload.keys * stretch // records)
    yield "series_spliced", [_series(values, stretches[at::_SOURCES], streams) for at in range(_SOURCES)]


def _keys(count: int) -> list[bytes]:
    chance = random.Random(1)
    return sorted({chance.randbytes(8).hex().encode() for _ in range(count)})


def _rows(keys: list[bytes], values: list[bytes], stretches: list[range]) -> Fill:
    def fill(tables: RollingTables) -> None:
        for rows in stretches:
            part = slice(rows.start, rows.stop, rows.step)
            count = len(rows)
            tables.add_rows(
                RowChunk(keys[part], [1 + rows.start + at for at in range(count)], [VALUE] * count, values[part])
            )

    return fill


def _series(values: list[bytes], stretches: list[range], streams: int) -> Fill:
    """Spread each stretch's rows over `streams` series. The names are the same in every source if a source is one stretch."""

    def fill(tables: RollingTables) -> None:
        for rows in stretches:
            group = 0 if len(stretches) == 1 else rows.start
            names = [b"%08d%08d" % (group, at) for at in range(streams)]
            numbers = [number for at in range(streams) for number in range(rows.start + at, rows.stop, streams)]
            counts = [len(range(rows.start + at, rows.stop, streams)) for at in range(streams)]
            tables.add_series(SeriesChunk(_FAMILY, names, counts, numbers, values[rows.start : rows.stop]))

    return fill


STEPS = {merge.__name__: merge}
