"""The records that the benchmark appends, and the check that a scan returns all of them.

Record `i` goes to key `(i * step) mod keys`, with a step coprime with `keys`. So each run of `keys` records touches every
key once, in scattered order, and the numbers of one key's records are an arithmetic progression, which need not be stored.
A value is its record's number followed by random bytes, so values are distinct and hardly compress.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from opendata_log import LogEntry, Record

_POOL_BYTES = 1 << 20


class VerificationError(Exception):
    """A scan did not return exactly the appended records. The message names the key and the difference."""


class Workload:
    """Records numbered from 0, over `keys` keys, with values of `value_size` bytes. They are the same in every run."""

    def __init__(self, keys: int, value_size: int) -> None:
        self.keys = keys
        self.value_size = value_size
        self.names = [b"key-%06d" % number for number in range(keys)]
        self.record_bytes = value_size + len(self.names[0])
        self._step = next(step for step in range(min(7919, keys + 1), 0, -1) if math.gcd(step, keys) == 1)
        self._first = pow(self._step, -1, keys) if keys > 1 else 0
        self._pool = random.Random(20261122).randbytes(_POOL_BYTES + value_size)

    def batch(self, start: int, count: int) -> list[Record]:
        """The records with numbers in [start, start + count)."""
        names, step, keys, value = self.names, self._step, self.keys, self.value
        return [Record(names[number * step % keys], value(number)) for number in range(start, start + count)]

    def value(self, number: int) -> bytes:
        """The value of record `number`."""
        offset = number * 8191 % _POOL_BYTES
        return (number.to_bytes(8, "big") + self._pool[offset : offset + self.value_size])[: self.value_size]

    def numbers(self, key_number: int, records: int) -> range:
        """The numbers of one key's records among the first `records`."""
        return range(key_number * self._first % self.keys, records, self.keys)

    def verify(self, key_number: int, entries: Sequence[LogEntry], records: int, base: int) -> None:
        """Check count, order, sequences, keys and values of a full scan of one key.

        Requires: record 0 has sequence `base` and nothing but this workload was appended to the key.
        Raises: VerificationError.
        """
        key, numbers = self.names[key_number], self.numbers(key_number, records)
        name = key.decode("ascii")
        if len(entries) != len(numbers):
            raise VerificationError(f"key {name}: {len(entries):,} entries scanned, {len(numbers):,} appended")
        if [entry.sequence for entry in entries] != [base + number for number in numbers]:
            raise VerificationError(f"key {name}: sequences out of order or not the ones appended")
        for entry, number in zip(entries, numbers):
            if entry.key != key or entry.value != self.value(number):
                raise VerificationError(f"key {name}: wrong content at sequence {entry.sequence}")
