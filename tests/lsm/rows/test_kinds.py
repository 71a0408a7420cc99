"""A row, frame or block of a kind that only a newer version knows is refused by every decoder and every reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

import lsm
from lsm.errors import CorruptionError
from lsm.object_store import MemoryStore
from lsm.rows.chunk import RowChunk
from lsm.rows.kind import KNOWN_KINDS, TOMBSTONE, VALUE, RowKind, are_values, check_kinds, seen, take_kinds, value_of
from lsm.rows.memtable import Memtable
from lsm.rows.merge import merge_rows, prune_rows, visible_rows
from lsm.runtime import Runtime
from lsm.sst.block import KIND_ROWS, KIND_SERIES, RowsBlock, encode_rows, encode_series
from lsm.sst.index import KIND_FILTER, Index, encode_index
from lsm.sst.table import decode_block
from lsm.wal.frames import FRAME, MARK_FRAME, decode_frames, encode_frame
from tests.lsm.support import FAMILIES, abandon, append, layouts, open_db, read_names, read_rows, read_series, tiny

MERGE = RowKind.MERGE
UNKNOWN_ROW = f"row kind {MERGE:d} is unknown: a newer version wrote it: update the library"
UNKNOWN_BLOCK = "block kind 9 is unknown: a newer version wrote it: update the library"
COLUMNS: list[Sequence[int]] = [
    [MERGE],
    [MERGE] * 3,
    [VALUE, MERGE, TOMBSTONE],
    [VALUE, VALUE, 255],
    [VALUE, 256, VALUE],
    [1 << 40] * 3,
    [TOMBSTONE, VALUE, 1 << 40],
]
"""Stored as equal items, and as items of 1, 2, 4 and 8 bytes."""


def chunk_of(kinds: Sequence[int]) -> RowChunk:
    rows = range(len(kinds))
    return RowChunk([b"p0k%d" % at for at in rows], list(rows), kinds, [b"v"] * len(kinds))


def test_the_stored_bytes_of_kinds_never_change() -> None:
    assert {kind.name: kind.value for kind in RowKind} == {"VALUE": 0, "TOMBSTONE": 1, "MERGE": 2}
    assert bytes((RowKind.VALUE, RowKind.TOMBSTONE)) == KNOWN_KINDS
    assert (type(VALUE), type(TOMBSTONE)) == (int, int)


# -- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", COLUMNS, ids=str)
def test_refuses_a_block_with_a_row_of_an_unknown_kind(kinds: Sequence[int]) -> None:
    with pytest.raises(CorruptionError, match=rf"^sst/5 at byte 77: row kind {max(kinds)} is unknown.*update the lib"):
        RowsBlock(encode_rows(chunk_of(kinds)), name="sst/5", offset=77)


@pytest.mark.parametrize("kinds", COLUMNS, ids=str)
def test_refuses_a_frame_with_a_row_of_an_unknown_kind(kinds: Sequence[int]) -> None:
    rows = chunk_of(kinds)
    frame = encode_frame(b"", 1, 0, [len(rows)], rows.keys, kinds, rows.values)

    with pytest.raises(CorruptionError, match=rf"^wal/5 at byte \d+: row kind {max(kinds)} is unknown.*update the lib"):
        list(decode_frames(frame, 0, len(frame), name="wal/5"))


@pytest.mark.parametrize("kinds", [[], [VALUE], [TOMBSTONE] * 3, [VALUE, TOMBSTONE, VALUE]], ids=str)
@pytest.mark.parametrize("width", [0, 1, 2, 4, 8])
def test_takes_every_known_kind_however_wide_it_is_stored(kinds: list[int], width: int) -> None:
    if len(set(kinds)) > 1 and not width:
        return
    items = kinds if width else kinds[:1]
    data = bytes([width]) + b"".join(kind.to_bytes(width or 8, "little") for kind in items) if kinds else b""

    found, end = take_kinds(b"before" + data, 6, len(kinds), name="n", offset=0)

    assert (list(found), end) == (kinds, 6 + len(data))
    assert bytes(found) == bytes(kinds)


@pytest.mark.parametrize("kind", [0, KIND_FILTER, 9, 255])
def test_refuses_a_block_of_an_unknown_kind(kind: int) -> None:
    for payload in (encode_rows(chunk_of([VALUE])), encode_series(b"f", [b"n"], [1], [1], [b"v"])):
        with pytest.raises(CorruptionError, match=rf"^sst/5 at byte 77: block kind {kind} is unknown.*update the lib"):
            decode_block(kind, payload, name="sst/5", offset=77)


@pytest.mark.parametrize("kinds", [[9, 9], [KIND_ROWS, 9], [9, KIND_SERIES], [KIND_ROWS, 9 << 8]], ids=str)
def test_refuses_an_index_with_a_block_of_an_unknown_kind(kinds: list[int]) -> None:
    with pytest.raises(CorruptionError, match=r"^sst/5 at byte 77: block kind \d+ is unknown.*update the library"):
        Index(encode_index([b"a", b"k"], kinds, [100, 90], [10, 12]), name="sst/5", offset=77)


@pytest.mark.parametrize("kind", [0, 4, 255])
def test_refuses_a_frame_of_an_unknown_kind(kind: int) -> None:
    for family in (b"", b"fam"):
        frame = FRAME.pack(kind, 0, len(family), 0, 0, 7, 0) + family
        with pytest.raises(CorruptionError, match=rf"^wal/5 at .*frame kind {kind} is unknown.*update the library"):
            list(decode_frames(frame, 0, len(frame), name="wal/5"))


def test_refuses_a_mark_with_rows() -> None:
    frame = FRAME.pack(MARK_FRAME, 0, 0, 1, 1, 7, 0)

    with pytest.raises(CorruptionError, match=r"a frame of kind 3 with 1 rows"):
        list(decode_frames(frame, 0, len(frame), name="wal/5"))


# -- rows in memory ---------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[RowChunk], object]] = {
    "check": lambda rows: check_kinds(rows.kinds),
    "seen": lambda rows: seen(rows.kinds),
    "visible": lambda rows: visible_rows(rows, 99),
    "flush": lambda rows: prune_rows(rows, (), at_bottom=False),
    "flush under snapshots": lambda rows: prune_rows(rows, (1, 2), at_bottom=False),
    "compaction": lambda rows: prune_rows(rows, (), at_bottom=True),
    "merge": lambda rows: [
        visible_rows(each, 99) for each in merge_rows([iter([rows]), iter([chunk_of([1, 0, 1, 0])])])
    ],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kinds", [[MERGE], [VALUE, MERGE], [TOMBSTONE, VALUE, MERGE]], ids=str)
def test_refuses_rows_of_an_unknown_kind_in_memory(reader: str, kinds: Sequence[int]) -> None:
    for column in (kinds, tuple(kinds), bytes(kinds)):
        with pytest.raises(CorruptionError, match=UNKNOWN_ROW):
            READERS[reader](chunk_of(column))


def test_an_unknown_row_is_not_dropped_because_a_newer_version_hides_it() -> None:
    rows = RowChunk([b"a", b"a"], [2, 1], [VALUE, MERGE], [b"new", b"operand"])

    for at_bottom in (False, True):
        with pytest.raises(CorruptionError, match=UNKNOWN_ROW):
            prune_rows(rows, (), at_bottom=at_bottom)


def test_knows_what_each_kind_makes_of_a_key() -> None:
    assert (value_of(VALUE, b"v"), value_of(TOMBSTONE, b"")) == (b"v", None)
    assert list(seen([VALUE, TOMBSTONE, VALUE])) == [1, 0, 1]
    assert [are_values(kinds) for kinds in ((), [VALUE] * 3, (VALUE, TOMBSTONE))] == [True, True, False]
    with pytest.raises(CorruptionError, match=UNKNOWN_ROW):
        value_of(MERGE, b"v")


def test_a_memtable_keeps_an_unknown_kind_for_its_readers_to_refuse() -> None:
    table = Memtable(Runtime())
    table.put_rows(1, [b"a", b"b"], [VALUE, MERGE], [b"v", b"operand"], 9)

    for descending in (False, True):
        with pytest.raises(CorruptionError, match=UNKNOWN_ROW):
            list(map(seen, (each.kinds for each in table.scan(None, None, 9, descending=descending))))
    with pytest.raises(CorruptionError, match=UNKNOWN_ROW):
        [prune_rows(each, (), at_bottom=False) for each in table.all_rows()]


# -- databases --------------------------------------------------------------------------------------------------------


def merge_batch() -> lsm.WriteBatch:
    """A batch as a newer version would write it."""
    batch = lsm.WriteBatch().put(b"p0a", b"value").delete(b"p0c")
    batch._rows[b"p0b"] = (MERGE, b"operand")
    return batch


QUIET = tiny(l0_sst_size_bytes=1 << 20, l0_compaction_min=10, l0_compaction_max=12, op_timeout=1.0)


def with_log() -> MemoryStore:
    """A database whose log holds a row of an unknown kind."""
    store = MemoryStore()
    db = open_db(store, QUIET)
    db.write(merge_batch())
    db.flush()
    abandon(db)
    return store


def with_table(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """A database whose only table holds a row of an unknown kind."""
    store = MemoryStore()
    with monkeypatch.context() as patch, open_db(store, QUIET) as db:
        patch.setattr("lsm.write.level0_tables.prune_rows", lambda rows, *_, **__: rows)
        db.write(merge_batch())
        db.flush(lsm.FlushType.MEMTABLE)
    return store


def with_blocks(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """A database whose tables hold series in blocks of an unknown kind."""
    store = MemoryStore()
    with monkeypatch.context() as patch, open_db(store, QUIET) as db:
        patch.setattr("lsm.sst.builder.KIND_SERIES", 9)
        append(db, FAMILIES[0], [(b"s%d" % (at % 3), b"value %d" % at) for at in range(90)], 0)
        db.flush(lsm.FlushType.MEMTABLE)
    return store


READS: dict[str, Callable[[Any], object]] = {
    "get": lambda db: db.get(b"p0b"),
    "get_many": lambda db: db.get_many([b"p0a", b"p0b"]),
    "scan": lambda db: list(db.scan()),
    "scan descending": lambda db: list(db.scan(order=lsm.IterationOrder.DESCENDING)),
    "scan_prefix": lambda db: list(db.scan_prefix(b"p0")),
}
SERIES_READS: dict[str, Callable[[Any], object]] = {
    "series": lambda db: read_series(db, FAMILIES[0], b"s1"),
    "series descending": lambda db: list(db.scan_series(FAMILIES[0], b"s1", descending=True)),
    "names": lambda db: (read_names(db, FAMILIES[0]), read_rows(db)),
    "count": lambda db: db.count_series(FAMILIES[0], b"s1"),
    "count about": lambda db: db.count_series(FAMILIES[0], b"s1", approximate=True),
    "inspect": lambda db: db.inspect_series(FAMILIES[0], b"s1"),
    "get": lambda db: db.get(FAMILIES[0] + b"s1\x00" + (1).to_bytes(8, "big")),
}


@pytest.mark.parametrize("read", READS)
def test_no_read_of_memory_takes_an_unknown_kind_for_a_value(read: str) -> None:
    db = open_db(MemoryStore(), QUIET)
    db.write(merge_batch())

    with pytest.raises(CorruptionError, match=UNKNOWN_ROW):
        READS[read](db)
    abandon(db)


@pytest.mark.parametrize("read", READS)
def test_no_read_of_a_table_takes_an_unknown_kind_for_a_value(monkeypatch: pytest.MonkeyPatch, read: str) -> None:
    store = with_table(monkeypatch)

    with open_db(store, QUIET) as db, pytest.raises(CorruptionError, match=rf"^sst/.*{UNKNOWN_ROW}"):
        READS[read](db)
    with (
        lsm.DbReader.open("memory://", QUIET, object_store=store, **layouts()) as reader,
        pytest.raises(CorruptionError, match=rf"^sst/.*{UNKNOWN_ROW}"),
    ):
        READS[read](reader)


@pytest.mark.parametrize("read", SERIES_READS)
def test_no_read_of_series_passes_over_blocks_of_an_unknown_kind(monkeypatch: pytest.MonkeyPatch, read: str) -> None:
    with (
        open_db(with_blocks(monkeypatch), QUIET) as db,
        pytest.raises(CorruptionError, match=rf"^sst/.*{UNKNOWN_BLOCK}"),
    ):
        SERIES_READS[read](db)


def test_a_log_with_an_unknown_kind_is_not_replayed() -> None:
    store = with_log()

    with pytest.raises(CorruptionError, match=rf"^wal/.*{UNKNOWN_ROW}"):
        open_db(store, QUIET)
    with pytest.raises(CorruptionError, match=rf"^wal/.*{UNKNOWN_ROW}"):
        lsm.DbReader.open("memory://", QUIET, object_store=store, **layouts())


def test_a_flush_stores_no_unknown_kind_and_drops_none() -> None:
    store = MemoryStore()
    db = open_db(store, QUIET)
    db.write(merge_batch())

    with pytest.raises(lsm.Error, match=UNKNOWN_ROW):
        db.flush(lsm.FlushType.MEMTABLE)

    assert not [name for name in store._objects if name.startswith("sst/")]
    abandon(db)
    with pytest.raises(CorruptionError, match=UNKNOWN_ROW):
        open_db(store, QUIET)


@pytest.mark.parametrize("table", [with_table, with_blocks])
def test_a_compaction_stops_at_an_unknown_kind(
    monkeypatch: pytest.MonkeyPatch, table: Callable[[pytest.MonkeyPatch], MemoryStore]
) -> None:
    store = table(monkeypatch)
    db = open_db(store, QUIET)
    before = [table.name for partition in db.manifest.partitions for table in partition.l0]
    append(db, FAMILIES[0], [(b"s1", b"later")], 1000)
    db.put(b"p0b", b"hides the operand")
    db.flush(lsm.FlushType.MEMTABLE)

    with pytest.raises((CorruptionError, lsm.ClosedError)):
        db.compact()
    with pytest.raises(CorruptionError, match="is unknown: a newer version wrote it"):
        db.check()

    assert set(before) < {table.name for partition in db.manifest.partitions for table in partition.l0}
    abandon(db)


@pytest.mark.parametrize("table", [with_table, with_blocks])
def test_fsck_tells_of_an_unknown_kind_in_a_table(
    monkeypatch: pytest.MonkeyPatch, table: Callable[[pytest.MonkeyPatch], MemoryStore]
) -> None:
    report = lsm.fsck("memory://", object_store=table(monkeypatch), settings=QUIET, **layouts_of_fsck())

    assert [each.message for each in report.problems if "is unknown: a newer version wrote it" in each.message]


def test_fsck_tells_of_an_unknown_kind_in_the_log() -> None:
    report = lsm.fsck("memory://", object_store=with_log(), settings=QUIET, **layouts_of_fsck())

    assert [each.message for each in report.problems if "is unknown: a newer version wrote it" in each.message]


def layouts_of_fsck() -> dict[str, Any]:
    return {"series_layout": layouts()["series_layout"]}
