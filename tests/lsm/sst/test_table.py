"""A table's parts and the whole of it: what is put in comes out, and nothing that is damaged does."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from lsm.coding import decoding, put_ints, put_strings, take_ints, take_strings
from lsm.errors import CorruptionError
from lsm.object_store import MemoryStore
from lsm.object_store.reliable import ReliableStore
from lsm.rows.chunk import RowChunk, series_prefix
from lsm.runtime import Runtime
from lsm.sst.block import (
    BlockSealer,
    SeriesBlock,
    checksum_seed,
    decode_rows,
    encode_rows,
    encode_series,
    open_block,
)
from lsm.sst.bloom import Filter, FilterBuilder
from lsm.sst.builder import TableBuilder, TableFormat, TableInfo
from lsm.sst.cache import Caches
from lsm.sst.index import Index, encode_index
from lsm.sst.read_ahead import Span, read_blocks
from lsm.sst.table import Block, TableReader

DATABASE = b"d" * 16
RUNTIME = Runtime()


def blocks_of(reader: TableReader, info: TableInfo) -> list[Block]:
    index = reader.index(info)
    return [block for _, block in read_blocks(reader, [Span(info, index, 0, len(index))])]


ints = st.lists(st.one_of(st.integers(0, 300), st.sampled_from([0, 255, 256, 65535, 65536, 1 << 32, (1 << 64) - 1])))
strings = st.lists(st.one_of(st.binary(max_size=3), st.just(b"x" * 300)))


@given(ints, st.binary(max_size=3))
def test_reads_integer_columns_back(values: list[int], before: bytes) -> None:
    parts = [before]
    put_ints(values, parts.append)
    data = b"".join(parts)

    found, at = take_ints(data + b"after", len(before), len(values))

    assert list(found) == values
    assert at == len(data)


@given(strings)
def test_reads_string_columns_back(values: list[bytes]) -> None:
    parts: list[bytes] = []
    put_strings(values, parts.append)
    data = b"".join(parts)

    assert take_strings(data, 0, len(values)) == (values, len(data))


@given(st.binary(max_size=40), st.integers(0, 1000))
def test_decodes_junk_or_says_so(data: bytes, count: int) -> None:
    for decode in (
        lambda: take_ints(data, 0, count),
        lambda: take_strings(data, 0, count),
        lambda: decode_rows(data, name="n", offset=0),
        lambda: SeriesBlock(data, name="n", offset=0),
        lambda: Index(data, name="n", offset=0),
        lambda: Filter(data, name="n", offset=0),
    ):
        try:
            with decoding("n"):
                decode()
        except CorruptionError as error:
            assert error.object_name == "n"


rows_strategy = st.dictionaries(
    st.binary(min_size=1, max_size=4),
    st.lists(st.tuples(st.booleans(), st.binary(max_size=30)), min_size=1, max_size=4),
    min_size=1,
    max_size=40,
)


def as_chunk(history: dict[bytes, list[tuple[bool, bytes]]]) -> RowChunk:
    rows = [
        (key, seq, int(is_deleted), value)
        for key in sorted(history)
        for seq, (is_deleted, value) in reversed(list(enumerate(history[key], 1)))
    ]
    return RowChunk(*(list(column) for column in zip(*rows, strict=True)))  # type: ignore[arg-type]


def columns(chunk: RowChunk) -> list[list[object]]:
    return [list(chunk.keys), list(chunk.seqs), list(chunk.kinds), list(chunk.values)]


@given(rows_strategy)
def test_reads_rows_blocks_back(history: dict[bytes, list[tuple[bool, bytes]]]) -> None:
    chunk = as_chunk(history)

    assert columns(decode_rows(encode_rows(chunk), name="n", offset=0)) == columns(chunk)


@pytest.mark.parametrize("compression", ["zstd", None])
def test_refuses_a_block_in_any_other_place(compression: str | None) -> None:
    seed = checksum_seed(DATABASE, "sst/1")
    block = BlockSealer(seed, compression=compression, level=1).seal(b"abc" * 500, 1, 100)

    assert open_block(block, seed=seed, name="sst/1", offset=100) == (1, b"abc" * 500)
    for other, offset in (
        (seed, 101),
        (checksum_seed(DATABASE, "sst/2"), 100),
        (checksum_seed(b"e" * 16, "sst/1"), 100),
    ):
        with pytest.raises(CorruptionError, match="checksum"):
            open_block(block, seed=other, name="sst/1", offset=offset)
    for size in range(len(block)):
        with pytest.raises(CorruptionError):
            open_block(block[:size], seed=seed, name="sst/1", offset=100)


@given(st.sets(st.binary(max_size=6), min_size=1), st.integers(1, 20))
def test_never_denies_what_is_in_a_filter(items: set[bytes], bits: int) -> None:
    found = Filter(built_filter(sorted(items), bits), name="n", offset=0)

    assert all(map(found.may_contain, items))


def built_filter(items: list[bytes], bits: int, *, width: int = 7) -> bytes:
    """Added in calls that repeat the item before."""
    builder = FilterBuilder(bits)
    for start in range(0, len(items), width):
        builder.add(items[max(0, start - 1) : start + width])
    assert builder.items == len(items)
    return builder.finish()


@pytest.mark.parametrize("bits", [1, 10, 16, 1000, 70_000])
def test_never_denies_what_is_in_a_filter_of_many_groups(bits: int) -> None:
    items = [b"%06d" % at for at in range(9000 if bits < 1000 else 200)]
    found = Filter(built_filter(items, bits, width=1000), name="n", offset=0)

    assert all(map(found.may_contain, items))
    assert not found.may_contain(b"")
    if bits >= 10:
        assert sum(found.may_contain(item + b"x") for item in items) < len(items) // 30


def test_lets_few_absent_keys_through_a_filter() -> None:
    found = Filter(built_filter(sorted(b"%d" % at for at in range(2000)), 16), name="n", offset=0)

    assert sum(found.may_contain(b"absent %d" % at) for at in range(4000)) < 40


def test_finds_the_blocks_of_a_range() -> None:
    index = Index(encode_index([b"b", b"d", b"f"], [1, 1, 1], [10, 20, 30], [1, 2, 3]), name="n", offset=0)

    assert index.offsets == [0, 10, 30, 60]
    assert index.rows_before == [0, 1, 3, 6]
    assert index.blocks_for(None, None) == (0, 3)
    assert index.blocks_for(b"a", b"b") == (0, 0)
    assert index.blocks_for(b"c", b"d") == (0, 1)
    assert index.blocks_for(b"d", b"f\x00") == (1, 3)
    assert index.blocks_for(b"z", None) == (2, 3)


def stored(builder: TableBuilder) -> tuple[TableReader, object]:
    info, parts = builder.finish()
    store = MemoryStore()
    reliable = ReliableStore(store, RUNTIME, op_timeout=1.0, request_timeout=1.0)
    reliable.put_new(info.name, parts)
    assert info.size == len(store._objects[info.name])
    return TableReader(reliable, DATABASE, RUNTIME, caches=Caches(runtime=RUNTIME)), info


@given(rows_strategy, st.sampled_from([64, 100, 4096]), st.sampled_from(["zstd", None]))
@settings(max_examples=60)
def test_reads_a_table_of_rows_back(
    history: dict[bytes, list[tuple[bool, bytes]]], size: int, compression: str | None
) -> None:
    chunk = as_chunk(history)
    builder = TableBuilder(DATABASE, 7, TableFormat(block_bytes=size, compression=compression, min_filter_keys=0))
    builder.add_rows(chunk)

    reader, info = stored(builder)
    blocks = blocks_of(reader, info)  # type: ignore[arg-type]

    assert [[item for block in blocks for item in columns(block)[at]] for at in range(4)] == columns(chunk)  # type: ignore[arg-type]
    assert all(one.keys[-1] < two.keys[0] for one, two in itertools.pairwise(blocks))  # type: ignore[union-attr]
    assert all(reader.may_contain(info, key) for key in history)  # type: ignore[arg-type]
    assert (info.first_key, info.last_key, info.rows) == (chunk.keys[0], chunk.keys[-1], len(chunk))  # type: ignore[attr-defined]
    assert info.tombstones == sum(is_deleted for versions in history.values() for is_deleted, _ in versions)  # type: ignore[attr-defined]


groups_strategy = st.dictionaries(
    st.binary(max_size=3), st.lists(st.binary(max_size=40), min_size=1, max_size=60), min_size=1, max_size=6
)


@given(groups_strategy, st.integers(1, 70), st.sampled_from([64, 300, 4096]))
@settings(max_examples=60)
def test_reads_a_table_of_series_back(groups: dict[bytes, list[bytes]], width: int, size: int) -> None:
    """Groups are cut into calls anywhere, so that a name goes on in the next call and in the next block."""
    flat = [(name, number, value) for name in sorted(groups) for number, value in enumerate(groups[name], 3)]
    builder = TableBuilder(DATABASE, 7, TableFormat(block_bytes=size, min_filter_keys=0))
    for start in range(0, len(flat), width):
        part = flat[start : start + width]
        names = sorted({name for name, _, _ in part})
        counts = [sum(name == found for found, _, _ in part) for name in names]
        builder.add_series(b"f", names, counts, [number for _, number, _ in part], [value for _, _, value in part])

    reader, info = stored(builder)
    found = []
    for block in blocks_of(reader, info):  # type: ignore[arg-type]
        assert isinstance(block, SeriesBlock)
        chunk = block.chunk()
        at = 0
        for name, count in zip(chunk.names, chunk.counts, strict=True):
            found += [(name, chunk.positions[i], chunk.values[i]) for i in range(at, at + count)]
            at += count
            start, end = block.find(b"f", name, 5, 20)
            assert block.values(start, end) == [v for n, number, v in found[-count:] if 5 <= number < 20]

    assert found == flat
    assert all(reader.may_contain(info, series_prefix(b"f", name)) for name in groups)  # type: ignore[arg-type]
    assert info.rows == len(flat)  # type: ignore[attr-defined]


@given(groups_strategy)
def test_encodes_series_blocks_with_their_groups(groups: dict[bytes, list[bytes]]) -> None:
    names = sorted(groups)
    values = [value for name in names for value in groups[name]]
    payload = encode_series(b"fam", names, [len(groups[name]) for name in names], range(len(values)), values)

    block = SeriesBlock(payload, name="n", offset=0)

    assert (block.family, list(block.names), block.values(0, len(values))) == (b"fam", names, values)
    assert block.find(block.family, b"absent name", 0, 9) == (0, 0)
    assert block.find(b"another family", block.names[0], 0, 9) == (0, 0)
