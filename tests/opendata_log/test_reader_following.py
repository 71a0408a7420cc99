"""A reader that stays: its frontier, in every place the data can be, and its reads while the log is rearranged under it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lsm
from opendata_log import CorruptionError, LogDb, LogDbReader, ScanOptions, SnapshotExpired, StorageError
from opendata_log.waiting.wakeups import Wakeups
from tests.opendata_log.following import Listener
from tests.opendata_log.support import tiny, values

ALL = [b"a", b"b", b"idle"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path)


def open_log(url: str, **engine: Any) -> LogDb:
    return LogDb.open(storage=url, engine=tiny(**engine))


def open_reader(url: str, **engine: Any) -> LogDbReader:
    return LogDbReader.open(storage=url, refresh_interval=1000.0, engine=tiny(**engine))


def append(log: LogDb, key: bytes, count: int = 1) -> int:
    """The sequence after the batch."""
    start = log.try_append([(key, b"v" * 50)] * count).start_sequence
    log.flush()
    return start + count


def frontier(reader: LogDbReader) -> int:
    """`next_sequence` after a drain, which must be the same for every key, written or not."""
    found = set()
    for key in [*ALL, b"never written"]:
        scan = reader.scan(key)
        scan.fetchall()
        found.add(scan.next_sequence)
    (end,) = found
    return end


def into_tables(log: LogDb) -> None:
    """Everything written so far is in tables, and only there."""
    log._db.flush(lsm.FlushType.MEMTABLE)
    log.wait_idle(30)
    log.collect_garbage(min_age=0)


# -- the frontier -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_old", [False, True], ids=["opened now", "opened before"])
def test_after_a_drain_it_goes_on_right_behind_the_last_durable_record(url: str, is_old: bool) -> None:
    with open_log(url) as log, open_reader(url) as old:

        def check(end: int) -> None:
            if is_old:
                old.refresh()
                assert frontier(old) == end
            else:
                with open_reader(url) as fresh:
                    assert frontier(fresh) == end

        check(0)
        end = append(log, b"a", 3)
        check(end)  # in the log only
        into_tables(log)
        check(end)  # in tables only
        end = append(log, b"b")
        check(end)  # in both
        log.seal_segment()
        check(end)  # sealed, without a successor
        end = append(log, b"a", 2)
        check(end)  # the new segment in the log, the old one in tables
        into_tables(log)
        check(end)
        for _ in range(3):
            log.seal_segment()
            end = append(log, b"b", 5)
            into_tables(log)
            check(end)
        log.try_append([(b"a", b"not durable")])
        check(end)


@pytest.mark.parametrize("is_clean", [True, False])
def test_after_a_reopen_it_goes_on_right_behind_the_last_durable_record(url: str, is_clean: bool) -> None:
    log = open_log(url)
    end = append(log, b"a", 3)
    with open_reader(url) as reader:
        if is_clean:
            log.close()
        with open_log(url) as again:
            reader.refresh()
            assert frontier(reader) == end
            end = append(again, b"b")
            reader.refresh()
            assert frontier(reader) == end  # Behind the gap that a crash leaves, too.
            again.seal_segment()
            end = append(again, b"a")
            into_tables(again)
            reader.refresh()
            assert frontier(reader) == end
        if not is_clean:
            log.close()


def test_with_the_log_switched_off_it_goes_on_behind_the_last_record_in_tables(url: str) -> None:
    with open_log(url, wal_enabled=False) as log, open_reader(url) as reader:
        for _ in range(3):
            end = append(log, b"a", 2)
            reader.refresh()
            assert frontier(reader) == end


def test_a_poll_that_is_caught_up_it_reads_no_segment_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_log(url) as log, open_reader(url) as reader:
        end = append(log, b"a", 3)
        reader.refresh()
        assert frontier(reader) == end
        loads = []
        real = lsm.DbReader.scan_prefix
        monkeypatch.setattr(lsm.DbReader, "scan_prefix", lambda *given: loads.append(given) or real(*given))

        assert frontier(reader) == end
        end = append(log, b"b")
        reader.refresh()
        assert (frontier(reader), loads) == (end, [])
        log.seal_segment()
        end = append(log, b"a")
        reader.refresh()
        assert (frontier(reader), len(loads)) == (end, 1)
        assert [one.id for one in reader.list_segments()] == [1, 2]


# -- under a log that is rearranged -----------------------------------------------------------------------------------

DEEDS: dict[str, Callable[[LogDb], object]] = {
    "appends": lambda log: append(log, b"a", 5),
    "tables": into_tables,
    "seals": lambda log: (log.seal_segment(), append(log, b"b")),
    "sealed and compacted": lambda log: (log.seal_segment(), append(log, b"a", 3), into_tables(log)),
}


@pytest.mark.parametrize("is_reopened", [False, True])
@pytest.mark.parametrize("refreshes", [False, True])
@pytest.mark.parametrize("deed", DEEDS)
def test_a_scan_that_is_overtaken_it_is_right_or_says_so(
    url: str, deed: str, refreshes: bool, is_reopened: bool
) -> None:
    log = open_log(url, l0_sst_size_bytes=1 << 20)
    for _ in range(3):
        append(log, b"a", 40)
        into_tables(log)
        log.seal_segment()
    append(log, b"a", 40)
    with open_reader(url, block_cache_bytes=0) as reader:
        wanted = [(entry.sequence, entry.value) for entry in log.scan(b"a")]
        scan = reader.scan(b"a", options=ScanOptions(read_ahead_bytes=0))
        found = [(entry.sequence, entry.value) for entry in scan.fetchmany(7)]
        for _ in range(3):
            DEEDS[deed](log)
            if is_reopened:
                log.close()
                log = open_log(url, l0_sst_size_bytes=1 << 20)
                into_tables(log)
            if refreshes:
                reader.refresh()
        try:
            for entry in scan:
                found.append((entry.sequence, entry.value))
        except SnapshotExpired as error:
            assert "read again" in str(error)
            assert error.retryable
            with pytest.raises(SnapshotExpired):
                next(scan)
            assert found == wanted[: len(found)]
            assert scan.next_sequence == found[-1][0] + 1
            rest = reader.scan(b"a", scan.next_sequence)  # It has refreshed by itself.
            found += [(entry.sequence, entry.value) for entry in rest]
            wanted = [(entry.sequence, entry.value) for entry in log.scan(b"a")]
        assert found == wanted
        reader.refresh()
        assert values(reader, b"a") == values(log, b"a")  # type: ignore[arg-type]
        assert reader.count(b"a") == log.count(b"a")
        assert [item.key for item in reader.list_keys()] == [item.key for item in log.list_keys()]
    log.close()


def test_a_count_or_listing_whose_tables_are_gone_it_says_so_once(url: str) -> None:
    with open_log(url, l0_sst_size_bytes=1 << 20) as log:
        for _ in range(2):
            append(log, b"a", 40)
            into_tables(log)
        for read in (
            lambda reader: reader.count(b"a", 1),
            lambda reader: reader.list_keys().fetchall(),
            lambda reader: reader.scan(b"a").fetchall(),
        ):
            for _ in range(2):
                append(log, b"a", 40)
                log._db.flush(lsm.FlushType.MEMTABLE)
            with open_reader(url) as reader:
                assert reader.list_segments()
                log.seal_segment()
                append(log, b"b")
                into_tables(log)
                with pytest.raises(SnapshotExpired, match="read again"):
                    read(reader)
                assert read(reader)


def test_a_sleeper_whose_segments_metadata_were_rewritten_it_looks_again(url: str) -> None:
    with open_log(url, l0_sst_size_bytes=1 << 20) as log:
        for _ in range(3):
            append(log, b"a", 40)
            into_tables(log)
            log.seal_segment()
        with open_reader(url) as reader:
            for _ in range(3):
                end = append(log, b"a", 40)
                into_tables(log)
                log.seal_segment()

            assert [one.id for one in reader.list_segments()] == [1, 2, 3, 4, 5, 6]
            assert frontier(reader) == end


# -- followers --------------------------------------------------------------------------------------------------------


def test_followers_are_told_of_their_own_keys(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_log(url) as log, open_reader(url) as reader:
        end = append(log, b"a", 2)
        reader.refresh()
        a, b = Listener(reader.follow(b"a")), Listener(reader.follow(b"b", end))
        assert len(a.wait_for(2)) == 2
        told: list[Any] = []
        real = Wakeups.tell
        monkeypatch.setattr(Wakeups, "tell", lambda self, keys: told.append(set(keys)) or real(self, keys))

        append(log, b"a")
        append(log, b"idle")
        reader.refresh()
        assert len(a.wait_for(3)) == 3
        append(log, b"b")
        into_tables(log)
        reader.refresh()
        assert len(b.wait_for(1)) == 1

        assert told == [{b"a", b"idle"}, {b"b"}]
    assert a.ended()
    assert b.ended()
    assert (a.error, b.error) == (None, None)


def test_followers_go_on_in_tables_where_the_reader_slept(url: str) -> None:
    with open_log(url) as log, open_reader(url) as reader:
        every, one = Listener(reader.follow_all(prefix=b"")), Listener(reader.follow(b"b"))
        for turn in range(1, 4):
            append(log, b"a", 5)
            append(log, b"b", 5)
            log.seal_segment()
            append(log, b"idle")
            into_tables(log)
            reader.refresh()
            assert len(every.wait_for(11 * turn)) == 11 * turn
            assert len(one.wait_for(5 * turn)) == 5 * turn
    assert every.ended()
    assert [entry.sequence for entry in every.entries] == list(range(33))


def test_followers_of_a_damaged_log_are_told(url: str) -> None:
    with open_log(url) as log, open_reader(url) as reader:
        append(log, b"a")
        reader.refresh()
        follower = Listener(reader.follow(b"a"))
        follower.wait_for(1)
        append(log, b"a")
        damage_newest_log_object(url)

        with pytest.raises(CorruptionError):
            reader.refresh()

        assert follower.ended()
        assert isinstance(follower.error, CorruptionError)


def damage_newest_log_object(url: str) -> None:
    newest = max((Path(url) / "wal").rglob("*.wal"))
    newest.chmod(0o600)
    newest.write_bytes(newest.read_bytes()[:-1])


# -- state ------------------------------------------------------------------------------------------------------------


def test_status_says_where_it_stands(url: str) -> None:
    with open_log(url) as log, LogDbReader.open(storage=url, refresh_interval=500.0) as reader:
        before = reader.status()
        end = append(log, b"a", 3)
        reader.refresh()
        status = reader.status()
        log._db.flush(lsm.FlushType.MEMTABLE)
        reader.refresh()

        assert frontier(reader) == end
        assert before.next_log_object < status.next_log_object
        assert before.last_seq < status.last_seq
        assert status.manifest_number < reader.status().manifest_number
        assert status.memory_bytes > reader.status().memory_bytes == 0
        assert 0 <= status.refresh_age < 500
        assert status.refresh_interval == 500.0
        assert (status.last_failure, status.close_reason) == (None, None)
        assert status.requests["get", "poll"].requests > before.requests["get", "poll"].requests


def test_a_damaged_log_it_is_a_corruption_error_of_the_log(url: str) -> None:
    with open_log(url) as log, open_reader(url) as reader:
        append(log, b"a")
        reader.refresh()
        append(log, b"a")
        damage_newest_log_object(url)

        with pytest.raises(CorruptionError, match="wal/"):
            reader.refresh()
        with pytest.raises(CorruptionError, match="wal/"):
            reader.scan(b"a")
        assert "wal/" in repr(reader)


def test_storage_nobody_wrote_it_says_so(url: str) -> None:
    with pytest.raises(StorageError, match="nobody has written"):
        LogDbReader.open(storage=url)
