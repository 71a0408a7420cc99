"""LMDB: one write transaction an append, without sync; `flush` is `env.sync(True)`.

Writes go through a memory map of sparse 8 GiB. A write transaction belongs to the thread that began it, so each
append has its own.
"""

from __future__ import annotations

import threading
from itertools import islice

import lmdb

from benchmarks.stores.contract import SEQUENCE, Batch, Entries, GroupSync, SequenceFile

MAP_BYTES = 8 << 30


class LightningStore:
    def __init__(self, path: str, *, durable: bool = False) -> None:
        self._sequence_file = SequenceFile(path)
        self._env = lmdb.open(path, map_size=MAP_BYTES, sync=False, metasync=False, subdir=True)
        self._next = self._sequence_file.load()
        self._lock = threading.Lock()
        self._group = GroupSync(lambda: self._env.sync(True))

    def append(self, batch: Batch) -> None:
        pack = SEQUENCE.pack
        with self._lock, self._env.begin(write=True) as transaction:
            sequence = self._next
            put = transaction.put
            for key, value in batch:
                put(key + pack(sequence), value)
                sequence += 1
            self._next = sequence

    def flush(self) -> None:
        self._group.cover(lambda: self._next)

    def scan(self, key: bytes, start: int = 0, limit: int | None = None) -> Entries:
        size, unpack = len(key), SEQUENCE.unpack_from
        entries: list[tuple[bytes, int, bytes]] = []
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            if not cursor.set_range(key + SEQUENCE.pack(start)):
                return entries
            rows = cursor.iternext()
            for row_key, value in rows if limit is None else islice(rows, limit):
                if not row_key.startswith(key):
                    break
                entries.append((key, unpack(row_key, size)[0], value))
        return entries

    def settle(self) -> None:
        pass

    def close(self) -> None:
        self._sequence_file.save(self._next)
        self._env.sync(True)
        self._env.close()
