"""The keys of the log's rows in the engine's key space, and the rows' values. Only this module knows these bytes.

Every key starts with the same seven bytes; the first six route it to its segment's own tree:

    offset  size  field
    0       1     subsystem     0x03
    1       1     version       0x01
    2       4     segment_id    u32 big-endian; 0 is the system segment, user segments count from 1
    6       1     record_type   0x10 log entry, 0x20 sequence block, 0x30 segment metadata, 0x40 listing entry,
                                0x50 seal mark, 0x60 time mark

The rest of the key depends on the record type:

    log entry         | user key, escaped | 0x00 | relative_seq u64 BE |    in its own segment
    sequence block    | nothing |                                           in segment 0
    segment metadata  | described_segment_id u32 BE |                       in segment 0
    listing entry     | user key as it is |                                 in its own segment
    seal mark         | nothing |                                           in segment 0
    time mark         | sequence u64 BE |                                   in segment 0

The engine composes the tail of a log entry itself. It treats a log entry's first seven bytes as a *family*, in which each user
key names a *series* of numbered rows (`LogSeries`). It escapes 0x00 as 01 01 and 0x01 as 01 02, which keeps byte order;
0xFF stays as it is. `relative_seq` is the sequence minus the segment's `start_seq`.

The value of a log entry is the user's; the value of a listing entry is empty. The others:

    sequence block    | base u64 BE | size u64 BE |    sequences [base, base + size) may be in use
    segment metadata  | start_seq u64 BE | start_time_ms i64 BE |
    seal mark         | segment_id u32 BE |    this segment was sealed by hand: the next append starts another
    time mark         | before_ms i64 BE | until_ms i64 BE |    entries below `sequence` were appended before before_ms,
                        and, while this is the newest mark, all entries before until_ms

Golden bytes: tests/formats/log_keys_v1.txt.

Source: opendata log/src/serde.rs at 5f5c2882 (not its header, which escapes 0xFF too and would break order). Its
`relative_seq` is a varint; here the width is fixed, so that a block of entries decodes in one pass.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from opendata_log.model.errors import CorruptionError
from opendata_log.model.record import SegmentId, Sequence

# Format: never change these numbers.
SUBSYSTEM = 0x03
VERSION = 0x01
SYSTEM_SEGMENT_ID: SegmentId = 0
FIRST_SEGMENT_ID: SegmentId = 1

SEGMENT_ID_MAX: SegmentId = 2**32 - 1
SEQUENCE_MAX: Sequence = 2**64 - 1
TIME_MS_MAX = (1 << 63) - 1


class RecordType(IntEnum):
    """The seventh byte of a key."""

    LOG_ENTRY = 0x10
    SEQ_BLOCK = 0x20
    SEGMENT_META = 0x30
    LISTING_ENTRY = 0x40
    SEAL_MARK = 0x50
    TIME_MARK = 0x60


ROUTING_PREFIX_BYTES = 6
ENTRY_FAMILY_BYTES = 7

_PREFIX = struct.Struct(">BBIB")
_META_KEY = struct.Struct(">BBIBI")
_SEQ_BLOCK = struct.Struct(">QQ")
_SEGMENT_META = struct.Struct(">Qq")
_TIME_MARK_KEY = struct.Struct(">BBIBQ")
_TIME_MARK = struct.Struct(">qq")


def routing_prefix(segment_id: SegmentId) -> bytes:
    """The first six bytes of every key of a segment."""
    return _PREFIX.pack(SUBSYSTEM, VERSION, segment_id, 0)[:ROUTING_PREFIX_BYTES]


def parse_routing_prefix(prefix: bytes) -> SegmentId | None:
    """The segment of a routing prefix; None where `prefix` is no routing prefix."""
    if len(prefix) != ROUTING_PREFIX_BYTES or prefix[:2] != _HEAD:
        return None
    return int.from_bytes(prefix[2:], "big")


def segment_of_prefix(prefix: bytes) -> SegmentId:
    """The segment of a routing prefix. Requires: `prefix` is one."""
    return int.from_bytes(prefix[2:ROUTING_PREFIX_BYTES], "big")


def entry_family(segment_id: SegmentId) -> bytes:
    """The first seven bytes of every log entry of a segment."""
    return _PREFIX.pack(SUBSYSTEM, VERSION, segment_id, RecordType.LOG_ENTRY)


def listing_prefix(segment_id: SegmentId) -> bytes:
    """The seven bytes before the user key in a segment's listing entries."""
    return _PREFIX.pack(SUBSYSTEM, VERSION, segment_id, RecordType.LISTING_ENTRY)


SEQ_BLOCK_KEY = _PREFIX.pack(SUBSYSTEM, VERSION, SYSTEM_SEGMENT_ID, RecordType.SEQ_BLOCK)
"""The key of the newest sequence block."""

SEAL_MARK_KEY = _PREFIX.pack(SUBSYSTEM, VERSION, SYSTEM_SEGMENT_ID, RecordType.SEAL_MARK)
"""The key of the segment that was last sealed by hand."""

LAST_RETIRED_KEY = SEAL_MARK_KEY + b"\x01"
"""The key of the last segment that retention deleted when it left none. Ids continue after it (rule S7)."""

SEGMENT_META_PREFIX = _PREFIX.pack(SUBSYSTEM, VERSION, SYSTEM_SEGMENT_ID, RecordType.SEGMENT_META)
"""The first bytes of every segment metadata key; these keys sort by the segment they describe."""

TIME_MARK_PREFIX = _PREFIX.pack(SUBSYSTEM, VERSION, SYSTEM_SEGMENT_ID, RecordType.TIME_MARK)
"""The first bytes of every time mark's key; these keys sort by sequence."""


def time_mark_key(sequence: Sequence) -> bytes:
    """The key of the time mark of a sequence."""
    return _TIME_MARK_KEY.pack(SUBSYSTEM, VERSION, SYSTEM_SEGMENT_ID, RecordType.TIME_MARK, sequence)


def segment_meta_key(segment_id: SegmentId) -> bytes:
    """The key of the metadata of a user segment."""
    return _META_KEY.pack(SUBSYSTEM, VERSION, SYSTEM_SEGMENT_ID, RecordType.SEGMENT_META, segment_id)


def parse_segment_meta_key(key: bytes) -> SegmentId:
    """The segment that a metadata key describes. Raises: CorruptionError if `key` is no metadata key."""
    row = f"segment metadata key {key.hex()}"
    if len(key) != _META_KEY.size:
        raise CorruptionError(f"must have {_META_KEY.size} bytes, got {len(key)}", object_name=row, offset=len(key))
    for offset, (found, wanted) in enumerate(zip(key, SEGMENT_META_PREFIX)):
        if found != wanted:
            raise CorruptionError(f"expected 0x{wanted:02x}, got 0x{found:02x}", object_name=row, offset=offset)
    segment_id = int.from_bytes(key[-4:], "big")
    if segment_id < FIRST_SEGMENT_ID:
        raise CorruptionError("the system segment has no metadata", object_name=row, offset=len(SEGMENT_META_PREFIX))
    return segment_id


def encode_seal_mark(segment_id: SegmentId) -> bytes:
    """The value under SEAL_MARK_KEY and LAST_RETIRED_KEY."""
    return segment_id.to_bytes(4, "big")


def decode_seal_mark(value: bytes) -> SegmentId:
    """The segment id in a value of `encode_seal_mark`. Raises: CorruptionError."""
    if len(value) != 4:
        raise CorruptionError(f"a seal mark of {len(value)} bytes, not 4", object_name="seal mark", offset=0)
    return int.from_bytes(value, "big")


@dataclass(frozen=True, slots=True)
class SeqBlock:
    """Sequences [base, base + size) may have been given out; the next block starts at `end`. Empty after a clean close."""

    base: Sequence
    size: int

    @property
    def end(self) -> Sequence:
        """The first sequence after the block."""
        return self.base + self.size

    def encode(self) -> bytes:
        """The stored value."""
        return _SEQ_BLOCK.pack(self.base, self.size)

    @classmethod
    def decode(cls, value: bytes) -> SeqBlock:
        """Read a stored value. Raises: CorruptionError."""
        row = "sequence block value"
        if len(value) != _SEQ_BLOCK.size:
            raise _wrong_length(row, value, _SEQ_BLOCK)
        block = cls(*_SEQ_BLOCK.unpack(value))
        if block.end > SEQUENCE_MAX:
            raise CorruptionError(f"impossible block of {block.size} from {block.base}", object_name=row, offset=8)
        return block


@dataclass(frozen=True, slots=True)
class SegmentMeta:
    """The first sequence of a segment and the wall-clock time of its first append."""

    start_seq: Sequence
    start_time_ms: int

    def encode(self) -> bytes:
        """The stored value."""
        return _SEGMENT_META.pack(self.start_seq, self.start_time_ms)

    @classmethod
    def decode(cls, value: bytes) -> SegmentMeta:
        """Read a stored value. Raises: CorruptionError."""
        if len(value) != _SEGMENT_META.size:
            raise _wrong_length("segment metadata value", value, _SEGMENT_META)
        return cls(*_SEGMENT_META.unpack(value))


@dataclass(frozen=True, slots=True)
class TimeMark:
    """Every entry below `sequence` was appended before `before_ms`. While this is the newest mark, every entry was appended
    before `until_ms`. Times are those of the writer's clock, in milliseconds since the epoch."""

    sequence: Sequence
    before_ms: int
    until_ms: int

    def encode(self) -> bytes:
        """The stored value."""
        return _TIME_MARK.pack(self.before_ms, self.until_ms)

    @classmethod
    def decode(cls, key: bytes, value: bytes) -> TimeMark:
        """Read a stored row. Raises: CorruptionError."""
        if len(key) != _TIME_MARK_KEY.size:
            raise _wrong_length(f"time mark key {key.hex()}", key, _TIME_MARK_KEY)
        if len(value) != _TIME_MARK.size:
            raise _wrong_length("time mark value", value, _TIME_MARK)
        mark = cls(int.from_bytes(key[len(TIME_MARK_PREFIX) :], "big"), *_TIME_MARK.unpack(value))
        if mark.before_ms >= mark.until_ms:
            raise CorruptionError(f"impossible {mark}", object_name="time mark value", offset=0)
        return mark


def _wrong_length(row: str, value: bytes, layout: struct.Struct) -> CorruptionError:
    return CorruptionError(
        f"must have {layout.size} bytes, got {len(value)}", object_name=row, offset=min(len(value), layout.size)
    )


class LogPartitions:
    """The engine's prefix extractor for a log: one tree per segment."""

    # Format: the engine stores this name and refuses to open under another one. New rules need a new name.
    name = "opendata-log/segments/1"

    def prefix(self, key: bytes) -> bytes:
        """The routing prefix of `key`."""
        return key[:ROUTING_PREFIX_BYTES]


class LogSeries:
    """The engine's series layout for a log: log entries are numbered rows of a named series."""

    # Format: as above.
    name = "opendata-log/entries/1"

    def family(self, key: bytes) -> bytes | None:
        """The entry family of a log entry's key; None for the key of any other row."""
        return key[:ENTRY_FAMILY_BYTES] if key[6:7] == _ENTRY_TYPE and key[:2] == _HEAD else None

    def directory(self, family: bytes) -> bytes:
        """The prefix under which the names of the family's series are listed."""
        return family[:ROUTING_PREFIX_BYTES] + _LISTING_TYPE


_HEAD = bytes((SUBSYSTEM, VERSION))
_ENTRY_TYPE = bytes((RecordType.LOG_ENTRY,))
_LISTING_TYPE = bytes((RecordType.LISTING_ENTRY,))
