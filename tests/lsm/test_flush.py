"""Flushes that something gets in the way of. Found by simulation, or beside what it found."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

import lsm
from lsm.object_store import MemoryStore
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


def test_a_table_is_built_from_memory_where_a_worker_finds_its_log_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsm.write.flush.WORKER_BYTES_MIN", 0)
    asked = []

    def finds_nothing(job: object) -> Future[object]:
        asked.append(job)
        done: Future[object] = Future()
        done.set_exception(lsm.CorruptionError("is missing", object_name="wal/2.wal"))
        return done

    with open_plain(MemoryStore()) as db:
        flusher = db._engine.flusher
        monkeypatch.setattr(flusher, "_workers", SimpleNamespace(submit=lambda _: None))
        monkeypatch.setattr(flusher, "_addresses", ())
        monkeypatch.setattr(flusher, "_submit_to_worker", finds_nothing)
        db.put(b"a", b"1")

        with contextlib.suppress(lsm.UnavailableError):  # Where it waits by then.
            db.flush(lsm.FlushType.MEMTABLE)
        db.flush(lsm.FlushType.MEMTABLE)

        assert len(asked) == 1
        assert db.status().frozen_memtables == 0
        assert flusher._only_from_memory is None  # Its memory is free again.
        assert read_rows(db) == [(b"a", b"1")]
        monkeypatch.undo()
