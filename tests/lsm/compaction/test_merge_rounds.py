"""The walk over a compaction's sources: which blocks stand alone, and what comes out of the others."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lsm.compaction.block_places import BlockPlace
from lsm.compaction.merge_rounds import Head, Round, Stored, rounds
from lsm.rows.chunk import RowChunk, SeriesChunk, series_key
from lsm.rows.kind import VALUE
from lsm.sst.block import RowsBlock, SeriesBlock, encode_rows, encode_series
from lsm.sst.builder import TableInfo

TABLE = TableInfo(1, 0, 0, b"", b"", 0, 0, 0)
Block = RowsBlock | SeriesBlock


def rows_block(keys: str, source: str = "") -> RowsBlock:
    """One row for each letter, its value the letter and the source."""
    found = [key.encode() for key in keys]
    values = [key + source.encode() for key in found]
    return RowsBlock(encode_rows(RowChunk(found, [1] * len(found), [VALUE] * len(found), values)), name="n", offset=0)


def series_block(groups: dict[bytes, list[int]], family: bytes = b"f") -> SeriesBlock:
    numbers = list(itertools.chain.from_iterable(groups.values()))
    values = [b"%d" % number for number in numbers]
    counts = list(map(len, groups.values()))
    return SeriesBlock(encode_series(family, list(groups), counts, numbers, values), name="n", offset=0)


class Source:
    """Blocks, and which of them were opened."""

    def __init__(self, *blocks: Block) -> None:
        self.blocks = blocks
        self.opened: list[int] = []

    def head(self, low: bytes | None = None, high: bytes | None = None) -> Head:
        ends = [*(block.key_at(0) for block in self.blocks[1:]), b"\xff"][: len(self.blocks)]
        places = [
            BlockPlace(block.key_at(0), end, 0, TABLE, at, 1)
            for at, (block, end) in enumerate(zip(self.blocks, ends, strict=True))
        ]
        return Head(places, self._open, low, high)

    def _open(self, place: BlockPlace) -> Stored:
        self.opened.append(place.at)
        return Stored(b"", self.blocks[place.at])


def shown(item: Stored | Round) -> str:
    """A block as its keys in brackets; a round as each source's keys."""
    if isinstance(item, Stored):
        assert isinstance(item.block, RowsBlock)
        return f"[{b''.join(item.block.keys).decode()}]"
    assert not item.series
    return " ".join(b"".join(rows.keys).decode() for rows in item.rows)


def walk(*sources: Source) -> list[str]:
    return [shown(item) for item in rounds([source.head() for source in sources])]


def test_passes_on_the_blocks_before_a_gap_and_those_in_it() -> None:
    newer = Source(rows_block("ab"), rows_block("cd"), rows_block("yz"))
    older = Source(rows_block("fg"), rows_block("hi"))

    assert walk(newer, older) == ["[ab]", "[cd]", "[fg]", "[hi]", "[yz]"]


def test_merges_what_touches_newest_first_and_passes_on_the_rest() -> None:
    newer = Source(rows_block("ace"), rows_block("kl"), rows_block("pq"))
    older = Source(rows_block("bc"), rows_block("de"), rows_block("lm"))

    assert walk(newer, older) == ["ac bc", "e de", "kl l", "m", "[pq]"]


def test_equal_keys_come_out_together() -> None:
    assert walk(Source(rows_block("ab")), Source(rows_block("bc"))) == ["ab b", "c"]
    assert walk(Source(rows_block("b")), Source(rows_block("b"))) == ["b b"]


def test_opens_a_block_when_its_turn_comes_and_once() -> None:
    newer, older = Source(rows_block("ab"), rows_block("mn")), Source(rows_block("cd"), rows_block("xy"))
    found = rounds([newer.head(), older.head()])

    next(found)
    assert (newer.opened, older.opened) == ([0], [])
    list(found)
    assert (newer.opened, older.opened) == ([0, 1], [0, 1])


def test_leaves_behind_what_is_out_of_bounds() -> None:
    source, other = Source(rows_block("abc"), rows_block("def"), rows_block("ghi")), Source(rows_block("ab"))
    heads = [source.head(b"c", b"h"), other.head(b"c", b"h")]

    assert [shown(item) for item in rounds(heads)] == ["c", "[def]", "g"]


def test_rows_come_before_the_series_of_their_round() -> None:
    rows = Source(rows_block("agz"))
    series = Source(series_block({b"x": [1, 2], b"y": [1]}), series_block({b"y": [3]}))

    found = list(rounds([rows.head(), series.head()]))

    first, *rest = found
    assert isinstance(first, Round)
    assert [b"".join(chunk.keys) for chunk in first.rows] == [b"a"]
    assert [list(chunk.names) for chunk in first.series] == [[b"x", b"y"]]
    assert isinstance(rest[0], Stored)
    assert isinstance(rest[1], Round)
    assert b"".join(rest[1].rows[0].keys) == b"gz"
    assert len(rest) == 2


def test_cuts_series_between_rows() -> None:
    older, newer = Source(series_block({b"x": [1, 2, 3], b"y": [1]})), Source(series_block({b"x": [5, 6]}))

    found = list(rounds([newer.head(), older.head()]))

    assert [[(list(chunk.names), list(chunk.positions)) for chunk in each.series] for each in found[:1]] == [  # type: ignore[union-attr]
        [([b"x"], [5, 6]), ([b"x"], [1, 2, 3])]
    ]
    assert isinstance(found[1], Round)
    assert [list(chunk.names) for chunk in found[1].series] == [[b"y"]]


def test_finds_rows_of_a_series_block_by_their_keys() -> None:
    block = series_block({b"a": [1, 4], b"b": [2]})
    keys = [series_key(b"f", name, number) for name, number in ((b"a", 1), (b"a", 4), (b"b", 2))]

    assert [block.key_at(row) for row in range(3)] == keys
    assert [block.position(key) for key in (b"", b"f", *keys, series_key(b"f", b"a", 3), b"g")] == [0, 0, 0, 1, 2, 1, 3]
    assert [block.position(key, after=True) for key in (b"f", *keys, b"g")] == [0, 1, 2, 3, 3]
    part = block.rows(1, 3)
    assert isinstance(part, SeriesChunk)
    assert (part.names, part.counts, list(part.positions), part.values) == ([b"a", b"b"], [1, 1], [4, 2], [b"4", b"2"])


@given(st.lists(st.lists(st.sampled_from("abcdefghijklmnop"), max_size=12, unique=True), max_size=4), st.integers(1, 4))
def test_every_row_comes_out_once_in_the_order_of_a_sort(found: list[list[str]], width: int) -> None:
    sources = [
        Source(*(rows_block("".join(sorted(keys)[at : at + width]), str(age)) for at in range(0, len(keys), width)))
        for age, keys in enumerate(found)
    ]

    values: list[bytes] = []
    last = b""
    for item in rounds([source.head() for source in sources]):
        chunks = [item.block.chunk()] if isinstance(item, Stored) else item.rows
        assert all(chunk.keys[0] > last for chunk in chunks)
        ages = [chunk.values[0][1:] for chunk in chunks]
        assert ages == sorted(ages)
        part = [value for chunk in chunks for value in chunk.values]
        values += sorted(part)
        last = max(part)[:1]

    assert values == sorted(key.encode() + b"%d" % age for age, keys in enumerate(found) for key in keys)
