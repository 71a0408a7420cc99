"""Verifies every block of every table, and the order between the tables of a tree. Memory: some blocks per sorted source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import merge
from itertools import groupby, pairwise
from operator import gt, itemgetter, le
from typing import Any

from lsm.audit.report import FsckReport
from lsm.coding import CHECKSUM
from lsm.errors import CorruptionError, TableMissingError
from lsm.manifest.model import Manifest, Partition
from lsm.native.checksum import crc32c
from lsm.object_store.contract import ObjectMissing
from lsm.object_store.reliable import ReliableStore
from lsm.rows.chunk import RowChunk, SeriesLayout, prefix_end, series_key, series_prefixes
from lsm.sst.block import BLOCK_CHECKSUM, SeriesBlock
from lsm.sst.bloom import digest
from lsm.sst.builder import FOOTER, FOOTER_MAGIC, TABLE_VERSION, TableInfo, content_digest
from lsm.sst.index import Index
from lsm.sst.read_ahead import Span, read_blocks
from lsm.sst.table import TableReader, table_missing

Extent = tuple[bytes, bytes, int, int, int]
"""A series' rows in one block: family, name, source (0 is the oldest), first and last number."""


class SummedReader(TableReader):
    """Records the checksums of the blocks that it reads while a table is verified. Their digest must be the table's
    `content`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._sums: dict[int, dict[int, bytes]] = {}
        self._meta_sums: dict[int, dict[int, bytes]] = {}

    @contextmanager
    def summing(self, table: TableInfo) -> Iterator[dict[int, bytes]]:
        """Record the checksums, by offset, of what is read of the table while the block runs."""
        sums = self._sums[table.number] = {}
        self.meta(table)  # If it is cached, its checksums were recorded when it was read.
        sums.update(self._meta_sums[table.number])
        try:
            yield sums
        finally:
            self._sums.pop(table.number, None)

    def _verified(
        self, table: TableInfo, data: bytes | memoryview, offset: int, seed: int | None = None
    ) -> tuple[int, bytes | memoryview]:
        found = super()._verified(table, data, offset, seed)
        of = (
            self._meta_sums.setdefault(table.number, {})
            if offset >= table.filter_offset
            else self._sums.get(table.number)
        )
        if of is not None:
            of[offset] = bytes(data[: BLOCK_CHECKSUM.stop])
        return found


class TableCheck:
    """Verifies tables of one version of the manifest. Damage goes into the report."""

    def __init__(
        self,
        store: ReliableStore,
        tables: SummedReader,
        manifest: Manifest,
        report: FsckReport,
        *,
        layout: SeriesLayout | None,
        is_needed: Callable[[int], bool],
        advance: Callable[[int], None],
    ) -> None:
        """`is_needed`: whether the newest manifest or one of its checkpoints still needs a table that is missing."""
        self._store = store
        self._tables = tables
        self._manifest = manifest
        self._owners = manifest.owners()
        self._report = report
        self._layout = layout
        self._is_needed = is_needed
        self._advance = advance
        self._is_listing_broken = False

    def check_partition(self, partition: Partition) -> None:
        """Verify all tables of a tree, the order of each series' numbers from the deepest table up (rule C5), and the listing
        of series names."""
        sources: list[Sequence[TableInfo]] = [run.tables for run in reversed(partition.runs)]
        sources += [(table,) for table in reversed(partition.l0)]
        streams = [self._extents(partition, group, age) for age, group in enumerate(sources)]
        ends = dict(partition.series_ends)
        series = groupby(merge(*streams), key=itemgetter(0, 1))
        for family, names in groupby(((key, list(extents)) for key, extents in series), key=lambda item: item[0][0]):
            listing = self._listing(partition, family)
            for (_, name), extents in names:
                self._check_series(partition, family, name, extents, ends.get(family, 0))
                if listing is not None and next(listing, None) != name:
                    if not self._is_listing_broken:
                        self._report.add(f"series {name!r} of family {family!r} is not listed")
                    listing = None

    def check_table(self, partition: Partition, table: TableInfo) -> None:
        """Verify one table."""
        for _ in self._extents(partition, (table,), 0):
            continue

    def _check_series(
        self, partition: Partition, family: bytes, name: bytes, extents: Sequence[Extent], end: int
    ) -> None:
        where = f"series {name!r} of family {family!r}"
        for (*_, last), (_, _, source, first, _) in pairwise(extents):
            if first <= last:
                self._report.add(f"{where}: number {first} of source {source} comes after {last}")
        if extents[-1][4] >= end:
            self._report.add(
                f"{where} goes to {extents[-1][4]}, partition {partition.prefix!r} says it ends before {end}"
            )

    def _listing(self, partition: Partition, family: bytes) -> Iterator[bytes] | None:
        """Return the listed names of a family; None: the family has no listing."""
        directory = self._layout.directory(family) if self._layout is not None else None
        if directory is None:
            return None
        return self._listed(partition, directory)

    def _listed(self, partition: Partition, directory: bytes) -> Iterator[bytes]:
        low, high = directory, prefix_end(directory)
        groups = [(table,) for table in partition.l0] + [run.tables_for(low, high) for run in partition.runs]
        skip = len(directory)
        names = merge(*(self._keys(group, low, high) for group in groups))
        return (key[skip:] for key, _ in groupby(names))

    def _keys(self, tables: Sequence[TableInfo], low: bytes, high: bytes | None) -> Iterator[bytes]:
        for table in tables:
            try:
                if table.overlaps(low, high):
                    index = self._tables.index(table)
                    span = Span(table, index, *index.blocks_for(low, high))
                    for _, block in read_blocks(self._tables, [span], keep=False):
                        if isinstance(block, RowChunk):
                            yield from block.clip(low, high).keys
            except CorruptionError:  # The check of the table reports it, unless the table was collected.
                self._is_listing_broken = True
                return

    # -- one table ----------------------------------------------------------------------------------------------------

    def _extents(self, partition: Partition, tables: Sequence[TableInfo], age: int) -> Iterator[Extent]:
        """Yield the series of a sorted source, and verify its tables on the way."""
        for table in tables:
            self._report.tables += 1
            try:
                self._check_footer(table)
                with self._tables.summing(table) as sums:
                    yield from self._blocks(partition, table, age)
                if table.content and content_digest([sums[at] for at in sorted(sums)]) != table.content:
                    why = "holds other rows than the manifest says: of another copy of this database?"
                    raise CorruptionError(why, object_name=table.name)
            except TableMissingError as error:
                if self._is_needed(table.number):
                    self._report.add_error(error)
                else:
                    self._report.notes.append(f"{table.name} was compacted away and collected meanwhile")
            except CorruptionError as error:
                self._report.add_error(error)
            self._report.bytes += table.size
            self._advance(table.size)

    def _check_footer(self, table: TableInfo) -> None:
        owner = self._owners.get(table.number, self._manifest.database)

        def check() -> None:
            data = self._store.get_range(table.name, table.index_end, table.size + 1)
            problem = _footer_problem(data, table, owner)
            if problem:
                raise CorruptionError(problem, object_name=table.name, offset=table.index_end)

        try:
            self._store.insist(check, is_known=True)
        except ObjectMissing as error:
            raise table_missing(error, table, 0) from error

    def _blocks(self, partition: Partition, table: TableInfo, age: int) -> Iterator[Extent]:
        filters, index = self._tables.meta(table)
        before = b""
        last = b""
        blocks = read_blocks(self._tables, [Span(table, index, 0, len(index))], keep=False)
        for at, (_, block) in enumerate(blocks):
            offset = index.offsets[at]
            if isinstance(block, RowChunk):
                first, last = block.keys[0], block.keys[-1]
                problem = _row_problem(block, self._manifest.last_seq)
                items = list(dict.fromkeys(block.keys))
            else:
                first = series_key(block.family, block.names[0], block.positions[0])
                last = series_key(block.family, block.names[-1], block.positions[-1])
                problem = _series_problem(block)
                items = series_prefixes(block.family, block.names)
                problem = problem or _positions_problem(block, items, table, index)
            key = index.keys[at]
            if (
                not (before < key <= first if at else key == first)
                or len(block) != index.rows_before[at + 1] - index.rows_before[at]
            ):
                problem = problem or "the index does not agree with the block"
            if before >= first:
                problem = problem or f"key {first!r} comes after {before!r}"
            if not (first.startswith(partition.prefix) and last.startswith(partition.prefix)):
                problem = problem or f"keys from {first!r} to {last!r} are not in partition {partition.prefix!r}"
            if filters is not None and not all(map(filters.may_contain, items)):
                problem = problem or "the filter does not know all keys of the block"
            if problem:
                raise CorruptionError(problem, object_name=table.name, offset=offset)
            self._report.blocks += 1
            self._report.rows += len(block)
            before = last
            if isinstance(block, SeriesBlock):
                yield from _extents_of(block, age)
        if (index.keys[0], last) != (table.first_key, table.last_key):
            why = f"holds keys from {index.keys[0]!r} to {last!r}, the manifest says {table.first_key!r}, {table.last_key!r}"
            raise CorruptionError(why, object_name=table.name)


def _footer_problem(data: bytes, table: TableInfo, owner: bytes) -> str | None:
    size = FOOTER.size + CHECKSUM.size
    if len(data) != size or table.size != table.index_end + size:
        return f"ends {len(data)} bytes after the index, a footer has {size}, and the manifest says {table.size} in all"
    if CHECKSUM.pack(crc32c(data[: FOOTER.size], crc32c(table.name.encode()))) != data[FOOTER.size :]:
        return "the footer's checksum does not match"
    magic, version, _, database, *places = FOOTER.unpack_from(data)
    if magic != FOOTER_MAGIC or not 1 <= version <= TABLE_VERSION:
        return f"the footer is of an unknown format, {magic!r} version {version}: update the library"
    wanted = [table.number, table.filter_offset, table.index_offset, table.index_end, table.rows]
    if database != owner or places != wanted:
        return (
            f"the footer does not agree with the manifest: {places} of {database.hex()}, not {wanted} of {owner.hex()}"
        )
    return None


def _positions_problem(block: SeriesBlock, prefixes: Sequence[bytes], table: TableInfo, index: Index) -> str | None:
    """Return the problem if manifest or index exclude a number of the block: readers would miss its row."""
    for prefix, (start, end) in zip(prefixes, pairwise(block.starts), strict=True):
        first, last = block.positions[start], block.positions[end - 1]
        if not (table.may_reach(first, first + 1) and table.may_reach(last, last + 1)):
            known = f"{table.first_position} to {table.last_position}"
            return f"position {first} or {last} is outside what the manifest says, {known}"
        if index.last_positions is not None and not index.last_positions.may_reach(digest(prefix), last):
            return f"the index says that a series of the block ends before number {last}"
    return None


def _extents_of(block: SeriesBlock, age: int) -> Iterator[Extent]:
    positions = block.positions
    for name, (start, end) in zip(block.names, pairwise(block.starts), strict=True):
        yield block.family, name, age, positions[start], positions[end - 1]


def _row_problem(rows: RowChunk, last_seq: int) -> str | None:
    keys, seqs = rows.keys, rows.seqs
    if not all(map(le, keys, keys[1:])):
        return "keys are not sorted"
    if any(one == two and not newer > older for one, two, newer, older in zip(keys, keys[1:], seqs, seqs[1:])):
        return "versions of a key are not newest first"
    if max(seqs) > last_seq:
        return f"holds batch {max(seqs)}, the manifest knows batches up to {last_seq}"
    return None


def _series_problem(block: SeriesBlock) -> str | None:
    if not all(map(gt, block.names[1:], block.names)):
        return "series names are not sorted"
    positions = block.positions
    for start, end in pairwise(block.starts):
        part = positions[start:end]
        if not part or not all(map(gt, part[1:], part)):
            return "the numbers of a series do not ascend"
    return None
