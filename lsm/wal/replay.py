"""Both walks: reads log objects back into a memtable, for recovery, readers, and worker processes that build tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from lsm.coding import ENVELOPE, KIND_WAL_DATA, KIND_WAL_FENCE, open_envelope
from lsm.errors import CorruptionError
from lsm.object_store.contract import ObjectMissing
from lsm.object_store.names import WAL, wal_name, wal_number
from lsm.object_store.reliable import ReliableStore
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime
from lsm.wal.frames import WAL_VERSION, Frame, decode_frames

PREFETCH: Final = 16
"""Maximum objects fetched at a time."""


class LogEntries(msgspec.Struct, frozen=True):
    """One log object, decoded. A fence has no batches. Objects up to `durable_through` were durable when this object was
    written."""

    number: int
    epoch: int
    is_fence: bool
    durable_through: int
    frames: Sequence[Frame]


def list_wal(store: ReliableStore) -> list[int]:
    """Return the numbers of all log objects, ascending. Cost: one LIST per 1000 objects."""
    return sorted(number for info in store.list(WAL) if (number := wal_number(info.name)) is not None)


def read_wal_object(store: ReliableStore, number: int, database: bytes, *, is_known: bool = False) -> LogEntries | None:
    """Return one log object; `None` if it is missing. `is_known`: it was stored once, so the answer "missing" is verified.
    Raises: CorruptionError."""
    try:
        return store.insist(lambda: _read_wal_object(store, number, database), is_known=is_known)
    except ObjectMissing:
        return None


def _read_wal_object(store: ReliableStore, number: int, database: bytes) -> LogEntries:
    name = wal_name(number)
    data = store.get(name)
    kinds = (KIND_WAL_DATA, KIND_WAL_FENCE)
    found = open_envelope(name, data, kinds=kinds, versions=WAL_VERSION, number=number, database=database)
    frames = list(decode_frames(data, ENVELOPE.size, found.end, name=name))
    if not frames or frames[0].counts:
        raise CorruptionError("does not start with a mark", object_name=name, offset=ENVELOPE.size)
    return LogEntries(number, found.epoch, found.kind == KIND_WAL_FENCE, frames[0].number, frames[1:])


def read_wal(
    store: ReliableStore, runtime: Runtime, numbers: Sequence[int], database: bytes, *, epoch_floor: int
) -> Iterator[LogEntries]:
    """Yield the log objects with these numbers, in order, fences included.

    An object whose epoch is below the newest epoch so far is a fenced writer's late arrival and is left out (rule W3).
    Raises: CorruptionError, also for a missing object. Cost: one GET per object, PREFETCH at a time.
    """
    width = 1 if store.store.is_near else PREFETCH
    for start in range(0, len(numbers), width):
        window = numbers[start : start + width]
        found = runtime.map(lambda number: read_wal_object(store, number, database, is_known=True), window, width=width)
        for number, entries in zip(window, found, strict=True):
            if entries is None:
                raise CorruptionError("the log object is missing", object_name=wal_name(number))
            if entries.epoch >= epoch_floor:
                epoch_floor = entries.epoch
                yield entries


def apply_frames(table: Memtable, frames: Sequence[Frame], *, after_seq: int, until_seq: int | None = None) -> int:
    """Put the batches after_seq < seq <= until_seq into the memtable; return the newest sequence number seen.

    Requires: no frame straddles either bound (the log is cut wherever a memtable is frozen).
    """
    newest = after_seq
    for frame in frames:
        if frame.last_seq <= after_seq or (until_seq is not None and frame.seq > until_seq):
            continue
        if frame.family:
            # One step for all batches of the frame: series rows are told apart by positions, so batch borders do not matter.
            table.append_series(frame.seq, frame.family, frame.keys, frame.number, frame.values, frame.size)
            table.last_seq = frame.last_seq
        else:
            table.put_rows(frame.seq, frame.keys, frame.kinds, frame.values, frame.size)
        newest = max(newest, frame.last_seq)
    return newest
