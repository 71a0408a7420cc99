"""What a reader tells: news to whoever asked for them, its state, outages that pass, damage that does not."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.object_store.names import wal_name
from lsm.read import following
from lsm.read.following import names_by_family
from lsm.wal.frames import Frame
from tests.doubles import Fault, FaultyStore
from tests.lsm.read.support import HookedStore, busy_writer, open_reader, open_series_reader, shown_by
from tests.lsm.support import FAMILIES, append, objects_of, open_db, open_plain, read_rows, tiny


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


# -- news -------------------------------------------------------------------------------------------------------------


def test_names_of_frames_are_told_by_family() -> None:
    def frame(family: bytes, *names: bytes) -> Frame:
        return Frame(family, 1, 0, [len(names)], names, (), names, 0)

    assert names_by_family([]) == {}
    assert names_by_family([frame(b"", b"row")]) == {}
    assert names_by_family([frame(b"f", b"a", b"b"), frame(b"g", b"a"), frame(b"f", b"b", b"c")]) == {
        b"f": {b"a", b"b", b"c"},
        b"g": {b"a"},
    }


def test_news_are_told_once_with_the_series_that_got_rows(memory: MemoryStore) -> None:
    heard: list[Any] = []
    with open_db(memory) as db:
        append(db, FAMILIES[0], [(b"old", b"v")], 0)
        db.flush()
        with open_series_reader(memory) as reader:
            reader.on_news(heard.append)
            reader.refresh()
            assert heard == []  # It was there at the open.

            append(db, FAMILIES[0], [(b"a", b"v"), (b"b", b"v"), (b"a", b"v")], 1)
            append(db, FAMILIES[1], [(b"c", b"v")], 0)
            db.flush()
            append(db, FAMILIES[0], [(b"d", b"v")], 4)
            db.flush()
            reader.refresh()
            assert heard == [{FAMILIES[0]: {b"a", b"b", b"d"}, FAMILIES[1]: {b"c"}}]

            db.put(b"p0k", b"v", await_durable=True)
            reader.refresh()
            assert heard[1:] == [{}]  # Something became visible, in no series.

            db.flush(lsm.FlushType.MEMTABLE)
            db.wait_idle(30)
            reader.refresh()
            reader.refresh()
            assert len(heard) == 2  # What was seen is in tables now: nothing new.
            append(db, FAMILIES[2], [(b"e", b"v")], 0)
            db.flush()
            reader.refresh()
            assert heard[2:] == [{FAMILIES[2]: {b"e"}}]


def test_a_callback_sees_what_it_is_told_about_and_may_use_the_reader(memory: MemoryStore) -> None:
    seen = []
    with open_plain(memory) as db, open_reader(memory) as reader:
        reader.on_news(lambda names: seen.append((reader.get(b"k"), reader.refresh())))
        db.put(b"k", b"1", await_durable=True)

        reader.refresh()

    assert seen == [(b"1", None)]


def test_a_callback_that_fails_is_kept_as_the_last_failure_and_the_others_are_called(memory: MemoryStore) -> None:
    heard: list[Any] = []

    def fail(names: Any) -> None:
        raise RuntimeError("no good")

    with open_plain(memory) as db, lsm.DbReader.open("memory://", object_store=memory, refresh_interval=0.01) as reader:
        told = threading.Event()
        reader.on_news(fail)
        reader.on_news(heard.append)
        reader.on_news(lambda names: told.set())
        for at in range(3):
            told.clear()
            db.put(b"k", b"%d" % at, await_durable=True)
            assert told.wait(30)
            assert reader.get(b"k") == b"%d" % at

    assert heard == [{}] * 3


def test_versions_grow_with_what_is_seen_only(memory: MemoryStore) -> None:
    with open_db(memory) as db, open_series_reader(memory) as reader:

        def versions() -> tuple[int, int]:
            reader.refresh()
            return reader.version, reader.rows_version

        assert versions() == versions() == (version := reader.version, rows := reader.rows_version)
        append(db, FAMILIES[0], [(b"a", b"v")], 0)
        db.flush()
        assert versions() == (version + 1, rows)
        db.put(b"p0k", b"v", await_durable=True)
        assert versions() == versions() == (version + 2, rows + 1)
        db.flush(lsm.FlushType.MEMTABLE)
        assert versions()[0] > version + 2
        assert reader.rows_version == rows + 1
        db.put(b"p0k", b"v")
        db.flush(lsm.FlushType.MEMTABLE)
        db.collect_garbage(min_age=0)
        assert versions()[1] == rows + 2


# -- outages and damage -----------------------------------------------------------------------------------------------


def test_an_outage_it_is_told_and_reads_go_on_and_it_passes(memory: MemoryStore) -> None:
    store = HookedStore(memory)
    with (
        busy_writer(memory) as writer,
        lsm.DbReader.open(
            "memory://",
            tiny(),
            object_store=store,
            refresh_interval=0.01,
            prefix_extractor=reader_parts()[0],
            series_layout=reader_parts()[1],
        ) as reader,
    ):
        before = shown_by(reader)
        store.is_down = True
        writer.write()
        until(lambda: reader.last_failure is not None)
        with pytest.raises(lsm.UnavailableError, match="the store is down"):
            reader.refresh()

        assert shown_by(reader) == before
        status = reader.status()
        assert "the store is down" in str(status.last_failure)
        assert "the store is down" in repr(reader)
        assert (status.close_reason, status.refresh_interval) == (None, 0.01)

        store.is_down = False
        until(lambda: shown_by(reader) == writer.end)
        until(lambda: reader.last_failure is None)
        assert reader.status().last_failure is None


def reader_parts() -> tuple[Any, Any]:
    from tests.lsm.support import Lists, TwoBytes

    return TwoBytes(), Lists()


def until(is_so: Any) -> None:
    tick = threading.Event()
    for _ in range(6000):
        if is_so():
            return
        tick.wait(0.005)
    raise AssertionError("it never came to be")


def test_refresh_ages_are_of_polls_that_succeeded(memory: MemoryStore) -> None:
    store = HookedStore(memory)
    open_plain(memory).close()
    with open_reader(store) as reader:
        store.is_down = True
        ages = [reader.status().refresh_age]
        with pytest.raises(lsm.UnavailableError):
            reader.refresh()
        ages.append(reader.status().refresh_age)
        assert ages == sorted(ages)
        assert reader.status().refresh_interval is None
        store.is_down = False
        reader.refresh()
        assert reader.last_failure is None


@pytest.mark.parametrize("at", range(7))
def test_an_outage_in_the_middle_of_a_refresh_it_shows_what_it_had_read(memory: MemoryStore, at: int) -> None:
    store = HookedStore(memory)
    heard: list[Any] = []
    with busy_writer(memory) as writer, open_series_reader(store) as reader:
        reader.on_news(heard.append)
        for _ in range(5):
            writer.write()
        before = shown_by(reader)
        store.arm(at, lambda: setattr(store, "is_down", True))
        with pytest.raises(lsm.UnavailableError):
            reader.refresh()
        store.is_down = False  # For the tables' sake.
        assert shown_by(reader) == before + 5 * min(max(at - 1, 0), 5)  # The first request lists the log.
        assert bool(heard) is (at > 1)

        reader.refresh()

        assert shown_by(reader) == writer.end
        assert heard


@pytest.mark.parametrize("seed", range(4))
def test_transient_faults_change_nothing(memory: MemoryStore, seed: int) -> None:
    store = FaultyStore(memory, seed=seed, probability=0.2, faults=(Fault.NOT_SENT, Fault.REPLY_LOST))
    with busy_writer(memory) as writer, open_series_reader(store) as reader:
        for turn in range(6):
            writer.step() if turn % 2 else writer.write()
            reader.refresh()
            assert shown_by(reader) == writer.end
    assert store.injected[Fault.NOT_SENT] + store.injected[Fault.REPLY_LOST] > 0


def test_a_damaged_log_reads_say_so_until_the_tables_have_its_rows(memory: MemoryStore) -> None:
    heard: list[Any] = []
    with open_plain(memory, tiny(l0_sst_size_bytes=1 << 20)) as db, open_reader(memory) as reader:
        reader.on_news(heard.append)
        db.put(b"a", b"1", await_durable=True)
        reader.refresh()
        name = wal_name(reader.status().next_log_object)
        db.put(b"b", b"2", await_durable=True)
        data = objects_of(memory)[name]
        objects_of(memory)[name] = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]

        for _ in range(2):
            with pytest.raises(lsm.CorruptionError, match=name):
                reader.refresh()
            with pytest.raises(lsm.CorruptionError, match=name):
                reader.get(b"a")
            with pytest.raises(lsm.CorruptionError, match=name):
                reader.version  # noqa: B018
        assert name in str(reader.status().close_reason)
        assert heard == [{}, None]  # Whoever waits for rows is to look, and to be told.

        db.flush(lsm.FlushType.MEMTABLE)
        reader.refresh()
        assert read_rows(reader) == [(b"a", b"1"), (b"b", b"2")]
        assert heard == [{}, None, None]
        assert reader.status().close_reason is None


def test_a_bug_in_a_poll_reads_say_so_and_polls_go_on(memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_plain(memory) as db, lsm.DbReader.open("memory://", object_store=memory, refresh_interval=0.01) as reader:

        def broken(*arguments: Any, **options: Any) -> int:
            raise ZeroDivisionError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(following, "apply_frames", broken)
            db.put(b"a", b"1", await_durable=True)
            until(lambda: reader.last_failure is not None)
            with pytest.raises(lsm.InternalError, match="a bug"):
                reader.get(b"a")
        until(lambda: reader.last_failure is None)

        assert reader.get(b"a") == b"1"


@pytest.mark.parametrize("is_early", [False, True])
def test_an_interrupt_halfway_through_a_log_object_the_next_refresh_is_whole(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch, is_early: bool
) -> None:
    real = following.apply_frames

    def interrupted(*arguments: Any, **options: Any) -> int:
        if not is_early:
            real(*arguments, **options)
        raise KeyboardInterrupt

    heard: list[Any] = []
    with busy_writer(memory) as writer, open_series_reader(memory) as reader:
        reader.on_news(heard.append)
        before = shown_by(reader)
        writer.write()
        with monkeypatch.context() as patch:
            patch.setattr(following, "apply_frames", interrupted)
            with pytest.raises(KeyboardInterrupt):
                reader.refresh()
        assert shown_by(reader) == before

        reader.refresh()

        assert shown_by(reader) == writer.end
        assert heard == [None]


# -- handles ----------------------------------------------------------------------------------------------------------


def test_a_closed_reader_says_so(memory: MemoryStore) -> None:
    open_plain(memory).close()
    reader = open_reader(memory)
    reader.close()
    reader.close()

    for call in (lambda: reader.get(b"k"), reader.refresh, lambda: reader.version):
        with pytest.raises(lsm.ClosedError, match="closed"):
            call()
    assert "closed" in repr(reader)
    assert "closed" in str(reader.status().close_reason)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told_to_open_its_own(memory: MemoryStore) -> None:
    open_plain(memory).close()
    with open_reader(memory) as reader:
        child = os.fork()
        if not child:
            try:
                reader.get(b"k")
            except lsm.ClosedError as error:
                os._exit("fork" in str(error))
            os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 1
        assert reader.get(b"k") is None
