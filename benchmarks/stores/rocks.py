"""RocksDB through rocksdict in raw mode: one write batch an append, its WAL on, snappy as it ships."""

from __future__ import annotations

import os
import threading
from itertools import islice
from typing import Any

from rocksdict import Options, Rdict, ReadOptions, WriteBatch

from benchmarks.stores.contract import SEQUENCE, Batch, Entries, GroupSync, SequenceFile


class RocksStore:
    def __init__(self, path: str, *, durable: bool = False) -> None:
        self._sequence_file = SequenceFile(path)
        self._db = Rdict(os.path.join(path, "rocks"), Options(raw_mode=True))
        self._next = self._sequence_file.load()
        self._lock = threading.Lock()
        self._group = GroupSync(lambda: self._db.flush_wal(True))

    def append(self, batch: Batch) -> None:
        pack = SEQUENCE.pack
        write = WriteBatch(raw_mode=True)
        put = write.put
        with self._lock:
            sequence = self._next
            for key, value in batch:
                put(key + pack(sequence), value)
                sequence += 1
            self._db.write(write)
            self._next = sequence

    def flush(self) -> None:
        self._group.cover(lambda: self._next)

    def scan(self, key: bytes, start: int = 0, limit: int | None = None) -> Entries:
        bounded = ReadOptions()
        bounded.set_iterate_upper_bound(key + b"\xff" * 9)
        size, unpack = len(key), SEQUENCE.unpack_from
        rows: Any = self._db.items(from_key=key + SEQUENCE.pack(start), read_opt=bounded)
        if limit is not None:
            rows = islice(rows, limit)
        return [(key, unpack(row_key, size)[0], value) for row_key, value in rows]

    def settle(self) -> None:
        pass

    def close(self) -> None:
        self._sequence_file.save(self._next)
        self._db.close()
