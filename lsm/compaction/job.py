"""One compaction job: reads the sources, merges them, writes the outputs. Runs in a worker or a thread; commits nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from itertools import chain, repeat
from typing import Final

import msgspec

from lsm.compaction.block_places import BlockPlace, places
from lsm.compaction.completion_markers import put_marker
from lsm.compaction.merge_rounds import Head, Round, Stored, rounds
from lsm.compaction.plan import Sources
from lsm.compaction.series_merge import merge_series
from lsm.errors import CorruptionError
from lsm.object_store.reliable import ReliableStore
from lsm.rows.chunk import RowChunk
from lsm.rows.kind import are_values
from lsm.rows.merge import has_one_version_a_key, interleaved, prune_rows
from lsm.runtime import Runtime
from lsm.sst.block import KIND_SERIES, RowsBlock, SeriesBlock
from lsm.sst.builder import TableInfo
from lsm.sst.cache import Caches
from lsm.sst.index import Index
from lsm.sst.rolling import RollingTables
from lsm.sst.table import TableReader
from lsm.sst.table_rules import Rules
from lsm.workers.pool import StoreAddress, process_runtime

META_BYTES: Final = 64 << 20


class CompactionJob(msgspec.Struct, frozen=True):
    """One part of a checked proposal, ready to be sent to its executor."""

    rules: Rules
    sources: Sources
    snapshots: tuple[int, ...]
    table_bytes: int
    table_ids: tuple[int, int]
    low: bytes | None = None
    high: bytes | None = None
    """Only keys in [low, high) are merged. `None`: unbounded."""
    keeps_markers: bool = False
    """Whether a completion marker is stored after each table, so that another compactor can continue the job."""


def _never() -> bool:
    return False


def compact_in_worker(store: StoreAddress, job: CompactionJob) -> list[TableInfo]:
    """Run a compaction job in a worker process."""
    return compact(store.open(), process_runtime(), job)


def compact(
    store: ReliableStore, runtime: Runtime, job: CompactionJob, is_cancelled: Callable[[], bool] = _never
) -> list[TableInfo]:
    """Merge the sources into new tables and upload them. No manifest names them yet.

    Cost: every source block is read once, a megabyte of adjacent blocks at a time.
    Raises: CorruptionError: an input is damaged; no row is dropped then. CancelledError: `is_cancelled`, which is called
    before each block, returned True.
    """
    caches = Caches(block_bytes=0, meta_bytes=META_BYTES, runtime=runtime)
    rules = job.rules
    tables = TableReader(store, rules.database, runtime, caches=caches, owners=rules.owners).for_cause("compaction")
    output_store = store.with_cause("compaction")
    outputs: list[TableInfo] = []

    def put(info: TableInfo, parts: list[bytes]) -> None:
        output_store.put_new(info.name, parts)
        if job.keeps_markers:
            put_marker(output_store, rules.database, info)
        outputs.append(info)

    numbers = iter(range(*job.table_ids))
    output = RollingTables(job.rules.database, numbers, job.rules.table_format, table_bytes=job.table_bytes, put=put)

    def between_slices() -> None:
        if is_cancelled():
            raise CancelledError
        runtime.hand_over()

    merge = _Merge(tables, job, output, between_slices)
    for step in rounds(merge.heads()):
        if isinstance(step, Stored):
            merge.copy(step)
        else:
            merge.merge(step)
    output.finish()
    return outputs


class _Merge:
    """The steps of one job."""

    def __init__(
        self, tables: TableReader, job: CompactionJob, output: RollingTables, between_slices: Callable[[], None]
    ) -> None:
        self._tables = tables
        self._job = job
        self._output = output
        self._between_slices = between_slices
        self._whole_bytes = job.rules.table_format.block_bytes // 8

    def heads(self) -> list[Head]:
        """Return a head per source, newest first."""
        job = self._job
        return [self._head(source, group) for source, group in enumerate(job.sources.groups)]

    def _head(self, source: int, group: Sequence[TableInfo]) -> Head:
        """Return the head of one source. Blocks are opened in stored order, so that adjacent blocks are read together."""
        job = self._job
        indexes = [self._tables.index(table) for table in group]
        for table, index in zip(group, indexes, strict=True):
            _check_families(table, index, job.rules)
        wanted = [
            [place for place in places(source, table, index) if self._is_wanted(place)]
            for table, index in zip(group, indexes, strict=True)
        ]
        stored = chain.from_iterable(
            zip(repeat(index), self._tables.stored_blocks(table, [place.at for place in mine]))
            for table, index, mine in zip(group, indexes, wanted, strict=True)
        )

        def open_block(place: BlockPlace) -> Stored:
            self._between_slices()
            index, data = next(stored)
            return Stored(data, self._tables.open_stored(place.table, index, place.at, data))

        return Head(chain.from_iterable(wanted), open_block, job.low, job.high)

    def _is_wanted(self, place: BlockPlace) -> bool:
        low, high = self._job.low, self._job.high
        return (low is None or place.high > low) and (high is None or place.low < high)

    def copy(self, stored: Stored) -> None:
        """Add a block that no other source overlaps: as it is stored, if pruning keeps all its rows and it is not tiny."""
        data, block = stored
        is_whole = len(data) >= self._whole_bytes
        if isinstance(block, SeriesBlock):
            if is_whole:
                self._output.splice(data, block)
            else:
                self._output.add_series(block.chunk())
            return
        if is_whole and (not self._may_shrink(block) or self._prune(block.chunk()) is block.chunk()):
            self._output.splice(data, block)
        else:
            self._output.add_rows(self._prune(block.chunk()))

    def _may_shrink(self, block: RowsBlock) -> bool:
        """Whether pruning might drop a row. Looks at keys and kinds only, because decoding the values costs more."""
        is_bottom = self._job.sources.is_bottom
        return (is_bottom and not are_values(block.kinds)) or not has_one_version_a_key(block.keys)

    def merge(self, step: Round) -> None:
        if step.rows:
            self._output.add_rows(self._prune(interleaved(step.rows)))
        if step.series:
            self._output.add_series(merge_series(step.series))

    def _prune(self, rows: RowChunk) -> RowChunk:
        return prune_rows(rows, self._job.snapshots, at_bottom=self._job.sources.is_bottom)


def _check_families(table: TableInfo, index: Index, rules: Rules) -> None:
    """Check that the layout knows every series family, because series are merged by family. Raises: CorruptionError."""
    for key, kind in zip(index.keys, index.kinds, strict=True):
        if kind == KIND_SERIES and (rules.layout is None or rules.layout.family(key) is None):
            raise CorruptionError("holds a series this database's layout does not know", object_name=table.name)
