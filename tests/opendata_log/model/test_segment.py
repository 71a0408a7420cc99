"""Segments: which cover a range, when one is sealed, which retire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendata_log.model.config import RetentionConfig, SegmentConfig
from opendata_log.model.errors import CorruptionError, InternalError, InvalidInputError
from opendata_log.model.keys import SEGMENT_ID_MAX, SEQUENCE_MAX, SegmentMeta, entry_family
from opendata_log.model.record import Segment
from opendata_log.model.segment import SealPolicy, SegmentTable, check_range, expired, successor

A, B, C = Segment(1, 0, 1000), Segment(2, 100, 2000), Segment(3, 200, 3000)
TABLE = SegmentTable([A, B, C])


@st.composite
def tables(draw: st.DrawFn) -> SegmentTable:
    starts = sorted(draw(st.sets(st.integers(0, 60), max_size=6)))
    times = sorted(draw(st.lists(st.integers(0, 50), min_size=len(starts), max_size=len(starts))))
    first = draw(st.integers(1, 5))
    return SegmentTable(Segment(first + index, *pair) for index, pair in enumerate(zip(starts, times, strict=True)))


def test_empty_table_has_nothing() -> None:
    table = SegmentTable()

    assert len(table) == 0
    assert table.oldest is table.latest is table.get(1) is None
    assert table.sealed_frontier == 0
    assert table.segments() == []
    assert table.parts(0, 100) == []
    assert table.between() == []


def test_table_knows_its_ends() -> None:
    assert list(TABLE) == [A, B, C]
    assert (TABLE.oldest, TABLE.latest) == (A, C)
    assert TABLE.sealed_frontier == 200
    assert [TABLE.get(number) for number in range(5)] == [None, A, B, C, None]
    assert repr(TABLE).startswith("SegmentTable([Segment(id=1")


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (0, None, [A, B, C]),
        (0, 1, [A]),
        (0, 100, [A]),
        (0, 101, [A, B]),
        (99, 100, [A]),
        (100, 200, [B]),
        (99, 201, [A, B, C]),
        (200, None, [C]),
        (10**6, None, [C]),
        (10**6, 10**6 + 1, [C]),
        (50, 50, []),
        (60, 50, []),
        (0, 0, []),
    ],
)
def test_segments_that_overlap_a_range(start: int, end: int | None, found: list[Segment]) -> None:
    assert TABLE.segments(start, end) == found


def test_range_before_the_oldest_segment_overlaps_nothing() -> None:
    table = SegmentTable([B, C])

    assert table.segments(0, 100) == []
    assert table.segments(0, 101) == [B]
    assert table.parts(0, 100) == []
    assert table.parts(0, 150) == [(100, entry_family(B.id), 100, 150)]


def test_parts_of_a_range_by_segment() -> None:
    a, b, c = ((one.start_seq, entry_family(one.id)) for one in (A, B, C))

    assert TABLE.parts(0, 300) == [(*a, 0, 100), (*b, 100, 200), (*c, 200, 300)]
    assert TABLE.parts(50, 250) == [(*a, 50, 100), (*b, 100, 200), (*c, 200, 250)]
    assert TABLE.parts(120, 130) == [(*b, 120, 130)]
    assert TABLE.parts(250, 300) == [(*c, 250, 300)]
    assert TABLE.parts(300, 300) == []


@given(tables(), st.integers(0, 70), st.integers(0, 70))
def test_parts_tile_the_range_like_a_model(table: SegmentTable, start: int, end: int) -> None:
    def owner(sequence: int) -> Segment | None:
        return max((one for one in table if one.start_seq <= sequence), key=lambda one: one.start_seq, default=None)

    expected = [(found, one) for one in range(start, end) if (found := owner(one)) is not None]

    parts = table.parts(start, end)

    tiles = [(base, family, n) for base, family, low, high in parts for n in range(low, high)]
    assert tiles == [(one.start_seq, entry_family(one.id), n) for one, n in expected]
    assert [base for base, *_ in parts] == [one.start_seq for one in table.segments(start, end)]


def test_segments_between_ids() -> None:
    assert TABLE.between() == [A, B, C]
    assert TABLE.between(2) == [B, C]
    assert TABLE.between(None, 2) == [A]
    assert TABLE.between(2, 3) == [B]
    assert TABLE.between(3, 2) == []


@pytest.mark.parametrize("bound", [-1, True, 1.0, "1", b"1"])
def test_bad_bounds_are_refused(bound: object) -> None:
    for call in (TABLE.segments, TABLE.between, check_range):
        for start, end in ((bound, None), (0, bound)):
            with pytest.raises(InvalidInputError, match=r"start|end"):
                call(start, end)  # type: ignore[arg-type]


def test_bounds_fit_a_u64() -> None:
    assert check_range(0, None) == (0, None)
    assert check_range(2**70, 2**70) == (SEQUENCE_MAX, SEQUENCE_MAX)
    with pytest.raises(InvalidInputError, match="start sequence must be an integer, got None"):
        check_range(None, 5)


def test_tables_are_values() -> None:
    bigger = SegmentTable([A, B]).adding(C)

    assert bigger == TABLE
    assert hash(bigger) == hash(TABLE)
    assert bigger != SegmentTable([A, B])
    assert TABLE.dropping_through(2) == SegmentTable([C])
    assert TABLE.dropping_through(0) == TABLE
    assert list(TABLE) == [A, B, C]
    assert TABLE != [A, B, C]


def test_table_is_loaded_from_stored_rows() -> None:
    assert SegmentTable.load([(1, SegmentMeta(0, 1000)), (2, SegmentMeta(100, 2000))]) == SegmentTable([A, B])


@pytest.mark.parametrize(
    "segments",
    [
        [B, A],
        [A, A],
        [A, Segment(1, 100, 2000)],
        [A, Segment(2, 0, 2000)],
        [B, Segment(3, 200, 1999)],
        [Segment(0, 0, 0)],
    ],
)
def test_contradicting_segments_are_corrupt(segments: list[Segment]) -> None:
    with pytest.raises(CorruptionError, match="segment metadata"):
        SegmentTable(segments)


# -- sealing -----------------------------------------------------------------------------------------------------------


def due(config: SegmentConfig, now_ms: int, active_bytes: int = 0, held_ms: int = 0) -> bool:
    return SealPolicy(config).is_due(A, now_ms=now_ms, active_bytes=active_bytes, held_ms=held_ms)


def test_first_append_needs_a_segment_whatever_the_limits() -> None:
    assert SealPolicy(SegmentConfig()).is_due(None, now_ms=0, active_bytes=0)


def test_nothing_seals_without_limits() -> None:
    assert not due(SegmentConfig(), 10**15, active_bytes=10**15, held_ms=10**15)


@pytest.mark.parametrize(("now_ms", "sealed"), [(0, False), (1000, False), (2499, False), (2500, True), (9999, True)])
def test_interval_seals_when_it_has_passed(now_ms: int, sealed: bool) -> None:
    assert due(SegmentConfig(seal_interval=1.5), now_ms) is sealed


def test_interval_seals_by_the_monotonic_clock_while_the_wall_clock_is_set_back() -> None:
    config = SegmentConfig(seal_interval=1.5)

    assert not due(config, -(10**12), held_ms=1499)
    assert due(config, -(10**12), held_ms=1500)


@pytest.mark.parametrize(("active_bytes", "sealed"), [(0, False), (99, False), (100, True), (101, True)])
def test_byte_limit_seals_before_the_batch_after_it_is_reached(active_bytes: int, sealed: bool) -> None:
    assert due(SegmentConfig(seal_byte_limit=100), 0, active_bytes) is sealed


def test_first_limit_reached_seals() -> None:
    config = SegmentConfig(seal_interval=1.5, seal_byte_limit=100)

    assert due(config, 2500, 0)
    assert due(config, 0, 100)
    assert not due(config, 2499, 99)


def test_successors_count_from_one() -> None:
    first = successor(None, start_seq=0, now_ms=1000)

    assert first == A
    assert successor(first, start_seq=100, now_ms=2000) == B


@pytest.mark.parametrize("now_ms", [-(10**12), 0, 999])
def test_successor_never_starts_before_its_predecessor_in_time(now_ms: int) -> None:
    assert successor(A, start_seq=100, now_ms=now_ms) == Segment(2, 100, 1000)


def test_successor_refuses_what_would_break_the_table() -> None:
    with pytest.raises(InternalError):
        successor(B, start_seq=100, now_ms=0)
    with pytest.raises(InternalError):
        successor(Segment(SEGMENT_ID_MAX, 0, 0), start_seq=1, now_ms=0)


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(-(10**13), 10**13)), max_size=20))
def test_chains_of_successors_keep_the_invariants_under_any_clock(steps: list[tuple[int, int]]) -> None:
    table, sequence = SegmentTable(), 0
    for count, now_ms in steps:
        table = table.adding(successor(table.latest, start_seq=sequence, now_ms=now_ms))
        sequence += count

    assert [one.id for one in table] == list(range(1, len(steps) + 1))


# -- retention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now_ms", "ids"),
    [(0, []), (11_999, []), (12_000, []), (12_001, [1]), (13_000, [1]), (13_001, [1, 2]), (10**15, [1, 2])],
)
def test_segments_expire_once_their_successor_is_older_than_retention(now_ms: int, ids: list[int]) -> None:
    assert expired(TABLE, now_ms=now_ms, retention=RetentionConfig(retention=10)) == ids


def test_nothing_expires_without_retention_or_without_a_successor() -> None:
    assert expired(TABLE, now_ms=10**15, retention=RetentionConfig()) == []
    assert expired([A], now_ms=10**15, retention=RetentionConfig(retention=10)) == []
    assert expired([], now_ms=10**15, retention=RetentionConfig(retention=10)) == []


def test_segment_rolled_under_a_1970_clock_does_not_expire_when_the_clock_recovers() -> None:
    today = 1_700_000_000_000
    first = successor(None, start_seq=0, now_ms=today)
    second = successor(first, start_seq=100, now_ms=5)

    assert expired([first, second], now_ms=today + 1, retention=RetentionConfig(retention=10)) == []


@given(tables(), st.integers(-50, 150), st.integers(1, 40))
def test_expired_segments_are_a_prefix_and_spare_the_active_one(table: SegmentTable, now_ms: int, kept: int) -> None:
    ids = expired(table, now_ms=now_ms, retention=RetentionConfig(retention=kept / 1000))

    assert ids == [one.id for one in table][: len(ids)]
    assert table.latest is None or table.latest.id not in ids
    left = list(table.dropping_through(ids[-1]) if ids else table)
    assert all(newer.start_time_ms >= now_ms - kept for newer in left[1:])


def test_a_table_with_one_segment_more_shares_the_columns_of_the_one_before() -> None:
    table = SegmentTable()
    tables = [table]
    for number in range(1, 2001):
        table = table.adding(Segment(number, 10 * number, 0))
        if number % 3 == 0:
            table = table.dropping_through(number - 50)
        tables.append(table)

    for number, one in enumerate(tables):
        expected = [*range(max(1, number - number % 3 - 49), number + 1)]
        assert [segment.id for segment in one] == expected
        assert [segment.id for segment in one.between()] == expected
        assert [segment.id for segment in one.segments(10 * max(number - 1, 0))] == expected[-2:]
        assert one.get(number - 60) is None
        assert one.get(number + 1) is None
    assert len({id(one._segments) for one in tables}) < 60, "the columns are copied for each table"
    assert max(len(one._segments) for one in tables) < 500, "what retention took stays"


def test_two_tables_that_follow_the_same_one_do_not_see_each_other() -> None:
    table = SegmentTable([Segment(1, 0, 0), Segment(2, 5, 0)])

    one, other = table.adding(Segment(3, 10, 0)), table.adding(Segment(3, 20, 0))

    assert [segment.start_seq for segment in one] == [0, 5, 10]
    assert [segment.start_seq for segment in other] == [0, 5, 20]
    assert len(table) == 2
    assert table.parts(0, 100)[-1][0] == 5
