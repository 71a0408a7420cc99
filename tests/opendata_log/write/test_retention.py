"""Retention: what goes and when, what reads see of it, what a crash leaves, and clocks that jump."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

import lsm
from lsm.object_store import MemoryStore
from opendata_log import (
    InternalError,
    LogDb,
    LogDbBuilder,
    LogDbReader,
    ReaderConfig,
    RetentionConfig,
    SegmentConfig,
    SnapshotExpired,
    StorageConfig,
)
from opendata_log.fsck import fsck
from opendata_log.maintain.compactor import open_compactor
from tests.doubles import CountingStore, WrappedStore
from tests.opendata_log.retained import DAY, HOUR, config, fill, opened, tick
from tests.opendata_log.support import ManualClock, names, tiny, values

T = TypeVar("T")


def test_sealed_segments_go_when_their_successor_is_old_enough() -> None:
    clock = ManualClock()
    with opened(clock) as log:
        fill(log, clock, 5)
        assert [one.id for one in log.list_segments()] == [1, 2, 3, 4, 5]

        tick(log)

        # Segment 3 ended three hours ago when 4 began; 4 ended one hour ago less than the retention allows.
        assert [one.id for one in log.list_segments()] == [3, 4, 5]
        assert values(log, b"a") == [b"2", b"3", b"4"]
        assert log.count(b"a") == 3
        assert names(log) == [b"a", b"only-2", b"only-3", b"only-4"]
        assert log.inspect(b"a").total == 3
        clock.advance(2 * HOUR)
        tick(log)
        assert [one.id for one in log.list_segments()] == [5]
        assert values(log, b"a") == [b"4"]


def test_exactly_the_retention_is_not_more_than_it() -> None:
    clock = ManualClock()
    with opened(clock) as log:
        fill(log, clock, 2)
        clock.advance(HOUR)

        tick(log)
        assert len(log.list_segments()) == 2
        clock.ms += 1
        tick(log)
        assert len(log.list_segments()) == 1


def test_their_tables_are_dropped_and_collected() -> None:
    clock, storage = ManualClock(), "memory://retention-drain"
    with opened(clock, storage) as log:
        fill(log, clock, 5)
    with opened(clock, storage) as log:
        before = {tree.segment_id for tree in log.tree_summary().segments}
        clock.advance(2 * HOUR)
        tick(log)
        assert log.wait_idle(30)

        assert before == {0, 1, 2, 3, 4, 5}
        assert {tree.segment_id for tree in log.tree_summary().segments} == {0, 5}
        assert any(garbage.name.startswith("sst/") for garbage in log.collect_garbage(min_age=0))
        assert values(log, b"a") == [b"4"]


def test_they_are_gone_after_a_reopen_and_for_a_reader() -> None:
    clock, storage = ManualClock(), "memory://retention-reopen"
    with opened(clock, storage) as log:
        fill(log, clock, 4)
        with LogDbReader.open(storage=storage, refresh_interval=60.0) as reader:
            tick(log)
            reader.refresh()
            assert [one.id for one in reader.list_segments()] == [2, 3, 4]
            assert values(reader, b"a") == [b"1", b"2", b"3"]  # type: ignore[arg-type]
    with opened(clock, storage) as log:
        assert [one.id for one in log.list_segments()] == [2, 3, 4]
        assert log.try_append([(b"a", b"new")]).start_sequence == 8


def test_a_scan_under_way_sees_all_of_a_segment_or_none() -> None:
    clock, storage = ManualClock(), "memory://retention-scan"
    with opened(clock, storage) as log:
        for hour in range(3):
            log.try_append([(b"a", b"%d-%03d" % (hour, number)) for number in range(200)])
            clock.advance(HOUR)
    with opened(clock, storage) as log:
        scan = log.scan(b"a")
        seen = [entry.value for entry in scan.fetchmany(10)]
        clock.advance(2 * HOUR)
        tick(log)
        assert log.wait_idle(30)
        log.collect_garbage(min_age=0)

        seen += [entry.value for entry in scan]

        for hour in range(3):
            assert len([one for one in seen if one.startswith(b"%d-" % hour)]) in (0, 200)
        assert seen[-1] == b"2-199"
        assert seen[:10] == [b"0-%03d" % number for number in range(10)]
        assert seen.count(b"0-199") == 1


def test_the_thread_looks_by_itself() -> None:
    clock = ManualClock()
    retention = RetentionConfig(retention=2 * HOUR, check_interval=0.005)
    with opened(clock, retention=retention) as log:
        fill(log, clock, 5)
        clock.advance(2 * HOUR)
        for _ in range(4000):
            if len(log.list_segments()) == 1:
                break
            lsm.Runtime().sleep(0.005)
        assert [one.id for one in log.list_segments()] == [5]


def test_an_interrupted_announcement_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, storage = ManualClock(), "memory://retention-announce"
    with opened(clock, storage) as log:
        fill(log, clock, 3)
        clock.ms += 1
        with monkeypatch.context() as patch:
            patch.setattr(lsm.WriteHandle, "await_durable", _unavailable)
            with pytest.raises(lsm.UnavailableError):
                tick(log)
        assert [one.id for one in log.list_segments()] == [2, 3]
        assert log._writer.segments._live.bounds == (1, 3)

        tick(log)

        assert log._writer.segments._live.bounds == (2, 3)


def _unavailable(*_: Any) -> None:
    raise lsm.UnavailableError("down")


def test_a_thread_that_fails_tells_the_next_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("opendata_log.write.retention.Retention.tick", broken)
    log = LogDb.open(config("memory://", retention=RetentionConfig(retention=2 * HOUR, check_interval=0.001)))
    log._retention._task.join(30)  # type: ignore[union-attr]

    with pytest.raises(InternalError, match="retention thread failed"):
        log.scan(b"a")
    with contextlib.suppress(InternalError):
        log.close()


# -- other handles ----------------------------------------------------------------------------------------------------


def test_a_reader_in_the_middle_of_a_scan_sees_all_of_a_segment_or_is_told() -> None:
    clock, storage = ManualClock(), "memory://retention-reader-scan"
    with opened(clock, storage) as log:
        for hour in range(3):
            log.try_append([(b"a", b"%d-%03d" % (hour, number)) for number in range(200)])
            log._db.flush(lsm.FlushType.MEMTABLE)
            clock.advance(HOUR)
        caches = lsm.Caches(block_bytes=0, meta_bytes=0)
        with LogDbReader.open(storage=StorageConfig(url=storage, caches=caches), refresh_interval=60.0) as reader:
            scan = reader.scan(b"a")
            seen = [entry.value for entry in scan.fetchmany(10)]
            clock.advance(2 * HOUR)
            tick(log)
            assert log.wait_idle(30)
            log._db.flush(lsm.FlushType.MEMTABLE)
            log.collect_garbage(min_age=0)

            try:
                seen += [entry.value for entry in scan]
            except SnapshotExpired:
                assert len(seen) < 600
            else:
                for hour in range(3):
                    assert len([one for one in seen if one.startswith(b"%d-" % hour)]) in (0, 200)
            reader.refresh()
            assert [one.id for one in reader.list_segments()] == [3]
            assert values(reader, b"a") == [b"2-%03d" % number for number in range(200)]  # type: ignore[arg-type]
            assert reader.count(b"a") == reader.inspect(b"a").total == 200
            assert [found.key for found in reader.list_keys()] == [b"a"]


def test_listings_vanish_with_the_segment_in_a_reader_of_another_process(tmp_path: Path) -> None:
    clock = ManualClock()
    script = (
        "import sys\n"
        "from opendata_log import LogDbReader\n"
        "with LogDbReader.open(storage=sys.argv[1], refresh_interval=60.0) as reader:\n"
        "    for _ in sys.stdin:\n"
        "        reader.refresh()\n"
        "        keys = [found.key.decode() for found in reader.list_keys()]\n"
        "        print([one.id for one in reader.list_segments()], keys, reader.count(b'a'), flush=True)\n"
    )
    with opened(clock, str(tmp_path)) as log:
        fill(log, clock, 4)
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        def asked() -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        try:
            assert asked() == "[1, 2, 3, 4] ['a', 'only-0', 'only-1', 'only-2', 'only-3'] 4"
            tick(log)
            assert asked() == "[2, 3, 4] ['a', 'only-1', 'only-2', 'only-3'] 3"
            clock.advance(2 * HOUR)
            tick(log)
            log._db.flush(lsm.FlushType.MEMTABLE)
            assert log.wait_idle(30)
            log.collect_garbage(min_age=0)
            assert asked() == "[4] ['a', 'only-3'] 1"
        finally:
            process.communicate(timeout=30)


# -- crashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["before", "retired", "announced"])
def test_a_crash_anywhere_hides_whole_segments_or_none(stage: str) -> None:
    clock, storage = ManualClock(), f"memory://retention-crash-{stage}"
    log = opened(clock, storage)
    fill(log, clock, 4)
    log.flush()
    steps: dict[str, Callable[[], object]] = {
        "before": lambda: None,
        "retired": lambda: log._writer.retire(2),
        "announced": lambda: (log._writer.retire(2), log._writer.segments.announce_retired()),
    }
    steps[stage]()

    with opened(clock, storage) as after:  # The old handle is fenced: what it had not made durable is lost.
        assert [one.id for one in after.list_segments()] == ([3, 4] if stage == "announced" else [1, 2, 3, 4])
        tick(after)
        assert [one.id for one in after.list_segments()] == [2, 3, 4] or stage == "announced"
    with contextlib.suppress(Exception):
        log.close()


class During(WrappedStore):
    """Once it is armed, the log's retention and its drain happen before the next such call."""

    def __init__(self, store: lsm.ObjectStore, call: str, log: LogDb) -> None:
        super().__init__(store)
        self.is_armed = False
        self._call, self._log = call, log

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        if self.is_armed and call == self._call and name.startswith("manifest/"):
            self.is_armed = False
            self._log._db.flush(lsm.FlushType.MEMTABLE)
            tick(self._log)
            assert self._log.wait_idle(30)
        return request()


def sealed_log(memory: MemoryStore, clock: ManualClock, *, flush: lsm.FlushType = lsm.FlushType.MEMTABLE) -> LogDb:
    """Five segments, all in tables (or in the log), of which retention is about to take the first two."""
    builder = LogDbBuilder(config("memory://", engine=tiny(l0_sst_size_bytes=1 << 20))).with_clock(clock)
    log = builder.with_object_store(memory).build()
    fill(log, clock, 5)
    log._db.flush(flush)
    assert log.wait_idle(30)
    return log


def agrees(reader: LogDbReader) -> bool:
    """Every segment that is listed has its record of key a."""
    return len(reader.list_segments()) == len(values(reader, b"a")) == reader.count(b"a")


@pytest.mark.parametrize("flush", lsm.FlushType)  # WAL: no version that the reader knew had the segment's tables.
def test_a_reader_that_finds_a_segment_dropped_knows_why(flush: lsm.FlushType) -> None:
    memory, clock = MemoryStore(), ManualClock()
    with sealed_log(memory, clock, flush=flush) as log:
        store = During(memory, "list", log)
        with LogDbReader(ReaderConfig(storage="memory://", refresh_interval=1e6), object_store=store) as reader:
            assert len(reader.list_segments()) == 5
            store.is_armed = True

            reader.refresh()

            assert not store.is_armed
            assert agrees(reader)
            assert len(reader.list_segments()) == 3


@pytest.mark.parametrize("flush", lsm.FlushType)
def test_a_checkpoint_made_while_a_segment_is_dropped_agrees_with_itself(flush: lsm.FlushType) -> None:
    memory, clock = MemoryStore(), ManualClock()
    with sealed_log(memory, clock, flush=flush) as log:
        store = During(memory, "put_if_absent", log)
        with lsm.Admin("memory://", object_store=store) as admin:
            store.is_armed = True
            pinned = admin.create_detached_checkpoint()
        assert not store.is_armed

        at_it = ReaderConfig(storage="memory://", checkpoint=pinned.id)
        with LogDbReader(at_it, object_store=memory) as reader:
            assert agrees(reader)


# -- the last segment --------------------------------------------------------------------------------------------------


def test_a_log_nobody_appends_to_empties_itself() -> None:
    clock, storage = ManualClock(), "memory://retention-empty"
    with opened(clock, storage) as log:
        fill(log, clock, 3)  # The last segment ended with its interval, now.
        clock.advance(2 * HOUR)
        tick(log)
        assert [one.id for one in log.list_segments()] == [3], "exactly the retention is not more than it"
        with LogDbReader.open(storage=storage, refresh_interval=60.0) as reader:
            shown = reader.scan(b"a")
            assert [entry.value for entry in shown.fetchall()] == [b"2"]
            clock.ms += 1
            tick(log)

            assert log.list_segments() == []
            assert (values(log, b"a"), names(log), log.count(b"a")) == ([], [], 0)
            assert log.scan(b"a").fetchall() == []
            reader.refresh()
            assert reader.list_segments() == []
            empty = reader.scan(b"a", shown.next_sequence)
            assert empty.fetchall() == []
            assert empty.next_sequence == shown.next_sequence
        assert log.seal_segment() == 3

        assert log.try_append([(b"a", b"new")]).start_sequence == 6
        assert [(one.id, one.start_seq) for one in log.list_segments()] == [(4, 6)]
    with opened(clock, storage) as log:
        assert [one.id for one in log.list_segments()] == [4]
        assert values(log, b"a") == [b"new"]


def test_an_empty_log_is_opened_and_compacted_and_its_ids_go_on() -> None:
    clock, storage = ManualClock(), "memory://retention-reopened-empty"
    with opened(clock, storage) as log:
        fill(log, clock, 2)
        clock.advance(DAY)
        tick(log)
        assert log.list_segments() == []
    for _ in range(2):
        with opened(clock, storage) as log:
            assert log.list_segments() == []
            assert log.wait_idle(30)
            assert {tree.segment_id for tree in log.tree_summary().segments} == {0}
    assert fsck(storage).is_sound
    with opened(clock, storage) as log:
        assert log.try_append([(b"a", b"new")]).start_sequence == 4
        assert [one.id for one in log.list_segments()] == [3]
        clock.advance(DAY)
        tick(log)
        assert log.list_segments() == []
        log.try_append([(b"a", b"newer")])
        assert [one.id for one in log.list_segments()] == [4]
    assert fsck(storage).is_sound


def test_everything_of_an_emptied_log_is_reclaimed_while_it_is_open() -> None:
    clock, storage = ManualClock(), "memory://retention-reclaimed"
    with opened(clock, storage) as log:
        log.try_append([(b"a", bytes(100_000))])
        log.flush()  # It is in a log object only.
        clock.advance(DAY)
        tick(log)
        assert log.wait_idle(30)
        log.collect_garbage(min_age=0)

        assert sum(info.size for info in log._db._engine.stores.main.list("")) < 20_000
        assert log.list_segments() == []


def test_the_thread_reclaims_by_itself_what_was_in_log_objects_only() -> None:
    clock, memory = ManualClock(), MemoryStore()
    retention = RetentionConfig(retention=2 * HOUR, check_interval=0.005)
    settings = tiny(gc_interval=0.01, gc_min_age=0.0)
    made = LogDbBuilder(config("memory://", retention=retention, engine=settings)).with_clock(clock)
    with made.with_object_store(memory).build() as log:
        log.try_append([(b"a", bytes(100_000))])
        log.flush()
        clock.advance(DAY)
        stored = 100_000
        for _ in range(4000):
            stored = sum(info.size for info in memory.list("", timeout=1.0))
            if stored < 20_000:
                break
            lsm.Runtime().sleep(0.005)

        assert log.list_segments() == []
        assert stored < 20_000
        assert log.status().background == {}


def test_a_compactor_elsewhere_drops_what_retention_took_last(tmp_path: Path) -> None:
    clock = ManualClock()
    changes = {"engine": tiny(compaction_enabled=False)}
    with opened(clock, str(tmp_path), **changes) as log:
        fill(log, clock, 2)
        log._db.flush(lsm.FlushType.MEMTABLE)
        clock.advance(DAY)
        tick(log)
        with open_compactor(config(str(tmp_path))) as compactor:
            compactor.run_once()
        log._db._engine.manifests.refresh()

        left = {partition.prefix[-1] for partition in log._db._engine.manifests.current.partitions}
        assert left <= {0}
        log.try_append([(b"a", b"new")])
        log._db.flush(lsm.FlushType.MEMTABLE)
        with open_compactor(config(str(tmp_path))) as compactor:
            compactor.run_once()
        assert values(log, b"a") == [b"new"]


def test_what_is_appended_while_retention_decides_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    with opened(clock) as log:
        log.try_append([(b"a", b"old")])
        clock.advance(DAY)
        retire = log._writer.retire

        def late(segment_id: int, **options: Any) -> None:
            log.try_append([(b"a", b"late")])
            retire(segment_id, **options)

        monkeypatch.setattr(log._writer, "retire", late)
        tick(log)

        assert b"late" in values(log, b"a")
        assert log.list_segments() != []


def test_the_last_segment_stays_while_it_is_appended_to(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    with opened(clock, segmentation=SegmentConfig(seal_interval=2 * HOUR)) as log:
        log.try_append([(b"a", b"1")])
        clock.advance(2 * HOUR - 1)
        log.try_append([(b"a", b"2")])
        clock.advance(2 * HOUR + 1)
        tick(log)
        assert values(log, b"a") == [b"1", b"2"]
        clock.ms += 1
        tick(log)
        assert values(log, b"a") == []


def test_the_last_segment_of_a_clock_that_was_ahead_goes_when_it_was_left_alone_long_enough() -> None:
    clock = ManualClock(40 * 365 * int(DAY) * 1000)
    with opened(clock) as log:
        clock.advance(10 * 365 * DAY)
        log.try_append([(b"a", b"1")])
        clock.advance(-10 * 365 * DAY)
        tick(log)
        clock.advance(2 * HOUR)
        log.try_append([(b"a", b"2")])
        tick(log)
        clock.advance(3 * HOUR)
        tick(log)
        assert values(log, b"a") == [b"1", b"2"]
        clock.ms += 1
        tick(log)
        assert values(log, b"a") == []


def test_idle_and_empty_it_makes_no_request() -> None:
    clock = ManualClock()
    store = CountingStore(MemoryStore())
    made = LogDbBuilder(config("memory://")).with_clock(clock).with_object_store(store)
    with made.build() as log:
        fill(log, clock, 2)
        clock.advance(DAY)
        tick(log)
        assert log.list_segments() == []
        assert log.wait_idle(30)
        store.reset()

        for _ in range(5):
            clock.advance(DAY)
            tick(log)

        assert store.log == []
