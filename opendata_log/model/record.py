"""The value types of the log, and the split of a batch into columns.

Write walk, first station: `columns` turns the caller's batch into two lists of bytes, with passes over the whole batch
and no Python-level call per record. Read walk, last station: rows become `LogEntry` values.

Keys have 1 to 65,535 bytes, values 0 to 2**32 - 1 bytes. A `Record` converts its content to bytes when it is made; the
length of its key is checked when it is appended.

Source: opendata log/src/model.rs at 5f5c2882.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import msgspec

from opendata_log.model.errors import InvalidInputError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    BytesLike: TypeAlias = Buffer | str
else:
    BytesLike = Any

T = TypeVar("T")

Sequence: TypeAlias = int
"""The number of a record in the log's global order (u64). Numbers ascend; there may be gaps."""

SegmentId: TypeAlias = int
"""The number of a segment (u32). User segments count from 1."""

Result = Annotated[T, "an opendata_log.Error is raised instead"]
"""Equals `T`: errors are raised, not returned. Exists because the reference has the name."""

AppendResult = Annotated[T, "an opendata_log.AppendError is raised instead"]
"""Equals `T`: errors are raised, not returned. Exists because the reference has the name."""

KEY_BYTES_MAX = 65_535
VALUE_BYTES_MAX = 2**32 - 1


class Record(msgspec.Struct, frozen=True, gc=False):
    """A key and a value to append. Mutable bytes-like content is copied; a str is encoded as UTF-8.

    >>> key, value = Record("orders", bytearray(b"created"))
    >>> key, value
    (b'orders', b'created')

    Raises: InvalidInputError where the content is neither bytes-like nor str.
    """

    key: bytes
    value: bytes

    if TYPE_CHECKING:

        def __init__(self, key: BytesLike, value: BytesLike) -> None: ...

    # Defaults make two global names local, which is faster: 95 ns instead of 101 for a Record of bytes.
    def __post_init__(self, type: Any = type, bytes: Any = bytes) -> None:
        if type(self.key) is bytes is type(self.value):
            return
        key = to_bytes(self.key, "a record's key")
        value = to_bytes(self.value, "a record's value")
        msgspec.structs.force_setattr(self, "key", key)
        msgspec.structs.force_setattr(self, "value", value)

    def __iter__(self) -> Iterator[bytes]:
        return iter((self.key, self.value))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, position: int) -> bytes:
        return (self.key, self.value)[position]


class LogEntry(msgspec.Struct, frozen=True, gc=False):
    """A record as it is read, with the sequence of its append. It unpacks as `key, sequence, value`."""

    key: bytes
    sequence: Sequence
    value: bytes

    def __iter__(self) -> Iterator[Any]:
        return iter((self.key, self.sequence, self.value))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, position: int) -> Any:
        return (self.key, self.sequence, self.value)[position]


class AppendOutput(msgspec.Struct, frozen=True, gc=False):
    """The sequence of the first record of a batch; record *i* has `start_sequence + i`."""

    start_sequence: Sequence


class LogKey(msgspec.Struct, frozen=True, gc=False):
    """A key that has records in the listed segments."""

    key: bytes


class Segment(msgspec.Struct, frozen=True, gc=False):
    """A run of sequences that is compacted and retired as a whole. It ends where the next segment starts.

    `start_seq`: its first sequence. `start_time_ms`: the time of its first append, in milliseconds since the epoch.
    """

    id: SegmentId
    start_seq: Sequence
    start_time_ms: int


RecordLike: TypeAlias = Record | tuple[BytesLike, BytesLike] | list[Any]
Columns: TypeAlias = tuple[list[bytes], list[bytes], int, int, list[Any]]


def columns(records: Iterable[RecordLike]) -> Columns:
    """Split a batch into `(keys, values, bytes of keys, bytes of values, batch)`.

    Shape: keys and values in the caller's order; `batch` is the caller's own list, or a list made from its iterable.
    Cost: some passes over the batch in C. Only a mixed batch, or one that needs conversion, is read item by item.
    Raises: InvalidInputError with the index of the first invalid item; nothing is mutated. An error of the caller's iterable
    is not translated.
    """
    if type(records) is list:
        batch = records
        rows = records.copy()  # Another thread may change the list between two passes.
    else:
        batch = rows = listed(records)
    if list(map(type, rows)).count(Record) == len(rows):
        keys = [record.key for record in rows]
        values = [record.value for record in rows]
    else:
        keys, values = _pairs(rows)
    key_bytes = len(b"".join(keys))  # Keys are short: this takes less than half the time of a sum of lengths.
    value_bytes = sum(map(len, values))
    # If the sum is within the limit of one item, every item is.
    if not all(keys) or key_bytes > KEY_BYTES_MAX or value_bytes > VALUE_BYTES_MAX:
        _check_sizes(keys, values)
    return keys, values, key_bytes, value_bytes, batch


def to_bytes(content: Any, what: str) -> bytes:
    """`content` as bytes: other bytes-like content is copied, a str is encoded as UTF-8. Raises: InvalidInputError, naming
    `what`, for anything else."""
    if type(content) is bytes:
        return content
    if isinstance(content, str):
        try:
            return content.encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError(f"{what} is a str that UTF-8 cannot encode: {error}") from error
    try:
        with memoryview(content) as view:
            return view.tobytes()
    except (TypeError, ValueError, BufferError) as error:
        raise InvalidInputError(f"{what} must be bytes-like or str, got {type(content).__name__}") from error


def to_key(key: object) -> bytes:
    """The key of a read, as bytes. Raises: InvalidInputError if it is empty, too long, or neither bytes-like nor str."""
    content = key if type(key) is bytes else to_bytes(key, "the key")
    if not content or len(content) > KEY_BYTES_MAX:
        raise InvalidInputError(f"the key must have 1 to {KEY_BYTES_MAX} bytes, got {len(content)}")
    return content


def listed(records: Any) -> list[Any]:
    """A batch as a new list. Raises: InvalidInputError where `records` is no iterable of records."""
    if isinstance(records, Record):
        raise InvalidInputError("records must be an iterable of records, got a single Record; put it in a list")
    if isinstance(records, str | bytes | bytearray | memoryview):
        raise InvalidInputError(f"records must be an iterable of records, got {type(records).__name__}")
    try:
        items = iter(records)
    except TypeError as error:
        raise InvalidInputError(f"records must be an iterable of records, got {type(records).__name__}") from error
    return list(items)


def _pairs(rows: list[Any]) -> tuple[list[bytes], list[bytes]]:
    """Keys and values of a batch of pairs, or of pairs and Records."""
    count = len(rows)
    if list(map(type, rows)).count(tuple) == count and list(map(len, rows)).count(2) == count:
        keys, values = map(list, zip(*rows, strict=True))
        if list(map(type, keys)).count(bytes) == count == list(map(type, values)).count(bytes):
            return keys, values
    keys, values = [], []
    for index, item in enumerate(rows):
        if isinstance(item, Record):
            keys.append(item.key)
            values.append(item.value)
        elif isinstance(item, tuple | list) and len(item) == 2:
            keys.append(to_bytes(item[0], f"the key of record {index}"))
            values.append(to_bytes(item[1], f"the value of record {index}"))
        else:
            size = f" of {len(item)} items" if isinstance(item, tuple | list) else ""
            raise InvalidInputError(
                f"record {index} must be a Record or a (key, value) pair, got {type(item).__name__}{size}"
            )
    return keys, values


def _check_sizes(keys: list[bytes], values: list[bytes]) -> None:
    for index, key in enumerate(keys):
        if not key:
            raise InvalidInputError(f"the key of record {index} is empty")
        if len(key) > KEY_BYTES_MAX:
            raise InvalidInputError(f"the key of record {index} has {len(key)} bytes, at most {KEY_BYTES_MAX} fit")
    for index, value in enumerate(values):
        if len(value) > VALUE_BYTES_MAX:
            size = len(value)
            raise InvalidInputError(f"the value of record {index} has {size} bytes, at most {VALUE_BYTES_MAX} fit")
