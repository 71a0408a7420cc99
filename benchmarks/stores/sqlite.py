"""SQLite in WAL mode with a clustered table (key, sequence), rows written by `executemany`.

Not durable: synchronous=NORMAL and a transaction an append, as one writes to SQLite for speed.
Durable: synchronous=FULL, appends join one open transaction and `flush` commits it, so that threads share a sync.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from itertools import count

from benchmarks.stores.contract import Batch, Entries, GroupSync, SequenceFile

_SCHEMA = """CREATE TABLE IF NOT EXISTS log (
    key BLOB NOT NULL, sequence INTEGER NOT NULL, value BLOB NOT NULL, PRIMARY KEY (key, sequence)
) WITHOUT ROWID"""
_INSERT = "INSERT INTO log VALUES (?, ?, ?)"
_SELECT = "SELECT key, sequence, value FROM log WHERE key = ? AND sequence >= ? ORDER BY sequence LIMIT ?"


class SqliteStore:
    def __init__(self, path: str, *, durable: bool = False) -> None:
        self._sequence_file = SequenceFile(path)
        self._db = sqlite3.connect(os.path.join(path, "log.db"), isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        self._db.execute(_SCHEMA)
        self._durable = durable
        self._next = self._sequence_file.load()
        self._lock = threading.Lock()
        self._group = GroupSync(self._commit)

    def append(self, batch: Batch) -> None:
        with self._lock:
            rows = zip((key for key, _ in batch), count(self._next), (value for _, value in batch))
            if not self._db.in_transaction:
                self._db.execute("BEGIN")
            self._db.executemany(_INSERT, rows)
            if not self._durable:
                self._db.execute("COMMIT")
            self._next += len(batch)

    def flush(self) -> None:
        if self._durable:
            self._group.cover(lambda: self._next)
        else:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _commit(self) -> None:
        with self._lock:
            if self._db.in_transaction:
                self._db.execute("COMMIT")

    def scan(self, key: bytes, start: int = 0, limit: int | None = None) -> Entries:
        return self._db.execute(_SELECT, (key, start, -1 if limit is None else limit)).fetchall()

    def settle(self) -> None:
        pass

    def close(self) -> None:
        self._commit()
        self._sequence_file.save(self._next)
        self._db.close()
