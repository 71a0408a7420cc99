"""Where series end: what the index says of it never hides a row, whatever the budget and however hashes collide."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import lsm
from lsm.object_store import MemoryStore
from lsm.sst import bloom
from lsm.sst.bloom import digest, digests
from lsm.sst.builder import TableBuilder
from lsm.sst.index import Index, encode_index
from lsm.sst.last_positions import LastPositions, encode_last_positions, take_last_positions
from tests.lsm.support import FAMILIES, append, open_db, read_series, tiny

NUMBERS = st.one_of(st.integers(0, 20), st.integers(0, (1 << 64) - 1))


def section(ends: dict[bytes, int], budget: int) -> LastPositions | None:
    data = encode_last_positions(digests(list(ends)), list(ends.values()), budget)
    assert len(data) <= budget
    if not data:
        return None
    found, at = take_last_positions(b"..." + data + b"after", 3)
    assert at == 3 + len(data)
    return found


def weak_digest(item: bytes) -> bytes:
    """One of five hashes."""
    return (sum(item) % 5).to_bytes(8, "little")


@pytest.fixture
def collisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bloom, "xxh3_64_digest", weak_digest)


@given(st.dictionaries(st.binary(max_size=3), NUMBERS, max_size=40), st.integers(0, 400), NUMBERS)
def test_never_denies_what_is_there(ends: dict[bytes, int], budget: int, low: int) -> None:
    found = section(ends, budget)

    if found is not None:
        for name, last in ends.items():
            assert found.may_reach(digest(name), low) or last < low


@pytest.mark.usefixtures("collisions")
@given(st.dictionaries(st.binary(max_size=3), NUMBERS, max_size=40), st.integers(0, 100), NUMBERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_never_denies_what_is_there_where_hashes_collide(ends: dict[bytes, int], budget: int, low: int) -> None:
    found = section(ends, budget)

    if found is not None:
        assert len(found) <= 5
        for name, last in ends.items():
            assert found.may_reach(digest(name), low) or last < low


def test_a_whole_section_denies_every_cursor_beyond_and_every_other_series() -> None:
    found = section({b"a": 7, b"b": 300}, 1000)

    assert found is not None
    assert found.is_whole
    assert [found.may_reach(digest(b"a"), low) for low in (0, 7, 8)] == [True, True, False]
    assert [found.may_reach(digest(b"b"), low) for low in (300, 301)] == [True, False]
    assert not found.may_reach(digest(b"c"), 0)


def test_beyond_the_budget_the_coldest_series_keep_their_entries() -> None:
    ends = {b"%d" % at: 1000 - at for at in range(100)}

    found = section(ends, 23 + 10 * 40)  # Two bytes a number: forty entries.

    assert found is not None
    assert not found.is_whole
    assert len(found) == 40
    denied = [name for name, last in ends.items() if not found.may_reach(digest(name), last + 1)]
    assert denied == [b"%d" % at for at in range(60, 100)]
    assert found.may_reach(digest(b"somebody else"), 5000)


@pytest.mark.parametrize("budget", [0, 1, 31])
def test_no_section_where_not_one_entry_fits(budget: int) -> None:
    assert encode_last_positions(digests([b"a", b"b"]), [3, 4], budget) == b""


def test_an_index_without_the_section_knows_nothing() -> None:
    index = Index(encode_index([b"a"], [2], [10], [1]), name="n", offset=0)

    assert index.last_positions is None


def test_refuses_a_section_that_does_not_add_up() -> None:
    payload = encode_index([b"a"], [2], [10], [1], encode_last_positions(digests([b"a", b"b"]), [3, 4], 1000))

    for broken in (payload[:-1], payload + b"\x00", encode_index([b"a"], [2], [10], [1], bytes(5))):
        with pytest.raises(lsm.CorruptionError):
            Index(broken, name="n", offset=0)


# -- through flush, compaction and splicing -------------------------------------------------------------------------------

History = list[list[tuple[int, int]]]
"""Per flush: family and series of each row."""
NAMES = [b"a", b"aa", b"b\x00", b"b\x01", b"c", b"d" * 30]
histories = st.lists(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, len(NAMES) - 1)), min_size=1, max_size=30),
    min_size=1,
    max_size=6,
)


class TwoFamilies:
    """One partition with two families of series: `p0L` and `p0M`."""

    name = "two-families"

    def family(self, key: bytes) -> bytes | None:
        return key[:3] if key[2:3] in (b"L", b"M") and len(key) > 3 else None

    def directory(self, family: bytes) -> bytes | None:
        return None


def check_pruning(history: History, budget: int, cursors: list[int]) -> None:
    families = (b"p0L", b"p0M")
    model: dict[tuple[bytes, bytes], list[tuple[int, bytes]]] = {}
    db = lsm.Db.open(
        "memory://",
        tiny(sequence_range_bytes=budget, l0_sst_size_bytes=1 << 20),
        object_store=MemoryStore(),
        series_layout=TwoFamilies(),
    )
    with db:
        numbers = [0, 1000]
        for batch in history:
            for family, name in batch:
                value = b"v%d" % numbers[family] * 4
                append(db, families[family], [(NAMES[name], value)], numbers[family])
                model.setdefault((families[family], NAMES[name]), []).append((numbers[family], value))
                numbers[family] += 1
            db.flush(lsm.FlushType.MEMTABLE)
        for _ in range(2):  # As flushed or compacted in part; then with nothing left to compact.
            for (each, name), rows in model.items():
                for low in cursors:
                    assert read_series(db, each, name, low) == [row for row in rows if row[0] >= low]
                    assert read_series(db, each, name, low, low + 5) == [row for row in rows if low <= row[0] < low + 5]
                    assert db.count_series(each, name, low) == sum(row[0] >= low for row in rows)
            db.wait_idle(20)


@given(histories, st.sampled_from([0, 41, 60, 16 << 10]), st.lists(st.integers(0, 120), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_pruning_never_hides_a_row(history: History, budget: int, cursors: list[int]) -> None:
    check_pruning(history, budget, [*cursors, *(1000 + each for each in cursors)])


@pytest.mark.usefixtures("collisions")
@given(histories, st.sampled_from([41, 60, 16 << 10]), st.lists(st.integers(0, 120), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pruning_never_hides_a_row_where_hashes_collide(history: History, budget: int, cursors: list[int]) -> None:
    check_pruning(history, budget, [*cursors, *(1000 + each for each in cursors)])


@pytest.fixture
def splices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    splice = TableBuilder.splice

    def counted(self: TableBuilder, stored: bytes, block: object) -> None:
        made.append(len(stored))
        splice(self, stored, block)  # type: ignore[arg-type]

    monkeypatch.setattr(TableBuilder, "splice", counted)
    return made


def test_spliced_blocks_bring_their_numbers_along(splices: list[int]) -> None:
    with open_db(MemoryStore(), tiny(l0_sst_size_bytes=1 << 20, max_sst_size=1 << 20)) as db:
        for at, name in enumerate((b"a", b"b", b"c", b"d")):
            append(db, FAMILIES[0], [(name, b"%030d" % row) for row in range(20)], 20 * at)
            db.flush(lsm.FlushType.MEMTABLE)
        db.compact()  # What is due by itself depends on which flushes the compactor's thread saw together.
        partition = db.manifest.partitions[0]
        tables = [table for run in partition.runs for table in run.tables]
        reader = db._engine.tables

        assert len(splices) > 10
        assert (min(each.first_position for each in tables), max(each.last_position for each in tables)) == (0, 79)
        for table in tables:
            found = reader.index(table).last_positions
            assert found is not None
            for at, name in enumerate((b"a", b"b", b"c", b"d")):
                last = 20 * at + 19
                if table.first_position <= last <= table.last_position:
                    item = digest(FAMILIES[0] + name + b"\x00")
                    assert [found.may_reach(item, low) for low in (last, last + 1)] == [True, False]
