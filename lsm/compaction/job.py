"""One compaction: read the sources, merge, write the outputs. Runs in a worker process or a thread; commits nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from itertools import groupby
from typing import Final

import msgspec

from lsm.compaction.layout import BlockPlace, group_blocks, places
from lsm.compaction.notes import put_note
from lsm.compaction.plan import Sources
from lsm.compaction.series_merge import merge_series
from lsm.errors import CorruptionError
from lsm.object_store.reliable import ReliableStore
from lsm.placement import StoreAddress, process_runtime
from lsm.rows.chunk import RowChunk, SeriesChunk, clip_series, prefix_end
from lsm.rows.merge import merge_rows, prune_rows
from lsm.rules import Rules
from lsm.runtime import Runtime
from lsm.sst.block import KIND_SERIES, SeriesBlock
from lsm.sst.builder import TableInfo
from lsm.sst.cache import Caches
from lsm.sst.rolling import RollingTables
from lsm.sst.table import TableReader

META_BYTES: Final = 64 << 20


class CompactionJob(msgspec.Struct, frozen=True):
    """A checked proposal, ready to be sent to wherever it runs."""

    rules: Rules
    sources: Sources
    snapshots: tuple[int, ...]
    table_bytes: int
    table_numbers: tuple[int, int]
    low: bytes | None = None
    high: bytes | None = None
    """Only the sources' keys in [low, high)."""
    keeps_notes: bool = False
    """After each table, note that it is finished, for whoever has to go on from here."""


def _never() -> bool:
    return False


def compact_in_worker(store: StoreAddress, job: CompactionJob) -> list[TableInfo]:
    """What a worker process is sent."""
    return compact(store.open(), process_runtime(), job)


def compact(
    store: ReliableStore, runtime: Runtime, job: CompactionJob, is_cancelled: Callable[[], bool] = _never
) -> list[TableInfo]:
    """Merge the sources into new tables, uploaded but referred to by nothing.

    Cost: every source block is read once, a megabyte of adjacent ones at a time.
    Raises: CorruptionError: an input is damaged; nothing is dropped then. CancelledError: `is_cancelled`, which is asked
    before each block.
    """
    caches = Caches(block_bytes=0, meta_bytes=META_BYTES, runtime=runtime)
    rules = job.rules
    tables = TableReader(store, rules.database, runtime, caches=caches, owners=rules.owners).for_cause("compaction")
    output_store = store.with_cause("compaction")
    outputs: list[TableInfo] = []

    def put(info: TableInfo, parts: list[bytes]) -> None:
        output_store.put_new(info.name, parts)
        if job.keeps_notes:
            put_note(output_store, rules.database, info)
        outputs.append(info)

    numbers = iter(range(*job.table_numbers))
    output = RollingTables(job.rules.database, numbers, job.rules.table_format, table_bytes=job.table_bytes, put=put)

    def between_slices() -> None:
        if is_cancelled():
            raise CancelledError
        runtime.hand_over()

    merge = _Merge(tables, job, output, between_slices)
    for group in merge.groups():
        if len(group) == 1:
            merge.copy(group[0])
        else:
            merge.merge(group)
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
        self._streams: dict[int, Iterator[tuple[BlockPlace, bytes]]] = {}
        self._families = _families(tables, job)

    def groups(self) -> Iterator[list[BlockPlace]]:
        blocks: list[BlockPlace] = []
        for source, group in enumerate(self._job.sources.groups):
            mine = [place for table in group for place in places(source, table, self._tables.index(table))]
            mine = [place for place in mine if self._is_wanted(place)]
            self._streams[source] = self._read(mine)
            blocks += mine
        return group_blocks(blocks)

    def _is_wanted(self, place: BlockPlace) -> bool:
        low, high = self._job.low, self._job.high
        return (low is None or place.high > low) and (high is None or place.low < high)

    def _is_inside(self, place: BlockPlace) -> bool:
        low, high = self._job.low, self._job.high
        return (low is None or place.low >= low) and (high is None or place.high <= high)

    def _read(self, blocks: Sequence[BlockPlace]) -> Iterator[tuple[BlockPlace, bytes]]:
        """One source's blocks in order: groups take them in the same order, so each is read once."""
        for _, mine in groupby(blocks, key=lambda block: block.table.number):
            same_table = list(mine)
            stored = self._tables.stored_blocks(same_table[0].table, [block.at for block in same_table])
            yield from zip(same_table, stored, strict=True)

    def _take(self, block: BlockPlace) -> tuple[bytes, RowChunk | SeriesBlock]:
        found, stored = next(self._streams[block.source])
        if found != block:
            raise ValueError("blocks were taken in another order than they lie")
        return stored, self._tables.decode(block.table, block.at, stored)

    def copy(self, place: BlockPlace) -> None:
        """A block no other source touches: taken over as it is stored, if nothing of it goes and it is not tiny."""
        self._between_slices()
        stored, block = self._take(place)
        if not self._is_inside(place):
            self._add_clipped(block)
            return
        is_whole = len(stored) >= self._job.rules.table_format.block_bytes // 8
        if isinstance(block, SeriesBlock):
            if is_whole:
                self._output.splice(stored, block)
            else:
                self._output.add_series(block.chunk())
            return
        rows = self._prune(block)
        if is_whole and rows is block:
            self._output.splice(stored, rows)
        else:
            self._output.add_rows(rows)

    def _add_clipped(self, block: RowChunk | SeriesBlock) -> None:
        for part in self._clipped(block):
            if isinstance(part, SeriesChunk):
                self._output.add_series(part)
            else:
                self._output.add_rows(self._prune(part))

    def _clipped(self, block: RowChunk | SeriesBlock) -> Iterator[RowChunk | SeriesChunk]:
        """What of a block at the edge of the job's range lies in it: nothing or one chunk."""
        low, high = self._job.low, self._job.high
        part = block.clip(low, high) if isinstance(block, RowChunk) else clip_series(block.chunk(), low, high)
        if part is not None and len(part):
            yield part

    def _contents(self, blocks: Sequence[BlockPlace]) -> Iterator[RowChunk | SeriesChunk]:
        """The wanted rows of consecutive blocks of one source."""
        for place in blocks:
            self._between_slices()
            block = self._take(place)[1]
            if not self._is_inside(place):
                yield from self._clipped(block)
            else:
                yield block.chunk() if isinstance(block, SeriesBlock) else block

    def merge(self, group: Sequence[BlockPlace]) -> None:
        """Blocks that touch: rows and each series family by themselves, in key order, one block a source at a time."""
        sources: dict[int, list[BlockPlace]] = {}
        for place in group:
            sources.setdefault(place.source, []).append(place)
        newest_first = [_Cursor(self._contents(sources[source])) for source in sorted(sources)]
        for family in [*self._families_between(group[0].low, max(place.high for place in group)), None]:
            for rows in merge_rows([each.rows_below(family) for each in newest_first]):
                self._output.add_rows(self._prune(rows))
            if family is not None:
                for chunk in merge_series(family, [each.series(family) for each in newest_first]):
                    self._output.add_series(chunk)

    def _families_between(self, low: bytes, high: bytes) -> list[bytes]:
        return [each for each in self._families if each <= high and low < (prefix_end(each) or low + b"\x00")]

    def _prune(self, rows: RowChunk) -> RowChunk:
        return prune_rows(rows, self._job.snapshots, at_bottom=self._job.sources.is_bottom)


def _families(tables: TableReader, job: CompactionJob) -> list[bytes]:
    """The series families in the sources, in order."""
    layout = job.rules.layout
    found: set[bytes] = set()
    for table in job.sources.tables:
        index = tables.index(table)
        for key, kind in zip(index.keys, index.kinds, strict=True):
            if kind == KIND_SERIES:
                family = layout.family(key) if layout is not None else None
                if family is None:
                    raise CorruptionError("holds a series this database's layout does not know", object_name=table.name)
                found.add(family)
    return sorted(found)


class _Cursor:
    """One source's blocks in key order, taken as rows or as the series of a family, whichever the caller is at."""

    def __init__(self, blocks: Iterator[RowChunk | SeriesChunk]) -> None:
        self._blocks = blocks
        self._next = next(blocks, None)

    def rows_below(self, high: bytes | None) -> Iterator[RowChunk]:
        """The rows with keys below `high` that come next."""
        while isinstance(self._next, RowChunk):
            block = self._next
            below = block.clip(None, high)
            if len(below) < len(block):
                self._next = block.slice(len(below), len(block))
                if len(below):
                    yield below
                return
            yield block
            self._next = next(self._blocks, None)

    def series(self, family: bytes) -> Iterator[SeriesChunk]:
        """The series blocks of the family that come next."""
        while isinstance(self._next, SeriesChunk) and self._next.family == family:
            yield self._next
            self._next = next(self._blocks, None)
