"""The engine's policies, each a function from a manifest to jobs: against literals, and against the engine's check."""

from __future__ import annotations

import random
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from lsm.compaction.leveled import LeveledScheduler
from lsm.compaction.plan import CompactionScheduler, CompactionSpec, check_spec, compact_range
from lsm.compaction.space_schedulers import FirstOf, SpaceTrigger, TombstoneTrigger
from lsm.compaction.tiered import SizeTieredScheduler, size_tier
from lsm.manifest.model import Manifest, Partition, Run
from lsm.sst.builder import TableInfo
from tests.lsm.compaction.test_plan_rules import Model

TOP = 1 << 32


def table(number: int, first: str = "a", last: str = "z", size: int = 100, deletes: int = 0) -> TableInfo:
    return TableInfo(number, size, 10, first.encode(), last.encode(), 0, 0, size, deletes)


def run(level: int, *tables: TableInfo) -> Run:
    return Run(level, tables)


def proposed(scheduler: CompactionScheduler, *partitions: Partition, busy: Sequence[int] = ()) -> list[CompactionSpec]:
    manifest = Manifest(1, b"d" * 16, partitions=partitions)
    specs = list(scheduler.propose(manifest, frozenset(busy)))
    for spec in specs:
        check_spec(manifest, spec)
    return specs


def l0(*numbers: int) -> tuple[TableInfo, ...]:
    return tuple(table(number) for number in numbers)


# -- size-tiered --------------------------------------------------------------------------------------------------------


def test_size_tiered_gives_the_oldest_of_level_0_to_a_new_run() -> None:
    tiered = SizeTieredScheduler(l0_min=3, l0_max=4)

    assert proposed(tiered, Partition(b"", l0(2, 1))) == []
    assert proposed(tiered, Partition(b"", l0(3, 2, 1))) == [CompactionSpec(b"", (3, 2, 1), (), TOP)]
    assert proposed(tiered, Partition(b"", l0(9, 8, 7, 6, 5), (run(7, table(1)),))) == [
        CompactionSpec(b"", (8, 7, 6, 5), (), 6)
    ]


def test_size_tiered_merges_neighbours_of_a_size() -> None:
    tiered = SizeTieredScheduler(runs_min=3, runs_max=3, ratio=2.0)
    sizes = [50, 100, 90, 110, 100, 900]
    tree = Partition(b"", (), tuple(run(at, table(at, size=size)) for at, size in enumerate(sizes, 1)))

    assert proposed(tiered, tree) == [CompactionSpec(b"", (), (1, 2, 3), 3)]
    assert proposed(tiered, tree, busy=[6]) == []


@pytest.mark.parametrize(
    ("sizes", "at_most", "levels"),
    [
        ([], 8, []),
        ([1, 1], 8, []),
        ([1, 1, 1], 8, [0, 1, 2]),
        ([1, 1, 1, 1, 1], 3, [2, 3, 4]),
        ([1, 1, 5, 5, 5], 8, [2, 3, 4]),
        ([5, 1, 1, 1], 8, [0, 1, 2, 3]),
        ([1, 5, 25], 8, []),
        ([1, 4, 4, 5], 8, [0, 1, 2]),
    ],
)
def test_picks_the_newest_tier_and_its_oldest_runs(sizes: list[int], at_most: int, levels: list[int]) -> None:
    runs = [run(at, table(at, size=size)) for at, size in enumerate(sizes)]

    assert [each.level for each in size_tier(runs, at_least=3, at_most=at_most, ratio=4.0)] == levels


# -- leveled --------------------------------------------------------------------------------------------------------------


def test_leveled_takes_over_the_tree_of_a_policy_that_puts_runs_on_top() -> None:
    tree = Partition(
        b"",
        l0(9, 8),
        (run(-1, table(5, "c", "d")), run(0, table(4, "b", "c")), run(1, table(1, "a", "b"), table(2, "e", "f"))),
    )

    assert proposed(LeveledScheduler(l0_min=4), tree) == [CompactionSpec(b"", (), (5, 4, 1), 1)]
    assert proposed(LeveledScheduler(l0_min=2), tree) == [CompactionSpec(b"", (9, 8), (5, 4, 1, 2), 1)]


# -- level 0 beside a job -------------------------------------------------------------------------------------------------

TWO_LEVELS = (run(1, table(1, "a", "f"), table(2, "k", "p")), run(2, table(3, "a", "p")), run(3, table(4, "a", "z")))
ENDS = ((b"f", 9),)


@pytest.mark.parametrize(
    ("level0", "ends", "busy", "expected"),
    [
        ((9, 8), (), [1, 3], [CompactionSpec(b"", (9, 8), (), 0)]),
        ((9, 8), ENDS, [1, 3], [CompactionSpec(b"", (9, 8), (), 0)]),
        ((9, 8), (), [3, 4], [CompactionSpec(b"", (9, 8), (1, 2), 1)]),
        ((9, 8), ENDS, [3, 4], [CompactionSpec(b"", (9, 8), (1, 2), 1)]),
        ((9, 8, 7, 6), (), [2], [CompactionSpec(b"", (8, 7, 6), (), 0)]),
        ((9, 8), (), [8, 1], []),
        ((9,), (), [1, 3], []),
    ],
    ids=["level 1", "level 1, series", "deeper", "deeper, series", "its oldest", "level 0", "not full"],
)
def test_leveled_relieves_level_0_beside_a_job(
    level0: tuple[int, ...], ends: tuple[tuple[bytes, int], ...], busy: list[int], expected: list[CompactionSpec]
) -> None:
    tree = Partition(b"", l0(*level0), TWO_LEVELS, ends)

    assert proposed(LeveledScheduler(l0_min=2, l0_max=3), tree, busy=busy) == expected
    assert proposed(FirstOf((LeveledScheduler(l0_min=2, l0_max=3), TombstoneTrigger())), tree, busy=busy) == expected


def test_leveled_goes_on_relieving_on_top_and_takes_it_down_when_the_job_is_done() -> None:
    leveled = LeveledScheduler(l0_min=2, l0_max=3)
    above = (run(-1, table(6)), run(0, table(5)), *TWO_LEVELS)

    assert proposed(leveled, Partition(b"", l0(9, 8), above), busy=[1, 3]) == [CompactionSpec(b"", (9, 8), (), -2)]
    assert proposed(leveled, Partition(b"", l0(9, 8), above), busy=[3, 4]) == [
        CompactionSpec(b"", (9, 8), (6, 5, 1, 2), 1)
    ]
    assert proposed(leveled, Partition(b"", l0(9, 8), above), busy=[6, 5]) == [CompactionSpec(b"", (9, 8), (), -2)]
    assert proposed(leveled, Partition(b"", (), above)) == [CompactionSpec(b"", (), (6, 5, 1, 2), 1)]


@pytest.mark.parametrize(
    ("level0", "busy", "expected"),
    [
        ((9, 8), [1, 3], [CompactionSpec(b"", (9, 8), (), 0)]),
        ((9, 8, 7, 6), [4], [CompactionSpec(b"", (8, 7, 6), (), 0)]),
        ((9, 8), [8], []),
        ((9,), [1], []),
    ],
)
def test_size_tiered_relieves_level_0_beside_a_job(
    level0: tuple[int, ...], busy: list[int], expected: list[CompactionSpec]
) -> None:
    tiered = SizeTieredScheduler(l0_min=2, l0_max=3)

    assert proposed(tiered, Partition(b"", l0(*level0), TWO_LEVELS), busy=busy) == expected


# -- triggers -------------------------------------------------------------------------------------------------------------


def test_pushes_the_table_with_most_deletes_down_to_what_it_hides() -> None:
    tree = Partition(
        b"",
        l0(9),
        (
            run(1, table(1, "a", "b", deletes=5), table(2, "c", "d", deletes=6), table(3, "x", "z", deletes=10)),
            run(2, table(4, "a", "b")),
            run(3, table(5, "a", "c"), table(6, "d", "e", deletes=9)),
        ),
    )

    assert proposed(TombstoneTrigger(0.5), tree) == [CompactionSpec(b"", (), (2, 5, 6), 3)]
    assert proposed(TombstoneTrigger(0.7), tree) == []
    assert proposed(TombstoneTrigger(0.5), tree, busy=[9]) == []
    assert proposed(TombstoneTrigger(0.5), Partition(b"", tree.l0, tree.runs, ((b"f", 1),))) == []


def test_merges_everything_when_the_top_outgrows_the_bottom() -> None:
    tree = Partition(b"", (table(9, size=100),), (run(1, table(2, size=99)), run(2, table(1, size=100))))

    assert proposed(SpaceTrigger(2.0), tree) == []
    assert proposed(SpaceTrigger(1.9), tree) == [CompactionSpec(b"", (9,), (2, 1), 2)]
    assert proposed(SpaceTrigger(1.9), tree, busy=[1]) == []
    assert proposed(SpaceTrigger(0.1), Partition(b"", l0(9)), Partition(b"q", (), (run(1, table(1, "q", "r")),))) == []


def test_asks_the_schedulers_in_turn_for_each_partition() -> None:
    first = Partition(b"a", l0(4, 3, 2, 1), (run(1, table(5)),))
    second = Partition(b"b", (), (run(1, table(6, "b", "bz", deletes=9)), run(2, table(7, "b", "bz"))))
    both = FirstOf((LeveledScheduler(), TombstoneTrigger(), SpaceTrigger(0.5)))

    assert proposed(both, first, second) == [
        CompactionSpec(b"a", (4, 3, 2, 1), (5,), 1),
        CompactionSpec(b"b", (), (6, 7), 2),
    ]


# -- by hand --------------------------------------------------------------------------------------------------------------

TREE = Partition(
    b"p",
    (table(9, "pa", "pc"), table(8, "pm", "pn"), table(7, "pb", "pd")),
    (
        run(1, table(1, "pa", "pb"), table(2, "pc", "pe"), table(3, "pk", "pl")),
        run(2, table(4, "pa", "ph"), table(5, "pi", "pz", deletes=1)),
    ),
)


@pytest.mark.parametrize(
    ("low", "high", "busy", "expected"),
    [
        (None, None, (), [CompactionSpec(b"p", (9, 8, 7), (1, 2, 3, 4, 5), 2)]),
        (b"pa", b"pb", (), [CompactionSpec(b"p", (9, 8, 7), (1, 2, 3, 4, 5), 2)]),
        (b"pd", b"pe", (), [CompactionSpec(b"p", (7,), (1, 2, 4), 2)]),
        (b"pk", b"pl", (), [CompactionSpec(b"p", (), (3, 5), 2)]),
        (b"pq", None, (), [CompactionSpec(b"p", (), (5,), 2)]),
        (b"pf", b"pg", (), []),
        (b"q", None, (), []),
        (None, None, (4,), []),
    ],
)
def test_plans_the_compaction_of_a_range(
    low: bytes | None, high: bytes | None, busy: tuple[int, ...], expected: list[CompactionSpec]
) -> None:
    manifest = Manifest(1, b"d" * 16, partitions=(TREE,))

    found = compact_range(manifest, low, high, frozenset(busy))

    assert found == expected
    for spec in found:
        check_spec(manifest, spec)


def test_plans_a_range_for_series_from_the_first_table_on() -> None:
    def series(number: int, first: str, last: str) -> TableInfo:
        return table(number, f"{first}-00000001", f"{last}-00000009")

    tree = Partition(
        b"p", (), (run(1, series(1, "pa", "pb"), series(2, "pc", "pd")), run(2, series(3, "pd", "pe"))), ((b"p", 9),)
    )
    manifest = Manifest(1, b"d" * 16, partitions=(tree,))

    (spec,) = compact_range(manifest, b"pd", b"pe")

    assert spec == CompactionSpec(b"p", (), (1, 2, 3), 2)
    check_spec(manifest, spec)


# -- all of them ----------------------------------------------------------------------------------------------------------

POLICIES: dict[str, CompactionScheduler] = {
    "leveled": LeveledScheduler(l0_min=2, l0_max=3, base_bytes=250, ratio=2),
    "size-tiered": SizeTieredScheduler(l0_min=2, l0_max=3, runs_min=2, runs_max=4),
    "with triggers": FirstOf(
        (LeveledScheduler(l0_min=2, l0_max=3, base_bytes=250, ratio=2), TombstoneTrigger(0.2), SpaceTrigger(1.0))
    ),
}


@pytest.mark.parametrize("name", POLICIES)
@given(st.integers(0, 1 << 32), st.booleans())
@settings(max_examples=60, deadline=None)
def test_proposes_what_the_engine_accepts_and_comes_to_rest(name: str, seed: int, is_series: bool) -> None:
    model = Model(random.Random(seed), is_series=is_series)
    for _ in range(25):
        model.flush()
        for _ in range(60):
            specs = POLICIES[name].propose(model.manifest, frozenset())
            if not specs:
                break
            before = model.accepted
            check_spec(model.manifest, specs[0])
            model.start(specs[0])
            for job in model.jobs:
                model.commit(job)
            model.jobs = []
            assert model.accepted == before + 1
        else:
            pytest.fail("the policy never comes to rest")


@pytest.mark.parametrize("name", POLICIES)
@given(st.integers(0, 1 << 32), st.booleans())
@settings(max_examples=60, deadline=None)
def test_jobs_side_by_side_are_all_committed_in_whatever_order_they_end(name: str, seed: int, is_series: bool) -> None:
    """No job is in vain: what the policy proposes beside running ones, neither of them is refused at its commit."""
    chance = random.Random(seed)
    model = Model(chance, is_series=is_series)
    ended = 0
    for _ in range(60):
        model.flush()
        busy = frozenset(number for job in model.jobs for number in job.spec.numbers)
        for spec in POLICIES[name].propose(model.manifest, busy):
            assert not spec.numbers & busy
            check_spec(model.manifest, spec)
            before = model.accepted
            model.start(spec)
            ended += model.accepted - before
        while model.jobs and chance.random() < 0.4:
            model.commit(model.jobs.pop(chance.randrange(len(model.jobs))))
            ended += 1
        assert model.accepted == ended
