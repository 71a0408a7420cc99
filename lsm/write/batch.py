"""What callers write: a batch of rows and series rows, and the handle they get back."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from lsm.checks import shown, timeout_seconds
from lsm.errors import InvalidError
from lsm.rows.bytes_in import BytesLike, as_key, as_value
from lsm.rows.chunk import DELETE, PUT, SEQ_MAX, SeriesLayout, series_prefix, total_length

FAMILY_BYTES_MAX: Final = 65_535
EMPTY_ROWS_MAX: Final = 1 << 15
"""More rows without a byte each, names included, are not stored: whoever reads them could not tell them from damage."""


def check_bytes(rows: int, size: int) -> None:
    """Raise InvalidError where series rows of `size` bytes in all are too many to be believed."""
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
        """Raise InvalidError unless these rows can be stored in a series family of the database."""
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
        """The key under which the first series is listed; None: it is not. Raises: InvalidError where that is no key."""
        found = layout.directory(self.family) if layout is not None else None
        if found is not None and (type(found) is not bytes or not found):
            raise InvalidError(f"a series layout lists the family {shown(self.family)} under {shown(found)}: not bytes")
        return None if found is None else found + self.names[0]


class Prefixes:
    """The partitions' prefixes that this handle knows of. None may be the beginning of another one: keys of the one would be
    looked for in the other's tree, and no manifest with both can be committed."""

    def __init__(self, stored: Callable[[], Iterable[bytes]], lock: Any) -> None:
        """`stored`: gives those of what is there already; asked once, when a prefix comes that is new to this handle."""
        self._stored: Callable[[], Iterable[bytes]] | None = stored
        self._lock = lock
        self._known: list[bytes] = []
        self._set: set[bytes] = set()

    def check(self, prefix: object, key: bytes, extractor: str) -> None:
        """Raise InvalidError where an extractor gives what is no prefix of the key, or one that nests. Cost: one look-up."""
        if type(prefix) is bytes and prefix in self._set and key.startswith(prefix):
            return
        if type(prefix) is not bytes or not prefix or not key.startswith(prefix):
            raise InvalidError(f"prefix extractor {extractor!r} gives {shown(prefix)} for key {shown(key)}")
        with self._lock:
            self._add(prefix, key, extractor)

    def _add(self, prefix: bytes, key: bytes, extractor: str) -> None:
        if self._stored is not None:
            self._set.update(self._stored())
            self._known = sorted(self._set)
            self._stored = None
        if prefix in self._set:
            return
        at = bisect_left(self._known, prefix)
        around = self._known[max(0, at - 1) : at + 1]
        for other in around:
            if prefix.startswith(other) or other.startswith(prefix):
                raise InvalidError(
                    f"prefix extractor {extractor!r} gives {shown(prefix)} for key {shown(key)}, and {shown(other)} for "
                    "others: no prefix may begin with another one"
                )
        self._known.insert(at, prefix)
        self._set.add(prefix)


class WriteBatch:
    """Operations that are applied together or not at all. A later operation on a key replaces an earlier one."""

    def __init__(self) -> None:
        self._rows: dict[bytes, tuple[int, bytes]] = {}
        self.series: list[SeriesAppend] = []

    def put(self, key: BytesLike, value: BytesLike) -> WriteBatch:
        self._rows[as_key(key)] = (PUT, as_value(value))
        return self

    def delete(self, key: BytesLike) -> WriteBatch:
        self._rows[as_key(key)] = (DELETE, b"")
        return self

    def append_series(self, family: bytes, names: Sequence[bytes], first: int, values: Sequence[bytes]) -> WriteBatch:
        """Rows of a series family, numbered first, first + 1, ... (see `Db.append_series`)."""
        self.series.append(SeriesAppend(family, names, first, values))
        return self

    def __len__(self) -> int:
        return len(self._rows) + sum(len(part.names) for part in self.series)

    @property
    def size(self) -> int:
        """Bytes of keys, names and values. Cost: O(rows)."""
        rows = total_length(self._rows) + sum(len(value) for _, value in self._rows.values())
        return rows + sum(total_length(part.names) + total_length(part.values) for part in self.series)

    def columns(self) -> tuple[list[bytes], list[int], list[bytes]]:
        """Keys, kinds and values of the rows."""
        rows = self._rows
        return list(rows), [kind for kind, _ in rows.values()], [value for _, value in rows.values()]


class WriteHandle:
    """An accepted batch. It is visible to reads; `await_durable` says when it is safe."""

    __slots__ = ("_wait", "seqnum")

    def __init__(self, seqnum: int, wait: Callable[[int, float | None], None]) -> None:
        self.seqnum = seqnum
        self._wait = wait

    def await_durable(self, timeout: float | None = None) -> None:
        """Return once the batch is durable. Raises: TimeoutError, FencedError, UnavailableError, ClosedError."""
        self._wait(self.seqnum, timeout_seconds(timeout))

    def __repr__(self) -> str:
        return f"WriteHandle(seqnum={self.seqnum})"
