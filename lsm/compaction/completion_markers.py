"""Completion markers of finished tables. They let another compactor continue a job that was cut off.

A marker is created after its table, under the table's number, in the envelope of coding.py (kind 4) with a nonce of zeros:

    body = msgpack([number, size, rows, first_key, last_key, ...])     the fields of TableInfo
"""

from __future__ import annotations

from typing import Final

import msgspec

from lsm.coding import ENVELOPE, KIND_NOTE, open_envelope, seal_envelope
from lsm.errors import CorruptionError
from lsm.object_store.contract import ObjectMissing
from lsm.object_store.names import COUNTER_BITS, marker_name
from lsm.object_store.reliable import ReliableStore
from lsm.sst.builder import TableInfo

NOTE_VERSION: Final = 1
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(TableInfo)


def encode_marker(database: bytes, table: TableInfo) -> list[bytes]:
    return seal_envelope(
        marker_name(table.number),
        KIND_NOTE,
        NOTE_VERSION,
        database=database,
        number=table.number,
        epoch=table.number >> COUNTER_BITS,
        nonce=bytes(16),
        body=[_encoder.encode(table)],
    )


def decode_marker(data: bytes, *, number: int, database: bytes) -> TableInfo:
    """Decode a marker. Raises: CorruptionError."""
    name = marker_name(number)
    found = open_envelope(name, data, kinds=(KIND_NOTE,), versions=NOTE_VERSION, number=number, database=database)
    try:
        table = _decoder.decode(data[ENVELOPE.size : found.end])
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"does not decode: {error}", object_name=name, offset=ENVELOPE.size) from error
    if table.number != number:
        raise CorruptionError(f"is about table {table.number}", object_name=name, offset=ENVELOPE.size)
    return table


def put_marker(store: ReliableStore, database: bytes, table: TableInfo) -> None:
    """Store the marker of a finished table. Requires: the table is stored."""
    parts = encode_marker(database, table)
    decode_marker(b"".join(parts), number=table.number, database=database)  # An unreadable marker must not be stored.
    store.put_new(marker_name(table.number), parts)


def finished_tables(store: ReliableStore, database: bytes, first: int, end: int) -> list[TableInfo]:
    """Return the finished tables from `first` on, up to the first that is not finished. Cost: one GET each, and one more."""
    found: list[TableInfo] = []
    for number in range(first, end):
        try:
            found.append(read_marker(store, number, database))
        except ObjectMissing:
            break
    return found


def read_marker(store: ReliableStore, number: int, database: bytes, *, is_known: bool = False) -> TableInfo:
    """Read the marker of table `number`. `is_known`: as `ReliableStore.insist`. Raises: ObjectMissing, CorruptionError."""
    return store.insist(
        lambda: decode_marker(store.get(marker_name(number)), number=number, database=database), is_known=is_known
    )
