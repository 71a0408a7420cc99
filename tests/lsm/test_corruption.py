"""Every byte of every object is damaged, one at a time; a read gives the right data or says what is damaged."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.object_store.names import PROBE
from tests.lsm.support import (
    FAMILIES,
    Lists,
    TwoBytes,
    append,
    copy_of,
    objects_of,
    open_db,
    read_names,
    read_rows,
    read_series,
    tiny,
)

SETTINGS = tiny(l0_sst_size_bytes=1 << 20, sst_block_size=128, min_filter_keys=2, op_timeout=1.0, max_sst_size=4096)
Content = tuple[object, ...]


def read_all(db: lsm.Db) -> Content:
    return (
        read_rows(db),
        [db.get(key) for key in (b"p0k00", b"p0k07", b"p1k03", b"p2k11", b"p0none")],
        [(family, name, read_series(db, family, name)) for family in FAMILIES for name in (b"a", b"b", b"none")],
        [db.count_series(family, name) for family in FAMILIES for name in (b"a", b"b")],
        [read_names(db, family) for family in FAMILIES],
    )


def build() -> tuple[MemoryStore, Content]:
    """Fence, log objects, two level-0 tables and a run in each partition, and rows that are only in the log."""
    store = MemoryStore()
    settings = tiny(l0_sst_size_bytes=1 << 20, sst_block_size=128, min_filter_keys=2, l0_compaction_min=3)
    db = open_db(store, settings)
    for turn in range(4):
        for prefix, family in zip((b"p0", b"p1"), FAMILIES, strict=False):
            batch = lsm.WriteBatch()
            for at in range(4):
                batch.put(prefix + b"k%02d" % (2 * at + turn), b"value %d" % turn)
            db.write(batch)
            append(db, family, [(name, b"%d" % at) for at in range(4) for name in (b"a", b"b")], turn * 8)
        db.flush(lsm.FlushType.MEMTABLE)
        assert db.wait_idle(30)
    db.collect_garbage(min_age=0)
    for at in range(3):
        db.put(b"p2k1%d" % at, b"only in the log").await_durable()
        append(db, FAMILIES[2], [(b"a", b"x")], at)
    db.flush()
    expected = read_all(db)
    left = copy_of(store)
    db.close()
    return left, expected


STORE, EXPECTED = build()
NAMES = sorted(name for name in objects_of(STORE) if name != PROBE)
"""Objects that hold data. The probe holds none."""


def newest(kind: str) -> str:
    return max(name for name in NAMES if name.startswith(kind))


def survives(store: MemoryStore) -> bool:
    """Whether everything reads as it was; False where the engine noticed. Anything else fails the test."""
    try:
        db = open_db(store, SETTINGS)
    except lsm.CorruptionError as error:
        assert error.object_name
        return False
    try:
        found = read_all(db)
    except lsm.CorruptionError as error:
        assert error.object_name
        return False
    finally:
        db._engine.fail(lsm.InternalError("the test is done with this handle"))
        with contextlib.suppress(lsm.InternalError):
            db.close()
    assert found == EXPECTED
    return True


def damaged(name: str, change: Callable[[bytes], bytes]) -> MemoryStore:
    store = copy_of(STORE)
    objects = objects_of(store)
    objects[name] = change(objects[name])
    return store


def test_builds_every_kind_of_object() -> None:
    with lsm.DbReader.open(
        "memory://", object_store=copy_of(STORE), prefix_extractor=TwoBytes(), series_layout=Lists()
    ) as reader:
        partitions = reader.manifest.partitions

    assert {name.split("/")[0] for name in NAMES} == {"manifest", "wal", "sst"}
    assert any(partition.l0 for partition in partitions)
    assert any(partition.runs for partition in partitions)
    assert survives(copy_of(STORE))


def test_the_bytes_of_the_probe_mean_nothing() -> None:
    assert survives(damaged(PROBE, lambda data: bytes(len(data))))


def is_current(name: str) -> bool:
    return not name.startswith("manifest") or name == newest("manifest")


@pytest.mark.parametrize("part", range(4))
def test_notices_a_flipped_bit_in_any_byte(part: int) -> None:
    chance = random.Random(part)
    noticed = total = 0

    for name in filter(is_current, NAMES):
        for at in range(part, len(objects_of(STORE)[name]), 4):
            bit = 1 << chance.randrange(8)
            total += 1
            noticed += not survives(
                damaged(name, lambda data, at=at, bit=bit: data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            )

    assert total > 300
    assert noticed > total // 2


def test_notices_every_truncation() -> None:
    for name in filter(is_current, NAMES):
        size = len(objects_of(STORE)[name])
        for step in range(16):
            survives(damaged(name, lambda data, end=size * step // 16: data[:end]))
        survives(damaged(name, lambda data: data + b"\x00"))


def test_notices_swapped_objects() -> None:
    for kind in ("manifest/", "wal/", "sst/"):
        names = [name for name in NAMES if name.startswith(kind)]
        for one, two in itertools.pairwise(names):
            store = copy_of(STORE)
            objects = objects_of(store)
            objects[one], objects[two] = objects[two], objects[one]
            survives(store)


# Nothing can tell the newest object of a kind from one that was never written.
DELETABLE = [name for name in NAMES if name not in (newest("manifest"), newest("wal"))]


@pytest.mark.parametrize("name", DELETABLE)
def test_notices_a_deleted_object(name: str) -> None:
    store = copy_of(STORE)
    del objects_of(store)[name]

    survives(store)
