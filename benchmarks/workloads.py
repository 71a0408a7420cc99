"""The records that every store gets: the same lists of `(key, value)` tuples, built before the clock starts.

Record `i` of a workload belongs to key `(i * STEP) mod keys`: every run of `keys` records touches each key once,
in a scattered order, so a key's records are known without keeping them. Values are distinct and reproducible from
the record's number, so another process can verify what it reads.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from benchmarks.stores.contract import Entries

VALUE_KINDS = ("random", "hex", "json")
_STEP = 7919  # a prime, coprime with every number of keys it does not divide
_CHUNK = 1000  # records whose values are cut from one seeded block


@dataclass(frozen=True)
class Workload:
    """`records` records of `value_bytes` over `keys` keys. `kind`: incompressible, hexadecimal, or like an event."""

    records: int
    keys: int = 1000
    value_bytes: int = 100
    batch: int = 100
    kind: str = "random"
    seed: int = 1

    def __post_init__(self) -> None:
        assert self.kind in VALUE_KINDS, self.kind
        assert math.gcd(_STEP, self.keys) == 1, f"{self.keys} keys share a factor with {_STEP}"

    @property
    def payload_bytes(self) -> int:
        """Bytes of keys and values."""
        return self.records * (self.value_bytes + len(self.key(0)))

    def key(self, number: int) -> bytes:
        return b"stream-%09d" % number

    def batches(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """Every record in order, cut into batches; the last may be short."""
        names = [self.key(number) for number in range(self.keys)]
        batch: list[tuple[bytes, bytes]] = []
        number = 0
        for start in range(0, self.records, _CHUNK):
            for value in self._values(start):
                batch.append((names[number], value))
                number = (number + _STEP) % self.keys
                if len(batch) == self.batch:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def sequences(self, key_number: int) -> range:
        """The sequences of one key's records in a log that holds only this workload."""
        first = key_number * pow(_STEP, -1, self.keys) % self.keys if self.keys > 1 else 0
        return range(first, self.records, self.keys)

    def verify(self, key_number: int, entries: Entries) -> None:
        """Raise AssertionError unless `entries` are all of this key's records, in order, with their values."""
        key, expected = self.key(key_number), self.sequences(key_number)
        found = [sequence for _, sequence, _ in entries]
        assert found == list(expected), f"{key!r}: {len(found)} entries instead of {len(expected)}, or out of order"
        assert all(entry_key == key for entry_key, _, _ in entries), f"{key!r}: entries of another key"
        for position in {0, len(found) // 2, len(found) - 1} if found else ():
            sequence = expected[position]
            value = self._values(sequence - sequence % _CHUNK)[sequence % _CHUNK]
            assert entries[position][2] == value, f"{key!r}: wrong value at sequence {sequence}"

    @lru_cache(maxsize=8)  # noqa: B019 - a workload is a small frozen value; verifying asks for the same few chunks
    def _values(self, start: int) -> list[bytes]:
        """Values of the records from `start`, a multiple of the chunk, to the end of its chunk."""
        count, size = min(_CHUNK, self.records - start), self.value_bytes
        source = random.Random(self.seed << 40 | start)
        if self.kind == "json":
            return [_event(start + i, source.getrandbits(64), size) for i in range(count)]
        pool = source.randbytes(count * size)
        if self.kind == "hex":
            pool = pool.hex().encode("ascii")
        return [pool[i : i + size] for i in range(0, count * size, size)]


def _event(number: int, chance: int, size: int) -> bytes:
    text = b'{"id": %d, "user": "u%06d", "type": "%s", "amount": %d, "note": "' % (
        number,
        chance % 100_000,
        (b"view", b"click", b"order", b"refund")[chance & 3],
        chance >> 20 & 0xFFFF,
    )
    return (text + b"%016x" % chance * (size // 16 + 1))[: size - 2].ljust(size - 2, b".") + b'"}'
