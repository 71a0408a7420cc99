"""Random damage to all stored formats gives the written value or CorruptionError: no other error, no waste of memory."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from lsm.errors import CorruptionError
from opendata_log.model.errors import CorruptionError as LogCorruptionError
from tests.fuzz.decoders import DECODERS, Decoder
from tests.fuzz.mutations import mutated

CASES = 1500
CASES_LONG = 100_000
SECONDS_MAX = 5.0
"""Maximum seconds per decoder call: only a hang or unbounded growth takes longer."""


def memory_max(size: int) -> int:
    """Columns of equal items take nine bytes, and decoded eight an item or more; zstd can hold the same again and again."""
    return 200 * size + (2 << 20)


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def decoded(decoder: Decoder, data: bytes, seed: int) -> Any:
    """The decoded value, or None for a documented error. Fails on any other result."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    began = time.monotonic()
    try:
        return decoder.decode(data)
    except (CorruptionError, LogCorruptionError) as error:
        assert error.object_name, f"seed {seed}: {error!r} names no object"
        return None
    except Exception as error:
        raise AssertionError(f"{decoder.name}, seed {seed}: {data[:200].hex()}") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1] - before
        assert peak <= memory_max(len(data)), f"{decoder.name}, seed {seed}: {peak} bytes for {len(data)}"
        assert time.monotonic() - began < SECONDS_MAX, f"{decoder.name}, seed {seed}"


def fuzz(decoder: Decoder, first: int, cases: int) -> tuple[int, int]:
    """The number of cases with a value, and with an error."""
    whole = [decoder.decode(sample) for sample in decoder.samples]
    values = errors = 0
    for seed in range(first, first + cases):
        data = mutated(random.Random(seed), decoder.samples)
        if decoder.reseal is not None:
            found = decoded(decoder, data, seed)
            assert found is None or found in whole or decoder.reseal is bytes, f"{decoder.name}, seed {seed}: {found!r}"
            data = decoder.reseal(data)
        if decoded(decoder, data, seed) is None:
            errors += 1
        else:
            values += 1
    return values, errors


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_decodes_what_was_written(decoder: Decoder) -> None:
    for sample in decoder.samples:
        assert decoder.decode(sample) is not None
        if decoder.reseal is not None:
            assert decoder.reseal(sample) == sample


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_damage_is_noticed_or_harmless(decoder: Decoder) -> None:
    values, errors = fuzz(decoder, 0, CASES)

    assert errors > CASES // 20
    assert values > CASES // 100 or decoder.name in ("footer", "segment metadata key")


SUMMED = [decoder for decoder in DECODERS if decoder.reseal not in (None, bytes)]


@pytest.mark.parametrize("decoder", SUMMED, ids=lambda decoder: decoder.name)
def test_one_bit_of_any_byte_is_noticed(decoder: Decoder) -> None:
    """Manifests with claims, checkpoints and parents, log objects, fences, notes, blocks, footers, cached parts."""
    chance = random.Random(3)
    for sample in decoder.samples:
        for at in range(len(sample)):
            damaged = bytearray(sample)
            damaged[at] ^= 1 << chance.randrange(8)
            assert decoded(decoder, bytes(damaged), at) is None


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_much_damage_is_noticed_or_harmless(decoder: Decoder) -> None:
    fuzz(decoder, CASES, CASES_LONG)
