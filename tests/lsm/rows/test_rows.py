"""Chunks, the memtable and the merge, against plain sorted lists."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given

from lsm.rows.chunk import (
    RowChunk,
    partition_rows,
    prefix_end,
    series_key,
    series_prefixes,
    terminated,
    unterminated,
)
from lsm.rows.kind import TOMBSTONE, VALUE
from lsm.rows.memtable import SLICE_ROWS, Memtable
from lsm.rows.merge import merge_rows, newest_rows, prune_rows, visible_rows
from lsm.runtime import Runtime

names = st.lists(st.sampled_from([0, 1, 2, 97, 254, 255]), max_size=6).map(bytes)
Row = tuple[bytes, int, int, bytes]


@given(names, names, st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_orders_terminated_names_like_the_names(one: bytes, two: bytes, low: int, high: int) -> None:
    assert (terminated(one) < terminated(two)) == (one < two)
    assert (series_key(b"f", one, low) < series_key(b"f", two, high)) == ((one, low) < (two, high))
    assert not terminated(one).startswith(terminated(two)) or one == two


@given(names, st.binary(max_size=5))
def test_reads_terminated_names_back(name: bytes, rest: bytes) -> None:
    encoded = terminated(name)

    assert unterminated(b"head" + encoded + rest, 4) == (name, 4 + len(encoded))


@given(st.lists(names, min_size=1))
def test_makes_many_series_prefixes_as_it_makes_one(found: list[bytes]) -> None:
    assert series_prefixes(b"f", found) == [b"f" + terminated(name) for name in found]


@given(names, names)
def test_ends_a_prefix_right_above_everything_that_starts_with_it(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)

    assert key.startswith(prefix) == (key >= prefix and (end is None or key < end))


@given(st.sets(st.binary(min_size=1, max_size=3)))
def test_partitions_sorted_keys_into_stretches(keys: set[bytes]) -> None:
    ordered = sorted(keys)

    stretches = partition_rows(ordered, lambda key: key[:1])

    assert [key for _, start, end in stretches for key in ordered[start:end]] == ordered
    assert all(key[:1] == prefix for prefix, start, end in stretches for key in ordered[start:end])
    assert len({prefix for prefix, _, _ in stretches}) == len(stretches)


# -- merge ------------------------------------------------------------------------------------------------------------

versions = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), st.sampled_from([VALUE, TOMBSTONE])), max_size=25
)


def as_sources(rows: list[tuple[bytes, int]], cuts: list[int], width: int) -> list[list[RowChunk]]:
    """Rows in the order of their sequence numbers, dealt to sources (newest first), each in chunks that split no key."""
    history = [(key, seq, kind, b"%d" % seq) for seq, (key, kind) in enumerate(rows, 1)]
    edges = sorted({0, len(history), *(cut % (len(history) + 1) for cut in cuts)})
    sources = []
    for start, end in reversed(list(itertools.pairwise(edges))):
        part = sorted(history[start:end], key=lambda row: (row[0], -row[1]))
        chunks: list[list[Row]] = []
        for row in part:
            if not chunks or (len(chunks[-1]) >= width and chunks[-1][-1][0] != row[0]):
                chunks.append([])
            chunks[-1].append(row)
        sources.append([as_chunk(chunk) for chunk in chunks])
    return sources


def as_chunk(rows: list[Row]) -> RowChunk:
    return RowChunk(*(list(column) for column in zip(*rows, strict=True)))  # type: ignore[arg-type]


def rows_of(chunks: Iterator[RowChunk]) -> list[Row]:
    return [row for chunk in chunks for row in zip(chunk.keys, chunk.seqs, chunk.kinds, chunk.values, strict=True)]


@given(versions, st.lists(st.integers(0, 30), max_size=4), st.integers(1, 3))
def test_merges_like_one_sort(rows: list[tuple[bytes, int]], cuts: list[int], width: int) -> None:
    sources = as_sources(rows, cuts, width)
    expected = sorted(
        ((key, seq, kind, b"%d" % seq) for seq, (key, kind) in enumerate(rows, 1)), key=lambda row: (row[0], -row[1])
    )

    merged = list(merge_rows([iter(source) for source in sources]))
    down = list(merge_rows([iter(source[::-1]) for source in sources], descending=True))

    assert rows_of(iter(merged)) == expected
    assert rows_of(iter(down[::-1])) == expected
    assert all(one.keys[-1] < two.keys[0] for one, two in itertools.pairwise(merged))


@given(versions, st.integers(0, 26))
def test_shows_what_a_read_at_a_number_sees(rows: list[tuple[bytes, int]], seq: int) -> None:
    (chunk,) = [source[0] for source in as_sources(rows, [], 99)] or [RowChunk([], [], [], [])]
    model: dict[bytes, bytes] = {}
    for number, (key, kind) in enumerate(rows[:seq], 1):
        model[key] = b"%d" % number
        if kind == TOMBSTONE:
            del model[key]

    found = visible_rows(chunk, seq)

    assert dict(zip(found.keys, found.values, strict=True)) == model
    assert list(newest_rows(chunk).keys) == sorted(set(chunk.keys))


@given(versions, st.sets(st.integers(0, 26), max_size=3), st.booleans())
def test_prunes_nothing_that_anybody_can_see(rows: list[tuple[bytes, int]], open_at: set[int], at_bottom: bool) -> None:
    (chunk,) = [source[0] for source in as_sources(rows, [], 99)] or [RowChunk([], [], [], [])]

    kept = prune_rows(chunk, sorted(open_at), at_bottom=at_bottom)

    for seq in [*open_at, 1 << 60]:
        before, after = visible_rows(chunk, seq), visible_rows(kept, seq)
        assert (list(before.keys), list(before.values)) == (list(after.keys), list(after.values))
    assert len(kept) <= len(set(chunk.keys)) * (len(open_at) + 1)
    if at_bottom and not open_at:
        assert not any(kept.kinds)


# -- memtable ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.tuples(names.filter(bool), st.booleans()), min_size=1, max_size=5), max_size=12), st.data())
def test_keeps_every_version_in_a_memtable(batches: list[list[tuple[bytes, bool]]], data: st.DataObject) -> None:
    table = Memtable(Runtime())
    states: list[dict[bytes, bytes]] = [{}]
    for seq, batch in enumerate(batches, 1):
        state = dict(states[-1])
        for key, is_put in dict(batch).items():
            table.put_rows(seq, [key], [VALUE if is_put else TOMBSTONE], [b"%d" % seq], len(key))
            state.pop(key, None)
            if is_put:
                state[key] = b"%d" % seq
        states.append(state)
    seq = data.draw(st.integers(0, len(batches)))
    low, high = data.draw(st.one_of(st.none(), names)), data.draw(st.one_of(st.none(), names))

    for descending in (False, True):
        chunks = list(table.scan(low, high, seq, descending=descending))
        found = [
            row
            for chunk in (chunks[::-1] if descending else chunks)
            for row in zip(chunk.keys, chunk.kinds, chunk.values, strict=True)
        ]

        assert [(key, value) for key, kind, value in found if kind == VALUE] == sorted(
            (key, value)
            for key, value in states[seq].items()
            if (low is None or key >= low) and (high is None or key < high)
        )
    newest = newest_rows(as_chunk(rows_of(table.all_rows()))) if batches else None
    if newest is not None:
        assert {
            k: v for k, v, kind in zip(newest.keys, newest.values, newest.kinds, strict=True) if kind == VALUE
        } == states[-1]


@pytest.mark.parametrize("rows", [1, SLICE_ROWS - 1, SLICE_ROWS, SLICE_ROWS + 1, 40 * SLICE_ROWS])
def test_groups_series_rows_however_many_there_are(rows: int) -> None:
    table = Memtable(Runtime())
    expected: dict[bytes, list[tuple[int, bytes]]] = {}
    number = 0
    for at in range(0, rows, 100):
        count = min(100, rows - at)
        found = [b"hot" if index % 3 else b"n%d" % (at + index) for index in range(count)]
        number += at % 7  # Gaps are lawful.
        table.append_series(at + 1, b"f", found, number, [b"%d" % n for n in range(number, number + count)], 0)
        for index, name in enumerate(found, number):
            expected.setdefault(name, []).append((index, b"%d" % index))
        number += count
        if at % 1000 == 0:
            assert table.series[b"f"].count(b"hot", 0, 1 << 60) == len(expected.get(b"hot", []))
    series = table.series[b"f"]

    flat = [
        (name, row)
        for chunk in series.chunks()
        for start, (name, count) in zip(
            [sum(chunk.counts[:i]) for i in range(len(chunk.counts))] if len(chunk.counts) < 3000 else [],
            zip(chunk.names, chunk.counts, strict=True),
            strict=False,
        )
        for row in zip(chunk.positions[start : start + count], chunk.values[start : start + count], strict=True)
    ]

    if rows < 2 * SLICE_ROWS:
        assert flat == [(name, row) for name in sorted(expected) for row in expected[name]]
    assert sum(len(chunk) for chunk in series.chunks()) == rows
    assert series.names() == sorted(expected)
    hot = [n for n, _ in expected.get(b"hot", [])]
    for low, high in ((0, 10), (5, 500), (rows // 2, rows), (number, number + 5)):
        assert series.rows(b"hot", low, high)[0] == hot[bisect_left(hot, low) : bisect_left(hot, high)]
    assert series.names_below(50) == sorted(name for name in expected if expected[name][0][0] < 50)
