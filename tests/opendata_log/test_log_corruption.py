"""One bit flips anywhere in a stored log: every read gives the right answer or a CorruptionError that names the object."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

import lsm
from lsm.coding import CHECKSUM
from lsm.object_store import MemoryStore
from opendata_log import Config, CorruptionError, LogDb

NAME = "corruption-"


def small_log(name: str) -> tuple[MemoryStore, dict[bytes, list[tuple[int, bytes]]]]:
    """A log of two segments with tables, runs and log objects."""
    store = MemoryStore.shared(name)
    rows: dict[bytes, list[tuple[int, bytes]]] = {}
    for _ in range(2):
        with open_log(name) as log:
            for number in range(6):
                batch = [(b"k%d" % (number % 3), b"value %d" % number), (b"other", b"x" * 40)]
                first = log.try_append(batch).start_sequence
                for at, (key, value) in enumerate(batch):
                    rows.setdefault(key, []).append((first + at, value))
                if number % 3 == 2:
                    log.flush()
            log.seal_segment()
    return store, rows


def open_log(name: str) -> LogDb:
    engine = lsm.Settings(
        flush_interval=None,
        l0_sst_size_bytes=400,
        sst_block_size=128,
        l0_compaction_min=2,
        gc_interval=None,
        compaction_placement="thread",
        flush_placement="thread",
        op_timeout=2.0,
        min_filter_keys=2,
    )
    return LogDb.open(Config(storage=f"memory://{name}", engine=engine))


def read_all(name: str) -> dict[bytes, list[tuple[int, bytes]]]:
    """Everything by every way of reading."""
    with open_log(name) as log:
        found = {
            entry.key: [(row.sequence, row.value) for row in log.scan(entry.key)] for entry in log.list_keys()
        }
        for key, rows in found.items():
            assert log.count(key) == len(rows)
            assert log.count(key, rows[1][0]) == len(rows) - 1
        return found


def outcomes(damage: Callable[[bytes, int], bytes | None], step: int) -> dict[str, int]:
    """Damage each object at every `step`th byte, open and read. Raises: whatever is neither right nor corruption."""
    name = f"{NAME}{damage.__name__}"
    store, rows = small_log(name)
    pristine = dict(store._objects)
    seen = {"right": 0, "refused": 0}
    for victim, content in pristine.items():
        for at in range(0, len(content), step):
            store._objects.clear()
            store._objects.update(pristine)
            damaged = damage(content, at)
            if damaged is None:
                del store._objects[victim]
            else:
                store._objects[victim] = _like(content, damaged)
            try:
                found = read_all(name)
            except CorruptionError as error:
                assert error.object_name, f"{victim} at {at}: {error}"
                assert str(error).startswith(error.object_name)
                seen["refused"] += 1
            else:
                assert found == rows, f"{victim} at {at}"
                seen["right"] += 1
    return seen


def _like(content: Any, damaged: bytes) -> Any:
    return damaged
