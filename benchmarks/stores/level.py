"""LevelDB through plyvel: one write batch an append, `flush` is a synced empty batch, which syncs its log up to there."""

from __future__ import annotations

import threading
from itertools import islice

import plyvel

from benchmarks.stores.contract import SEQUENCE, Batch, Entries, GroupSync, SequenceFile

_PAST_EVERY_SEQUENCE = b"\xff" * 9
_WRITE_BUFFER_BYTES = 64 << 20


class LevelStore:
    def __init__(self, path: str, *, durable: bool = False) -> None:
        self._sequence_file = SequenceFile(path)
        self._db = plyvel.DB(path, create_if_missing=True, write_buffer_size=_WRITE_BUFFER_BYTES)
        self._next = self._sequence_file.load()
        self._lock = threading.Lock()
        self._group = GroupSync(lambda: self._db.put(b"", b"", sync=True))

    def append(self, batch: Batch) -> None:
        pack = SEQUENCE.pack
        with self._lock, self._db.write_batch() as rows:
            sequence = self._next
            put = rows.put
            for key, value in batch:
                put(key + pack(sequence), value)
                sequence += 1
            self._next = sequence

    def flush(self) -> None:
        self._group.cover(lambda: self._next)

    def scan(self, key: bytes, start: int = 0, limit: int | None = None) -> Entries:
        size, unpack = len(key), SEQUENCE.unpack_from
        low, high = key + SEQUENCE.pack(start), key + _PAST_EVERY_SEQUENCE
        with self._db.iterator(start=low, stop=high) as rows:
            chosen = rows if limit is None else islice(rows, limit)
            return [(key, unpack(row_key, size)[0], value) for row_key, value in chosen]

    def settle(self) -> None:
        pass

    def close(self) -> None:
        self._sequence_file.save(self._next)
        self._db.close()
