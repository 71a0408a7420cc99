"""The shape of the log's segments: the policy against literals, and what it costs on a store that is watched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

import lsm
from lsm.object_store import MemoryStore
from opendata_log import Config, InternalError, LogCompactionOptions, LogDb, LogDbBuilder, Segment, SegmentConfig
from opendata_log.maintain.policy import LiveSegments, LogScheduler, SegmentState, segment_states
from opendata_log.model.keys import routing_prefix, segment_meta_key
from opendata_log.model.segment import SegmentTable
from tests.opendata_log.support import ManualClock, tiny, values

TOP = 1 << 32
SEALS = SegmentConfig(seal_byte_limit=1 << 20)


def segment(number: int, l0: int = 0, runs: Sequence[int] = ()) -> lsm.Partition:
    """Table numbers tell their place: segment 3 has level-0 tables 309, 308, ... and runs 350, 351, ... of given sizes."""
    prefix = routing_prefix(number)

    def table(at: int, size: int = 100) -> lsm.TableInfo:
        return lsm.TableInfo(100 * number + at, size, 10, prefix + b"a", prefix + b"z", 0, 0, size)

    return lsm.Partition(
        prefix,
        tuple(table(9 - at) for at in range(l0)),
        tuple(lsm.Run(TOP - len(runs) + 1 + at, (table(50 + at, size),)) for at, size in enumerate(runs)),
    )


def live(oldest: int, newest: int) -> LiveSegments:
    found = LiveSegments()
    found.load(SegmentTable(Segment(each, each * 10, 0) for each in range(oldest, newest + 1)), 0)
    return found


def proposed(
    *segments: lsm.Partition,
    known: LiveSegments | None = None,
    segmentation: SegmentConfig = SEALS,
    busy: frozenset[int] = frozenset(),
    **options: object,
) -> list[lsm.CompactionSpec]:
    scheduler = LogScheduler(
        LogCompactionOptions(**options),  # type: ignore[arg-type]
        known if known is not None else live(1, 9),
        segmentation=segmentation,
        l0_max_ssts=16,
    )
    return list(scheduler.propose(lsm.Manifest(1, b"d" * 16, partitions=segments), busy))


def spec(number: int, l0: Sequence[int], runs: Sequence[int], target: int) -> lsm.CompactionSpec:
    return lsm.CompactionSpec(routing_prefix(number), tuple(l0), tuple(runs), target)


# -- the policy by state ------------------------------------------------------------------------------------------------


def test_an_active_segment_has_its_level_0_relieved_without_writing() -> None:
    assert proposed(segment(1, l0=3)) == []
    assert proposed(segment(1, l0=4)) == [spec(1, [106], [], TOP)]
    assert proposed(segment(1, l0=4, runs=[100, 100])) == [spec(1, [106], [], TOP - 2)]


def test_an_active_segments_runs_stay_apart_where_it_will_be_sealed() -> None:
    assert proposed(segment(1, runs=[100] * 63)) == []
    assert proposed(segment(1, runs=[100] * 64)) == [spec(1, [], range(150, 214), TOP)]


def test_an_active_segments_runs_are_merged_by_size_where_nothing_ever_seals_it() -> None:
    assert proposed(segment(1, runs=[100] * 15), segmentation=SegmentConfig()) == []
    assert proposed(segment(1, runs=[100] * 16), segmentation=SegmentConfig()) == [spec(1, [], range(150, 166), TOP)]
    assert proposed(segment(1, runs=[100] * 15 + [800]), segmentation=SegmentConfig()) == []
    assert proposed(segment(2, runs=[100] * 16), segmentation=SegmentConfig()) == []


def test_a_sealed_segment_is_merged_into_one_run_once() -> None:
    active = segment(2, l0=1)

    assert proposed(segment(1, l0=2, runs=[100, 100]), active) == [spec(1, [109, 108], [150, 151], TOP)]
    assert proposed(segment(1, l0=1), active) == [spec(1, [109], [], TOP)]
    assert proposed(segment(1, runs=[100]), active) == []


def test_a_segment_is_not_sealed_before_all_of_its_rows_are_in_tables() -> None:
    """Segment 2 has begun and its first rows are in memory, and with them may be the last ones of segment 1."""
    assert proposed(segment(1, l0=2, runs=[100]), known=live(1, 2)) == []


def test_the_system_segment_is_merged_early() -> None:
    assert proposed(segment(0, l0=1, runs=[100]), segment(1, l0=1)) == []
    assert proposed(segment(0, l0=2, runs=[100]), segment(1, l0=1)) == [spec(0, [9, 8], [50], TOP)]
    assert proposed(segment(0, l0=2), known=LiveSegments()) == [spec(0, [9, 8], [], TOP)]


def test_l0_only_relieves_level_0_by_merging_and_leaves_the_rest() -> None:
    assert proposed(segment(1, l0=6), segmentation=SegmentConfig(), l0_only=True, max_l0_per_compaction=5) == [
        spec(1, [108, 107, 106, 105, 104], [], TOP)
    ]
    assert proposed(segment(1, l0=3, runs=[100] * 20), segment(2, l0=1), l0_only=True) == []
    assert proposed(segment(1, l0=4, runs=[100]), segment(2, l0=1), l0_only=True) == [
        spec(1, [109, 108, 107, 106], [], TOP - 1)
    ]


def test_level_0_is_relieved_before_flushes_would_wait_for_it() -> None:
    scheduler = LogScheduler(
        LogCompactionOptions(min_l0_per_compaction=30, max_l0_per_compaction=30),
        live(1, 1),
        segmentation=SEALS,
        l0_max_ssts=6,
    )

    assert scheduler.propose(lsm.Manifest(1, b"", partitions=(segment(1, l0=5),)), frozenset()) == []
    assert len(scheduler.propose(lsm.Manifest(1, b"", partitions=(segment(1, l0=6),)), frozenset())) == 1


def test_beside_a_job_only_a_level_0_it_does_not_work_on_is_relieved() -> None:
    busy = frozenset({150, 151})

    assert proposed(segment(1, l0=4), busy=frozenset({108})) == []
    assert proposed(segment(1, l0=3, runs=[100, 100]), busy=busy) == []
    assert proposed(segment(1, l0=4, runs=[100, 100]), busy=busy) == [spec(1, [106], [], TOP - 2)]
    assert proposed(segment(1, l0=4, runs=[100, 100]), busy=busy, l0_only=True) == [
        spec(1, [109, 108, 107, 106], [], TOP - 2)
    ]
    assert proposed(segment(1, l0=4, runs=[100, 100]), busy=busy | {106}) == []
    assert proposed(segment(0, l0=3, runs=[100]), segment(1), busy=frozenset({50})) == []
    assert proposed(segment(0, l0=4, runs=[100]), segment(1), busy=frozenset({50})) == [spec(0, [6], [], TOP - 1)]
    sealed = segment(1, l0=4, runs=[100])
    assert proposed(sealed, segment(2, l0=1), busy=frozenset({150})) == []


def test_an_orphan_is_drained_whatever_works_on_it() -> None:
    orphan = segment(1, l0=4)

    found = proposed(orphan, segment(3, l0=1), known=live(2, 3), busy=frozenset({109, 108, 107, 106}))

    assert found == [lsm.CompactionSpec.drain(orphan)]


def test_drains_come_first_then_the_fullest_level_0() -> None:
    found = proposed(segment(1, l0=1), segment(2, l0=1), segment(3, l0=3), segment(4, l0=9), known=live(2, 4))

    assert [(each.prefix[-1], each.is_drain) for each in found] == [(1, True), (4, False), (3, False), (2, False)]


# -- orphans --------------------------------------------------------------------------------------------------------------


def test_an_orphan_is_older_than_every_segment_with_metadata() -> None:
    orphan = segment(3, l0=2, runs=[100, 100])

    assert (
        proposed(orphan, segment(4, l0=1), known=live(4, 5))
        == [
            lsm.CompactionSpec.drain(orphan),
            spec(4, [409], [], TOP),
        ][:1]
    )
    assert proposed(orphan, known=live(3, 5)) == []
    assert proposed(orphan, known=live(4, 5)) == [lsm.CompactionSpec.drain(orphan)]


def test_nothing_is_an_orphan_before_anybody_has_looked() -> None:
    assert proposed(segment(3, l0=1), known=LiveSegments()) == []


def test_a_segment_that_begins_is_told_of_before_it_is_written() -> None:
    known = live(2, 4)
    known.begin(5)

    assert known.bounds == (2, 5)
    assert proposed(segment(5, l0=1), known=known) == []
    known.expire(4)
    assert known.bounds == (4, 5)


def test_a_newest_segment_without_metadata_is_an_error() -> None:
    for known in (live(1, 4), LiveSegments()):
        if known.bounds is None:
            known.load(SegmentTable(), 0)
        with pytest.raises(lsm.InternalError, match="segment 5 has tables and no metadata"):
            proposed(segment(4, l0=1), segment(5, l0=1), known=known)


def test_states_are_told_by_the_manifest_and_two_ids() -> None:
    partitions = tuple(segment(each, l0=1) for each in (0, 2, 3, 4, 5))
    stranger = lsm.Partition(b"other", partitions[0].l0)

    found = segment_states(lsm.Manifest(1, b"", partitions=(*partitions, stranger)), (3, 6))

    assert [(each.prefix[-1], state) for each, state in found] == [
        (0, SegmentState.SYSTEM),
        (2, SegmentState.ORPHANED),
        (3, SegmentState.SEALED),
        (4, SegmentState.SEALED),
        (5, SegmentState.ACTIVE),
    ]


# -- in a log -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    yield f"memory://{request.node.name}"
    MemoryStore.forget(request.node.name)


def open_log(place: str, *, clock: ManualClock | None = None, **changes: object) -> LogDb:
    engine = tiny(l0_sst_size_bytes=16 << 10, sst_block_size=4 << 10, max_sst_size=64 << 10, compression=None)
    config = Config(storage=place, engine=engine, **changes)  # type: ignore[arg-type]
    return LogDbBuilder(config).with_clock(clock if clock is not None else ManualClock()).build()


def ingest(log: LogDb, batches: int, *, streams: int = 20) -> int:
    """Batches of 50 records of 100 bytes over `streams` keys; their bytes."""
    size = 0
    for batch in range(batches):
        records = [(b"stream-%04d" % ((50 * batch + at) % streams), b"%0100d" % at) for at in range(50)]
        log.try_append(records)
        size += sum(len(key) + len(value) for key, value in records)
        if batch % 10 == 9:
            log.flush()
            assert log.wait_idle(30)
    return size


@pytest.fixture
def table_bytes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The size of every table ever put into a memory store, by name."""
    sizes: dict[str, int] = {}
    real = MemoryStore.put_if_absent

    def put(store: MemoryStore, name: str, parts: Sequence[bytes], *, timeout: float) -> None:
        real(store, name, parts, timeout=timeout)
        if name.startswith("sst/"):
            sizes[name] = sum(map(len, parts))

    monkeypatch.setattr(MemoryStore, "put_if_absent", put)
    return sizes


def flushed_bytes(log: LogDb) -> int:
    return sum(traffic.bytes_out for (_, cause), traffic in log.status().requests.items() if cause == "flush")


def runs_of(log: LogDb) -> dict[int, tuple[int, int]]:
    """Level-0 tables and runs of every user segment with tables."""
    return {
        int.from_bytes(each.prefix[2:], "big"): (each.l0, len(each.levels))
        for each in log.status().partitions
        if each.prefix != routing_prefix(0)
    }


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_row_is_written_twice_and_stored_once(place: str, table_bytes: dict[str, int], by_hand: bool) -> None:
    sealing = SegmentConfig() if by_hand else SegmentConfig(seal_byte_limit=100_000)
    with open_log(place, segmentation=sealing) as log:
        size = 0
        for _ in range(6):
            size += ingest(log, 20)
            if by_hand:
                log.seal_segment()
        size += ingest(log, 1)
        log._db.flush(lsm.FlushType.MEMTABLE)
        assert log.wait_idle(30)
        assert len(log.list_segments()) >= 6
        flushed, written = flushed_bytes(log), sum(table_bytes.values())
        log.collect_garbage(min_age=0)
        stored = sum(map(len, MemoryStore.shared(place.removeprefix("memory://"))._objects.values()))

        assert flushed > 6 * 16 << 10
        assert written <= 2.0 * flushed
        assert stored <= 1.1 * size
        *sealed, active = runs_of(log).items()
        assert [shape for _, shape in sealed] == [(0, 1)] * len(sealed)
        assert active[1][0] < 4
        assert len(values(log, b"stream-0007")) == 121 * 50 // 20 + (1 if 121 * 50 % 20 > 7 else 0)


def test_an_orphan_is_dropped_without_a_table_read_or_written(place: str) -> None:
    with open_log(place, segmentation=SegmentConfig(seal_byte_limit=50_000)) as log:
        ingest(log, 60)
        log._db.flush(lsm.FlushType.MEMTABLE)
        assert log.wait_idle(30)
        first, second, third = log.list_segments()[:3]
        kept = values(log, b"stream-0001", third.start_seq)
        before = {key: each for key, each in log.status().requests.items() if key[1] == "compaction"}
        for one in (first, second):
            log._db.delete(segment_meta_key(one.id))
        log.flush()
        log._writer.segments._live.expire(third.id)
        log._db.wake_compactor()
        assert log.wait_idle(30)

        assert min(runs_of(log)) == third.id
        assert {key: each for key, each in log.status().requests.items() if key[1] == "compaction"} == before
        assert values(log, b"stream-0001", third.start_seq) == kept
        log.collect_garbage(min_age=0)
        prefix = tuple(routing_prefix(one.id) for one in (first, second))
        assert not any(
            each.first_key.startswith(prefix) for part in log._db.manifest.partitions for each in part.tables()
        )
    with open_log(place) as log:
        assert log.list_segments()[0] == third
        assert values(log, b"stream-0001") == kept


def test_a_newest_segment_without_metadata_reaches_the_user(place: str) -> None:
    log = open_log(place)
    ingest(log, 1)
    log._writer.segments._live.load(SegmentTable(), 0)
    with pytest.raises(InternalError, match="segment 1 has tables and no metadata"):
        for _ in range(100):
            ingest(log, 10)
    with pytest.raises(InternalError, match="segment 1 has tables and no metadata"):
        log.close()


def test_a_log_whose_newest_segment_has_no_metadata_is_not_opened(place: str) -> None:
    with open_log(place, segmentation=SegmentConfig(seal_byte_limit=30_000)) as log:
        ingest(log, 20)
        log._db.flush(lsm.FlushType.MEMTABLE)
        log._db.delete(segment_meta_key(log.list_segments()[-1].id))

    with pytest.raises(InternalError, match="has tables and no metadata"):
        open_log(place)
