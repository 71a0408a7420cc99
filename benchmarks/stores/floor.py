"""The floor: a dict of two lists. Nothing durable, no objects; what Python itself costs."""

from __future__ import annotations

import threading
from bisect import bisect_left
from itertools import repeat

from benchmarks.stores.contract import Batch, Entries


class FloorStore:
    def __init__(self, path: str, *, durable: bool = False) -> None:
        self._streams: dict[bytes, tuple[list[int], list[bytes]]] = {}
        self._next = 0
        self._lock = threading.Lock()

    def append(self, batch: Batch) -> None:
        streams = self._streams
        with self._lock:
            sequence = self._next
            for key, value in batch:
                stream = streams.get(key)
                if stream is None:
                    stream = streams[key] = ([], [])
                stream[0].append(sequence)
                stream[1].append(value)
                sequence += 1
            self._next = sequence

    def flush(self) -> None:
        pass

    def scan(self, key: bytes, start: int = 0, limit: int | None = None) -> Entries:
        sequences, values = self._streams.get(key, ((), ()))
        low = bisect_left(sequences, start)
        high = len(sequences) if limit is None else min(len(sequences), low + limit)
        return list(zip(repeat(key), sequences[low:high], values[low:high]))

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass
