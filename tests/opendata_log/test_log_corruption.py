"""One bit flips anywhere in a stored log: every read gives the right answer or a CorruptionError that names the object."""

from __future__ import annotations

import random

import pytest
from crc32c import crc32c

import lsm
from lsm.coding import CHECKSUM
from lsm.object_store import MemoryStore
from opendata_log import Config, CorruptionError, EncodingError, LogDb

Content = dict[bytes, list[tuple[int, bytes]]]
SETTINGS = lsm.Settings(
    flush_interval=None,
    l0_sst_size_bytes=1 << 20,
    sst_block_size=128,
    min_filter_keys=2,
    compaction_enabled=False,
    gc_interval=None,
    flush_placement="thread",
    op_timeout=2.0,
)


def open_log(name: str) -> LogDb:
    return LogDb.open(Config(storage=f"memory://{name}", engine=SETTINGS))


def small_log(name: str) -> tuple[dict[str, bytes], Content]:
    """The objects and the rows of a log of two segments: the first in a table, the second in a log object only."""
    rows: Content = {}
    log = open_log(name)
    for number in range(4):
        batch = [(b"k%d" % (number % 2), b"value %d" % number), (b"other", b"x" * 30)]
        first = log.try_append(batch).start_sequence
        for at, (key, value) in enumerate(batch):
            rows.setdefault(key, []).append((first + at, value))
        if number == 1:
            log.seal_segment()
            log.close()
            log = open_log(name)
    log.flush()
    objects = dict(MemoryStore.shared(name)._objects)
    log.close()
    return objects, rows


def read_all(name: str) -> Content:
    """Everything by every way of reading."""
    with open_log(name) as log:
        found = {each.key: [(row.sequence, row.value) for row in log.scan(each.key)] for each in log.list_keys()}
        for key, rows in found.items():
            assert log.count(key) == len(rows)
            assert log.count(key, rows[0][0] + 1) == len(rows) - 1
        return found


def refusal(name: str, rows: Content) -> CorruptionError | None:
    """Read everything: either it is right, or this is the error."""
    try:
        found = read_all(name)
    except CorruptionError as error:
        return error
    assert found == rows
    return None


def restore(name: str, objects: dict[str, bytes]) -> dict[str, bytes]:
    """The store's objects, to be damaged."""
    kept = MemoryStore.shared(name)._objects
    kept.clear()
    kept.update(objects)
    return kept


@pytest.fixture
def place(request: pytest.FixtureRequest) -> object:
    name = f"corruption-{request.node.name}"
    yield name
    MemoryStore.forget(name)


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_at_any_byte_of_any_object_it_is_right_or_refused(place: str, part: int) -> None:
    """Every other byte in every run, the bytes between them in the long one."""
    chance = random.Random(4 + part)
    objects, rows = small_log(place)
    refused = 0

    for victim, content in objects.items():
        for at in range(part, len(content), 2):
            damaged = bytearray(content)
            damaged[at] ^= 1 << chance.randrange(8)
            restore(place, objects)[victim] = bytes(damaged)
            error = refusal(place, rows)
            if error is not None:
                assert error.object_name == victim, f"{victim} at {at}: {error}"
                assert str(error).startswith(victim)
                refused += 1

    assert {victim.split("/")[0] for victim in objects} == {"manifest", "probe", "wal", "sst"}
    assert refused > 500


def test_an_object_cut_short_anywhere_it_is_right_or_refused(place: str) -> None:
    objects, rows = small_log(place)

    for victim, content in objects.items():
        for length in range(0, len(content), 7):
            restore(place, objects)[victim] = content[:length]
            error = refusal(place, rows)
            assert error is None or error.object_name == victim, f"{victim} cut to {length}: {error}"


def test_a_missing_table_it_is_corruption_at_once(place: str) -> None:
    objects, _ = small_log(place)

    for victim in (name for name in objects if name.startswith("sst/")):
        del restore(place, objects)[victim]
        with pytest.raises(CorruptionError) as refused:
            read_all(place)
        assert refused.value.object_name == victim
        assert isinstance(refused.value, EncodingError)
        assert not refused.value.retryable


def test_a_newer_format_it_says_to_update_and_changes_nothing(place: str) -> None:
    objects, _ = small_log(place)
    victim = max(name for name in objects if name.startswith("manifest/"))
    newer = bytearray(objects[victim])
    newer[6] = 77
    body = bytes(newer[: -CHECKSUM.size])
    store = restore(place, objects)
    store[victim] = body + CHECKSUM.pack(crc32c(body, crc32c(victim.encode())))
    before = dict(store)

    with pytest.raises(CorruptionError, match="format version 77 is newer than this library reads") as refused:
        open_log(place)

    assert refused.value.object_name == victim
    assert store == before
