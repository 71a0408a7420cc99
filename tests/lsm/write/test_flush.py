"""Flushes that something gets in the way of. Found by simulation, or beside what it found."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

import msgspec
import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.workers.dispatch import Elsewhere
from lsm.write import flush
from lsm.write import flush_builds as build
from lsm.write.level0_tables import flush_from_log
from tests.lsm.support import open_plain, read_rows, tiny


def test_a_flush_that_waits_is_told_that_level_0_became_full(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryStore()
    settings = tiny(l0_max_ssts=3, l0_compaction_min=2, op_timeout=0.3)
    with open_plain(memory, settings) as db:
        lsm.DbCompactor.open("memory://", settings, object_store=memory).close()  # From now on nobody compacts.
        for at in range(2):
            db.put(b"%d" % at, b"1")
            db.flush(lsm.FlushType.MEMTABLE)
        flusher = db._engine.flusher
        committed = flusher._on_commit

        def slowly(manifest: lsm.Manifest) -> None:
            """The waiting thread hears of the commit, and goes on waiting, before the flush thread takes its next step."""
            committed(manifest)
            time.sleep(0.2)

        monkeypatch.setattr(flusher, "_on_commit", slowly)
        db.put(b"3", b"1")
        db._engine.writer.freeze()
        db.put(b"4", b"1")
        outcomes: list[object] = []

        def flush() -> None:
            try:
                outcomes.append(db.flush(lsm.FlushType.MEMTABLE))
            except lsm.Error as error:
                outcomes.append(error)

        waiting = threading.Thread(target=flush, daemon=True)
        waiting.start()
        waiting.join(30)

        assert len(outcomes) == 1, "it waits for ever"
        assert "level 0 is full" in str(outcomes[0])


def send_to(workers: Elsewhere, monkeypatch: pytest.MonkeyPatch, db: lsm.Db) -> None:
    """Have the memtables of a database built there."""
    builds = db._engine.flusher._builds
    places = msgspec.structs.replace(builds._places, workers=workers, addresses=(None, None))
    monkeypatch.setattr(builds, "_places", places)


TROUBLE = [
    lsm.CorruptionError("is missing", object_name="wal/2.wal"),
    lsm.InvalidError("no such option"),
    lsm.UnavailableError("the worker has no credentials"),
    BrokenExecutor("the worker died"),
    ModuleNotFoundError("No module named 'layouts'"),
    MemoryError(),
    SystemExit(3),
]


class Troubled(Executor):
    """Every call ends in the same way."""

    def __init__(self, error: BaseException, *, refuses: bool = False) -> None:
        self.error = error
        self.refuses = refuses
        self.calls: list[Any] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(fn)
        if self.refuses:
            raise self.error
        done: Future[Any] = Future()
        done.set_exception(self.error)
        return done


@pytest.mark.parametrize(
    ("trouble", "refuses"),
    [(error, refuses) for error in TROUBLE for refuses in (False, True) if isinstance(error, Exception) or not refuses],
    ids=repr,
)
def test_trouble_with_a_worker_fails_no_flush(
    monkeypatch: pytest.MonkeyPatch, trouble: BaseException, refuses: bool
) -> None:
    monkeypatch.setattr("lsm.write.flush_builds.WORKER_BYTES_MIN", 0)
    store = MemoryStore()
    with open_plain(store) as db:
        executor = Troubled(trouble, refuses=refuses)
        workers = Elsewhere(executor, db._engine.runtime, job="flushes", url="memory://")
        send_to(workers, monkeypatch, db)
        for at in range(4):
            db.put(b"%d" % at, b"1")
            db.flush(lsm.FlushType.MEMTABLE)

        # Asked once, or twice where the store may have been the reason; not with every memtable.
        assert len(executor.calls) == (2 if isinstance(trouble, lsm.UnavailableError) else 1)
        assert db.status().frozen_memtables == 0
        assert db.status().background == {}
        assert read_rows(db) == [(b"%d" % at, b"1") for at in range(4)]
        monkeypatch.undo()
    with open_plain(store) as db:
        assert read_rows(db) == [(b"%d" % at, b"1") for at in range(4)]


def test_a_table_that_a_lost_worker_writes_late_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsm.write.flush_builds.WORKER_BYTES_MIN", 0)
    store = MemoryStore()

    class Late(Executor):
        """Its worker is given up, and writes its table all the same, before anything else is written."""

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            done: Future[Any] = Future()
            try:
                flush_from_log(db._engine.stores.main, db._engine.stores.main, db._engine.runtime, args[-1])
            except lsm.Error as error:
                written.append(error)
            else:
                written.append(None)
            done.set_exception(BrokenExecutor("it made no progress"))
            return done

    written: list[object] = []
    with open_plain(store) as db:
        send_to(Elsewhere(Late(), db._engine.runtime, job="flushes", url="memory://"), monkeypatch, db)
        db.put(b"a", b"1")
        db.flush(lsm.FlushType.MEMTABLE)

        assert written == [None]
        assert read_rows(db) == [(b"a", b"1")]
        assert len(db.collect_garbage(min_age=0)) == 1
        assert read_rows(db) == [(b"a", b"1")]
        monkeypatch.undo()


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")])
def test_what_is_refused_to_a_flush_is_refused_once_and_then_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Memory and descriptors come back; the handle must be there then."""
    refusals = [error]
    real = build.flush_memtable

    def refusing(*arguments: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return real(*arguments)

    monkeypatch.setattr(build, "flush_memtable", refusing)
    monkeypatch.setattr(flush, "RETRY_SECONDS", 0.01)
    with open_plain(MemoryStore()) as db:
        db.put(b"a", b"1")
        with contextlib.suppress(lsm.UnavailableError):  # Where it waits by then.
            db.flush(lsm.FlushType.MEMTABLE)
        db.flush(lsm.FlushType.MEMTABLE)

        assert not refusals
        assert read_rows(db) == [(b"a", b"1")]
