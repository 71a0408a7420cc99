"""What may be compacted, what the default policy picks, and how series are merged."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

import lsm
from lsm import CompactionSpec, InvalidError, LeveledScheduler, Manifest, Partition, Run
from lsm.compaction.plan import check_spec, is_move, with_compaction
from lsm.compaction.series_merge import merge_series
from lsm.errors import CorruptionError
from lsm.rows.chunk import SeriesChunk
from lsm.sst.builder import TableInfo


def table(number: int, first: str, last: str, size: int = 100) -> TableInfo:
    return TableInfo(number, size, 10, first.encode(), last.encode(), 0, 0, size)


TREE = Partition(
    b"",
    (table(9, "a", "c"), table(8, "m", "p"), table(7, "b", "d")),
    (
        Run(1, (table(1, "a", "b"), table(2, "c", "e"), table(3, "k", "l"))),
        Run(2, (table(4, "a", "h"), table(5, "i", "z"))),
        Run(3, (table(6, "a", "z"),)),
    ),
)
MANIFEST = Manifest(1, b"d" * 16, partitions=(TREE,))

LAWFUL = {
    "the oldest of level 0": (CompactionSpec(b"", (7,), (1, 2), 1), False),
    "all of level 0": (CompactionSpec(b"", (9, 8, 7), (1, 2, 3), 1), False),
    "one table down to disjoint neighbours' level": (CompactionSpec(b"", (), (3, 5), 2), False),
    "a wide table below narrow ones": (CompactionSpec(b"", (), (1, 4), 2), False),
    "down to the bottom": (CompactionSpec(b"", (), (4, 5, 6), 3), True),
    "everything": (CompactionSpec(b"", (9, 8, 7), (1, 2, 3, 4, 5, 6), 3), True),
    "a new level above": (CompactionSpec(b"", (7,), (), 0), False),
}


@pytest.mark.parametrize(("spec", "is_bottom"), LAWFUL.values(), ids=LAWFUL)
def test_accepts(spec: CompactionSpec, is_bottom: bool) -> None:
    sources = check_spec(MANIFEST, spec)
    outputs = [
        table(100, min(t.first_key for t in sources.tables).decode(), max(t.last_key for t in sources.tables).decode())
    ]

    changed = with_compaction(MANIFEST, spec, outputs, moved=False)

    assert sources.is_bottom == is_bottom
    assert changed.table_ids() == MANIFEST.table_ids() - spec.numbers | {100}
    changed.check()


UNLAWFUL = {
    "an unknown partition": (CompactionSpec(b"x", (7,), (), 1), "no such partition"),
    "nothing": (CompactionSpec(b"", (), (), 1), "at least one source"),
    "a level-0 table that is not the oldest": (CompactionSpec(b"", (8,), (), 1), "not the oldest"),
    "level 0 with a hole": (CompactionSpec(b"", (9, 7), (1, 2), 1), "not the oldest"),
    "a level-0 table that is gone": (CompactionSpec(b"", (7, 77), (1, 2), 1), "not the oldest"),
    "a table that is in no run": (CompactionSpec(b"", (7,), (1, 2, 99), 1), "not all in runs"),
    "a level no manifest can store": (CompactionSpec(b"", (), (4, 5, 6), 1 << 63), "out of range"),
    "a table twice": (CompactionSpec(b"", (), (6, 6), 3), "not all in runs"),
    "a level-0 table twice": (CompactionSpec(b"", (7, 7), (1, 2), 1), "not the oldest"),
    "an upward move": (CompactionSpec(b"", (), (4,), 1), "below the target"),
    "an output over its neighbours": (CompactionSpec(b"", (7,), (1,), 1), "not sources"),
    "rows past older ones at the target": (CompactionSpec(b"", (), (3,), 2), "not sources"),
    "rows past older ones on the way": (CompactionSpec(b"", (7,), (4,), 2), "not sources"),
    "rows past older ones two levels down": (CompactionSpec(b"", (), (1, 6), 3), "not sources"),
}


@pytest.mark.parametrize(("spec", "why"), UNLAWFUL.values(), ids=UNLAWFUL)
def test_refuses(spec: CompactionSpec, why: str) -> None:
    with pytest.raises(InvalidError, match=why):
        check_spec(MANIFEST, spec)
    with pytest.raises(InvalidError, match=why):
        with_compaction(MANIFEST, spec, [], moved=False)


def test_refuses_outputs_the_collector_may_have_taken() -> None:
    manifest = msgspec.structs.replace(MANIFEST, gc_horizon=100)

    with pytest.raises(InvalidError, match="too long ago"):
        with_compaction(manifest, LAWFUL["everything"][0], [table(100, "a", "z")], moved=False)


def test_drains_exactly_the_partition_its_scheduler_saw() -> None:
    seen = Partition(b"p", (table(3, "pa", "pc"),), (Run(1, (table(1, "pa", "pb"), table(2, "pc", "pe"))),))
    others = (Partition(b"o", (table(8, "oa", "oc"),)), Partition(b"q", (table(9, "qa", "qc"),)))
    manifest = Manifest(1, b"d" * 16, partitions=(others[0], seen, others[1]))
    drain = CompactionSpec.drain(seen)

    sources = check_spec(manifest, drain)

    assert sources.tables == []
    assert is_move(sources)
    assert with_compaction(manifest, drain, [], moved=True).partitions == others
    for changed in (
        msgspec.structs.replace(seen, l0=(table(4, "pd", "pd"), *seen.l0)),
        msgspec.structs.replace(seen, l0=()),
        msgspec.structs.replace(seen, runs=(Run(1, (seen.runs[0].tables[0], table(7, "pc", "pe"))),)),
    ):
        with pytest.raises(InvalidError, match="names other tables"):
            check_spec(manifest.with_partition(changed), drain)
        with pytest.raises(InvalidError, match="names other tables"):
            with_compaction(manifest.with_partition(changed), drain, [], moved=True)
    with pytest.raises(InvalidError, match="no such partition"):
        check_spec(manifest.with_partition(Partition(b"p")), drain)
    with pytest.raises(InvalidError, match="whole database"):
        check_spec(MANIFEST, CompactionSpec.drain(TREE))


def test_rewrites_in_place_and_where_deletes_come_to_their_end() -> None:
    dying = msgspec.structs.replace(table(3, "a", "b"), tombstones=1)
    runs = (Run(1, (table(1, "c", "d"),)), Run(2, (table(2, "e", "f"),)))
    manifest = Manifest(1, b"d" * 16, partitions=(Partition(b"", (dying,), runs),))

    assert is_move(check_spec(manifest, CompactionSpec(b"", (), (1,), 2)))
    assert not is_move(check_spec(manifest, CompactionSpec(b"", (), (1,), 1)))
    assert not is_move(check_spec(manifest, CompactionSpec(b"", (3,), (), 1)))
    deeper = manifest.with_partition(Partition(b"", (dying,), (Run(4, (table(4, "a", "z"),)),)))
    assert is_move(check_spec(deeper, CompactionSpec(b"", (3,), (), 1)))


def test_moves_the_tables_of_series_down_in_order_only() -> None:
    series = Partition(b"", (), TREE.runs, ((b"f", 9),))
    manifest = Manifest(1, b"d" * 16, partitions=(series,))

    with pytest.raises(InvalidError, match="not its first tables"):
        check_spec(manifest, CompactionSpec(b"", (), (3, 5), 2))
    check_spec(manifest, CompactionSpec(b"", (), (1, 4), 2))
    assert proposed(series, base_bytes=250) == [CompactionSpec(b"", (), (1, 4), 2)]


def test_tells_a_move_from_a_merge() -> None:
    assert is_move(check_spec(MANIFEST, CompactionSpec(b"", (), (3, 5), 2))) is False
    assert is_move(
        check_spec(
            Manifest(1, b"", partitions=(Partition(b"", (table(1, "a", "b"),)),)), CompactionSpec(b"", (1,), (), 1)
        )
    )


# -- the default policy -------------------------------------------------------------------------------------------------


def proposed(partition: Partition, **parameters: int) -> list[CompactionSpec]:
    return list(LeveledScheduler(**parameters).propose(Manifest(1, b"", partitions=(partition,)), frozenset()))


def test_relieves_level_0_into_what_it_overlaps() -> None:
    assert proposed(TREE, l0_min=3, l0_max=8) == [CompactionSpec(b"", (9, 8, 7), (1, 2, 3), 1)]
    assert proposed(TREE, l0_min=3, l0_max=1) == [CompactionSpec(b"", (7,), (1, 2), 1)]
    assert proposed(TREE, l0_min=4) == []


def test_pushes_the_cheapest_table_of_a_level_that_is_too_large() -> None:
    tree = msgspec.structs.replace(TREE, l0=())

    assert proposed(tree, base_bytes=299, ratio=10) == [CompactionSpec(b"", (), (1, 4), 2)]
    assert proposed(tree, base_bytes=300, ratio=2) == []
    assert proposed(msgspec.structs.replace(tree, runs=tree.runs[1:]), base_bytes=150, ratio=2) == []


def test_pushes_nothing_out_of_a_busy_partition() -> None:
    large = MANIFEST.with_partition(msgspec.structs.replace(TREE, l0=()))
    assert LeveledScheduler(base_bytes=1).propose(large, frozenset())
    assert LeveledScheduler(base_bytes=1).propose(large, frozenset({6})) == []


@given(st.data())
@settings(deadline=None)
def test_proposes_only_what_the_engine_accepts_and_comes_to_rest(data: st.DataObject) -> None:
    chance = data.draw(st.randoms(use_true_random=False))
    scheduler = LeveledScheduler(l0_min=2, l0_max=3, base_bytes=250, ratio=2)
    counter = itertools.count(1)
    manifest = Manifest(1, b"d" * 16)
    for _ in range(data.draw(st.integers(1, 12))):
        low, high = sorted(chance.choices(range(1000), k=2))
        partition = manifest.partition(b"") or Partition(b"")
        added = table(next(counter), f"{low:04}", f"{high:04}", chance.randrange(50, 200))
        manifest = manifest.with_partition(msgspec.structs.replace(partition, l0=(added, *partition.l0)))
        for _ in range(100):
            specs = scheduler.propose(manifest, frozenset())
            if not specs:
                break
            sources = check_spec(manifest, specs[0])
            tables = sorted(sources.tables, key=lambda each: each.first_key)
            if is_move(sources):
                outputs = sources.tables
            else:
                edges = sorted({key for each in tables for key in (each.first_key, each.last_key)})
                size = sum(each.size for each in tables) // len(edges)
                outputs = [table(next(counter), e.decode(), e.decode(), size) for e in edges]
            manifest = with_compaction(manifest, specs[0], outputs, moved=is_move(sources))
            manifest.check()
        else:
            pytest.fail("the policy never comes to rest")


# -- series -------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.integers(1, 3)), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=3),
)
def test_merges_series_like_one_sort(rows: list[tuple[bytes, int]], cuts: list[int]) -> None:
    numbered = [(name, number) for number, (name, _) in enumerate(rows)]
    edges = sorted({0, len(rows), *(cut % (len(rows) + 1) for cut in cuts)})
    chunks = []
    for start, end in reversed(list(itertools.pairwise(edges))):
        part = sorted(numbered[start:end])
        names = sorted({name for name, _ in part})
        counts = [sum(found == name for found, _ in part) for name in names]
        chunks.append(SeriesChunk(b"f", names, counts, [n for _, n in part], [b"%d" % n for _, n in part]))

    merged = merge_series(chunks)

    names = [name for name, count in zip(merged.names, merged.counts, strict=True) for _ in range(count)]
    assert list(zip(names, merged.positions, strict=True)) == sorted(numbered)
    assert list(merged.values) == [b"%d" % number for number in merged.positions]


def test_refuses_series_whose_numbers_went_back() -> None:
    older = SeriesChunk(b"f", [b"a"], [2], [5, 6], [b"", b""])
    newer = SeriesChunk(b"f", [b"a"], [1], [6], [b""])

    with pytest.raises(CorruptionError, match="comes after"):
        merge_series([newer, older])


def test_exports_what_a_scheduler_needs() -> None:
    assert {"CompactionScheduler", "CompactionSpec", "Manifest", "Partition", "Run", "TableInfo"} <= set(lsm.__all__)
