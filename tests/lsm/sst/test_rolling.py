"""Tables of a bounded size: what is gathered is taken apart again where it is large."""

from __future__ import annotations

import itertools

import pytest

from lsm.object_store import MemoryStore
from lsm.object_store.reliable import ReliableStore
from lsm.rows.chunk import RowChunk, SeriesChunk
from lsm.rows.kind import VALUE
from lsm.runtime import Runtime
from lsm.sst import rolling
from lsm.sst.block import SeriesBlock
from lsm.sst.builder import TableFormat, TableInfo
from lsm.sst.cache import Caches
from lsm.sst.read_ahead import Span, read_blocks
from lsm.sst.table import TableReader

DATABASE = b"d" * 16


class Tables:
    """A place for tables, and a way to read all that is in them."""

    def __init__(self, table_bytes: int) -> None:
        self.store = MemoryStore()
        self.infos: list[TableInfo] = []
        self.rolling = rolling.RollingTables(
            DATABASE,
            itertools.count(1),
            TableFormat(block_bytes=256, compression=None),
            table_bytes=table_bytes,
            put=self._put,
        )

    def _put(self, info: TableInfo, parts: list[bytes]) -> None:
        self.store.put_if_absent(info.name, parts, timeout=1.0)
        self.infos.append(info)

    def rows(self) -> list[tuple[bytes, int, bytes]]:
        """Key or name, sequence or number, and value."""
        runtime = Runtime()
        reliable = ReliableStore(self.store, runtime, op_timeout=5, request_timeout=5)
        reader = TableReader(reliable, DATABASE, runtime, caches=Caches(runtime=runtime))
        found: list[tuple[bytes, int, bytes]] = []
        for info in self.infos:
            index = reader.index(info)
            for _, block in read_blocks(reader, [Span(info, index, 0, len(index))]):
                if isinstance(block, SeriesBlock):
                    chunk = block.chunk()
                    names = (name for name, count in zip(chunk.names, chunk.counts, strict=True) for _ in range(count))
                    found += list(zip(names, chunk.positions, chunk.values, strict=True))
                else:
                    found += list(zip(block.keys, block.seqs, block.values, strict=True))
        return found


@pytest.mark.parametrize("piece", [1, 100, 700, 1 << 20])
@pytest.mark.parametrize("table_bytes", [300, 1 << 20])
def test_rows_of_one_key_stay_in_one_table_however_small_the_pieces(
    monkeypatch: pytest.MonkeyPatch, piece: int, table_bytes: int
) -> None:
    monkeypatch.setattr(rolling, "PIECE_BYTES", piece)
    rows = [(b"key%02d" % key, 100 - version, b"x" * 30) for key in range(30) for version in range(1 + key % 5)]
    keys, seqs, values = (list(column) for column in zip(*rows, strict=True))
    tables = Tables(table_bytes)

    tables.rolling.add_rows(RowChunk([], [], [], []))
    tables.rolling.add_rows(RowChunk(keys, seqs, [VALUE] * len(rows), values))
    tables.rolling.finish()

    assert tables.rows() == rows
    edges = [(one.last_key, two.first_key) for one, two in itertools.pairwise(tables.infos)]
    assert all(before < after for before, after in edges)
    assert bool(edges) is (table_bytes == 300 and piece < 1 << 20)


@pytest.mark.parametrize("piece", [1, 100, 700, 1 << 20])
def test_series_go_on_from_piece_to_piece_and_from_table_to_table(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(rolling, "PIECE_BYTES", piece)
    monkeypatch.setattr(rolling, "TABLE_BYTES_MAX", 1500)
    names, counts = [b"a", b"b", b"c", b"d"], [1, 40, 2, 17]
    numbers = [number for count in counts for number in range(count)]
    values = [b"%03d" % at * 10 for at in range(len(numbers))]
    tables = Tables(1 << 20)

    tables.rolling.add_series(SeriesChunk(b"fL", names, counts, numbers, values))
    tables.rolling.finish()

    expected = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    assert tables.rows() == list(zip(expected, numbers, values, strict=True))
    assert (len(tables.infos) > 1) is (piece < 1 << 20)
