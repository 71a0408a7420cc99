"""Damages valid bytes before a decoder gets them. Seeded, so that a number repeats a case."""

from __future__ import annotations

import random
from collections.abc import Sequence

LENGTHS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 26,
    (1 << 26) + 1,
    1 << 40,
    (1 << 64) - 1,
)


def flip(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    data[at] ^= 1 << chance.randrange(8)


def overwrite(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    data[at] = chance.choice((0, 1, 2, 4, 8, 0x7F, 0x80, 0xFF, chance.randrange(256)))


def truncate(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(len(data)) :]


def insert(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = chance.randbytes(chance.choice((1, 2, 8, 40)))


def remove(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice((1, 2, 4, 8, 30))]


def repeat(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    data[at:at] = data[at : at + chance.choice((1, 4, 16, 64))]


def blow_up(chance: random.Random, data: bytearray) -> None:
    """An integer of some width, somewhere, becomes one that lengths and counts do not expect."""
    width = chance.choice((1, 2, 4, 8))
    at = chance.randrange(len(data))
    value = chance.choice(LENGTHS) & ((1 << 8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, chance.choice(("little", "big")))


MUTATIONS = (flip, flip, overwrite, overwrite, truncate, insert, remove, repeat, blow_up, blow_up, blow_up)


def mutated(chance: random.Random, samples: Sequence[bytes]) -> bytes:
    """One of the samples, changed one to four times, or the beginning of one and the end of another."""
    data = bytearray(chance.choice(samples))
    if chance.random() < 0.1:
        other = chance.choice(samples)
        at = chance.randrange(len(data) + 1)
        data[at:] = other[min(len(other), at + chance.choice((0, 0, 1, -1, 8))) :]
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if data:
            chance.choice(MUTATIONS)(chance, data)
    return bytes(data)
