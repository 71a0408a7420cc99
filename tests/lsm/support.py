"""What the engine's tests share: a layout with three partitions, tiny settings, and ways to read everything."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import lsm
from lsm.object_store import MemoryStore, ObjectStore
from lsm.rows.chunk import series_key
from tests.doubles import SimulatedCrash

PARTITIONS = (b"p0", b"p1", b"p2")
FAMILIES = tuple(prefix + b"L" for prefix in PARTITIONS)


class TwoBytes:
    """Partitions by the first two bytes of a key."""

    name = "two-bytes"

    def prefix(self, key: bytes) -> bytes:
        return key[:2]


class Lists:
    """Keys `ppL...` are series of the family `ppL`; their names are listed under `ppD`."""

    name = "lists"

    def family(self, key: bytes) -> bytes | None:
        return key[:3] if key[2:3] == b"L" and len(key) > 3 else None

    def directory(self, family: bytes) -> bytes | None:
        return family[:2] + b"D"


def tiny(**changes: Any) -> lsm.Settings:
    """Settings under which a few hundred rows go through every stage."""
    values: dict[str, Any] = {
        "flush_interval": None,
        "wal_uploads_max": 1,
        "l0_sst_size_bytes": 2048,
        "sst_block_size": 96,
        "max_sst_size": 600,
        "l0_compaction_min": 2,
        "l0_compaction_max": 3,
        "level_base_bytes": 800,
        "level_size_ratio": 2,
        "min_filter_keys": 4,
        "compaction_placement": "thread",
        "flush_placement": "thread",
        "gc_interval": None,
        "gc_min_age": 0.0,
        "op_timeout": 5.0,
    }
    return lsm.Settings(**{**values, **changes})


def open_db(store: ObjectStore, settings: lsm.Settings | None = None, **components: Any) -> lsm.Db:
    return lsm.Db.open(
        "memory://",
        settings if settings is not None else tiny(),
        object_store=store,
        prefix_extractor=TwoBytes(),
        series_layout=Lists(),
        **components,
    )


def layouts() -> dict[str, Any]:
    """The components that `open_db` gives, for a reader."""
    return {"prefix_extractor": TwoBytes(), "series_layout": Lists()}


def open_plain(store: ObjectStore, settings: lsm.Settings | None = None, **components: Any) -> lsm.Db:
    return lsm.Db.open("memory://", settings if settings is not None else tiny(), object_store=store, **components)


def append(db: lsm.Db, family: bytes, rows: list[tuple[bytes, bytes]], first: int) -> int:
    names = [name for name, _ in rows]
    values = [value for _, value in rows]
    return db.append_series(family, names, first, values, sum(map(len, names)) + sum(map(len, values)))


def read_series(
    db: lsm.Db, family: bytes, name: bytes, low: int = 0, high: int = (1 << 64) - 1
) -> list[tuple[int, bytes]]:
    return [
        row for numbers, values in db.scan_series(family, name, low, high) for row in zip(numbers, values, strict=True)
    ]


def read_series_descending(
    db: Any, family: bytes, name: bytes, low: int = 0, high: int = (1 << 64) - 1
) -> list[tuple[int, bytes]]:
    """The rows newest first, in the order they came."""
    return [
        row
        for numbers, values in db.scan_series(family, name, low, high, descending=True)
        for row in zip(numbers, values, strict=True)
    ]


def read_names(db: lsm.Db, family: bytes) -> list[bytes]:
    return [name for names in db.series_names(family) for name in names]


def read_rows(db: Any, *arguments: Any, **options: Any) -> list[tuple[bytes, bytes]]:
    """A scan, without the directories, which only tables hold."""
    return [tuple(row) for row in db.scan(*arguments, **options) if row.key[2:3] != b"D"]


def series_rows(series: dict[tuple[bytes, bytes], list[tuple[int, bytes]]]) -> dict[bytes, bytes]:
    """Series of a model as the rows a scan shows."""
    return {
        series_key(family, name, number): value for (family, name), rows in series.items() for number, value in rows
    }


def objects_of(store: MemoryStore) -> dict[str, bytes]:
    return store._objects


def copy_of(store: MemoryStore) -> MemoryStore:
    twin = MemoryStore()
    twin._objects.update(store._objects)
    return twin


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lsm-")]


def abandon(db: lsm.Db) -> None:
    """The process is gone: nothing is flushed any more, and its threads end."""
    db._engine.fail(lsm.InternalError("the simulated process died"))
    with contextlib.suppress(lsm.Error, SimulatedCrash):
        db.close()
