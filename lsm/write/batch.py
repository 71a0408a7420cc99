"""A batch of rows and series rows, and the handle that a write returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from lsm.checks import shown, timeout_seconds
from lsm.errors import InvalidError
from lsm.rows.bytes_in import BytesLike, as_key, as_value
from lsm.rows.chunk import SEQ_MAX, SeriesLayout, series_prefix, total_length
from lsm.rows.kind import TOMBSTONE, VALUE

FAMILY_BYTES_MAX: Final = 65_535
EMPTY_ROWS_MAX: Final = 1 << 15
"""A series append with fewer bytes than rows may have at most this many rows; decoders take more for damage."""


def check_bytes(rows: int, size: int) -> None:
    """Raise InvalidError if there are more than EMPTY_ROWS_MAX rows and fewer bytes in total (`size`) than rows."""
    if size < rows > EMPTY_ROWS_MAX:
        raise InvalidError(
            f"{rows} series rows of {size} bytes in one batch: at most {EMPTY_ROWS_MAX} may be that empty"
        )


class SeriesAppend:
    """Series rows of one batch: row i is number first + i of series names[i]."""

    __slots__ = ("family", "first", "names", "values")

    def __init__(self, family: bytes, names: Sequence[bytes], first: int, values: Sequence[bytes]) -> None:
        self.family = family
        self.names = names
        self.first = first
        self.values = values

    def check(self, layout: SeriesLayout | None) -> None:
        """Raise InvalidError unless the database can store these rows in a series family."""
        names, first = self.names, self.first
        if not names or len(names) != len(self.values):
            raise InvalidError(f"append_series needs as many values as names, got {len(self.values)} and {len(names)}")
        if first < 0 or first + len(names) > SEQ_MAX:
            raise InvalidError(f"the numbers from {first} on do not fit into 64 bits")
        if type(self.family) is not bytes or len(self.family) > FAMILY_BYTES_MAX:
            raise InvalidError(f"a series family is bytes, at most {FAMILY_BYTES_MAX}, got {shown(self.family)}")
        for column in (names, self.values):
            if list(map(type, column)).count(bytes) != len(column):
                raise InvalidError("append_series takes names and values as lists of bytes")
        if layout is None or layout.family(series_prefix(self.family, names[0]) + bytes(8)) != self.family:
            raise InvalidError(f"{self.family!r} is no series family of this database")
        listed = self.directory(layout)
        if listed is not None and layout.family(listed) is not None:
            raise InvalidError(f"series layout {layout.name!r} lists {shown(self.family)} among its own series")

    def directory(self, layout: SeriesLayout | None) -> bytes | None:
        """Return the key that lists the first series; `None`: the layout lists none. Raises: InvalidError if it is no key."""
        found = layout.directory(self.family) if layout is not None else None
        if found is not None and (type(found) is not bytes or not found):
            raise InvalidError(f"a series layout lists the family {shown(self.family)} under {shown(found)}: not bytes")
        return None if found is None else found + self.names[0]


class WriteBatch:
    """Operations that are applied together or not at all. A later operation on a key replaces an earlier one."""

    def __init__(self) -> None:
        self._rows: dict[bytes, tuple[int, bytes]] = {}
        self.series: list[SeriesAppend] = []

    def put(self, key: BytesLike, value: BytesLike) -> WriteBatch:
        self._rows[as_key(key)] = (VALUE, as_value(value))
        return self

    def delete(self, key: BytesLike) -> WriteBatch:
        self._rows[as_key(key)] = (TOMBSTONE, b"")
        return self

    def append_series(self, family: bytes, names: Sequence[bytes], first: int, values: Sequence[bytes]) -> WriteBatch:
        """Add rows of a series family, numbered first, first + 1, ... (see `Db.append_series`)."""
        self.series.append(SeriesAppend(family, names, first, values))
        return self

    def __len__(self) -> int:
        return len(self._rows) + sum(len(part.names) for part in self.series)

    @property
    def size(self) -> int:
        """Total bytes of keys, names and values. Cost: O(rows)."""
        rows = total_length(self._rows) + sum(len(value) for _, value in self._rows.values())
        return rows + sum(total_length(part.names) + total_length(part.values) for part in self.series)

    def columns(self) -> tuple[list[bytes], list[int], list[bytes]]:
        """Keys, kinds and values of the rows."""
        rows = self._rows
        return list(rows), [kind for kind, _ in rows.values()], [value for _, value in rows.values()]


class WriteHandle:
    """An accepted batch. Reads see it already; `await_durable` waits until it is durable."""

    __slots__ = ("_wait", "seqnum")

    def __init__(self, seqnum: int, wait: Callable[[int, float | None], None]) -> None:
        self.seqnum = seqnum
        self._wait = wait

    def await_durable(self, timeout: float | None = None) -> None:
        """Return once the batch is durable. Raises: TimeoutError, FencedError, UnavailableError, ClosedError."""
        self._wait(self.seqnum, timeout_seconds(timeout))

    def __repr__(self) -> str:
        return f"WriteHandle(seqnum={self.seqnum})"
