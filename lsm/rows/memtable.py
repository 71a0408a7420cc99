"""Write walk, after `wal`, before `write/flush`: the rows written since the last flush.

Rows live in a hash map from a key to its newest version, which links to older ones. The sorted index (sortedcontainers) is
updated only when a read or a flush needs order. Series rows live in flat columns in arrival order; a read or a flush groups
them by name. So an append is two list extensions.

Threads: one writer at a time, under the database's write lock; any number of readers. A reader passes the newest sequence
number it may see (rows) or a bound on the positions (series), so it never sees part of a batch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, islice
from operator import itemgetter
from typing import Any, Final

from sortedcontainers import SortedList

from lsm.rows.chunk import RowChunk, SeriesChunk, prefix_end
from lsm.runtime import Runtime

Version = tuple[int, int, bytes, Any]
"""(seq, kind, value, older version or None)"""

SLICE_ROWS: Final = 1024
"""Rows copied from a live table at a time; series rows grouped per hold of the lock."""
READ_LATELY_ROWS: Final = 65536
"""A family counts as unread when this many rows were appended since its last read."""
ROW_OVERHEAD: Final = 48
"""Bytes per row beyond its key and value, for memory accounting."""


Arrival = tuple[int, Sequence[bytes], Sequence[bytes]]
"""A batch as it arrived: the number of its first row, names, values."""

_position_of = itemgetter(0)


def _clipped(arrival: Arrival, low: int, high: int) -> Arrival:
    first, names, values = arrival
    start, end = max(0, low - first), min(len(names), max(0, high - first))
    if start == 0 and end == len(names):
        return arrival
    return first + start, names[start:end], values[start:end]


class SeriesRows:
    """The rows of one family in a memtable."""

    __slots__ = (
        "_arrivals",
        "_groups",
        "_names",
        "_runs",
        "_sorted",
        "_taken",
        "_unread",
        "_values",
        "family",
        "first_position",
        "lock",
        "next_position",
    )

    def __init__(self, family: bytes, runtime: Runtime, *, keeps_arrivals: bool = False) -> None:
        self.family = family
        self.first_position = -1
        self.next_position = -1
        self._arrivals: list[Arrival] | None = [] if keeps_arrivals else None
        self._unread = READ_LATELY_ROWS
        self.lock = runtime.lock()
        self._names: list[bytes] = []
        self._values: list[bytes] = []
        # Runs of rows not grouped yet: (index of the first row, its position). Indexes count from the first pending row.
        self._runs: list[tuple[int, int]] = []
        self._groups: defaultdict[bytes, list[Any]] = defaultdict(list)  # name: [position, value, position, value, ...]
        self._sorted: list[bytes] = []
        self._taken = 0
        """Rows of the slice that is being grouped; 0 if none is. A slice cut short by an interrupt is finished first."""

    def append(self, names: Sequence[bytes], first: int, values: Sequence[bytes]) -> None:
        """Append rows at positions first, first + 1, ... Requires: first >= `next_position`, under the write lock."""
        with self.lock:
            if first != self.next_position or not self._names:
                self._runs.append((len(self._names), first))
            self._values += values
            self._names += names
            if self._arrivals is not None:
                self._arrivals.append((first, names, values))
            if self.first_position < 0:
                self.first_position = first
            self.next_position = first + len(names)
        if self._unread < READ_LATELY_ROWS:
            # The family is being read: group now, so that readers need not take the lock that this thread may hold.
            self._unread += len(names)
            # A backlog may be very long, and one append must not group all of it: the limit is twice the new rows.
            self._group(2 * len(names) + SLICE_ROWS)

    def _group(self, most: int = 1 << 62) -> None:
        """Move pending rows into the groups, a slice at a time, until none are left or at least `most` are moved.

        Invariant: a slice enters the groups in one C-level step and leaves the columns in one line without a call. So after
        an interrupt a slice is in its groups as a whole or not at all; its first row shows which.
        """
        while self._names and most > 0:
            with self.lock:
                names, values, runs = self._names, self._values, self._runs
                if not names:
                    return
                first = runs[0][1]
                end = runs[1][0] if len(runs) > 1 else len(names)
                count = self._taken = self._taken or min(end, SLICE_ROWS)
                group = self._groups.get(names[0])
                if group is None or group[-2] < first:
                    if count == 1:
                        self._groups[names[0]] += (first, values[0])
                    else:
                        pairs = zip(range(first, first + count), values[:count], strict=True)
                        deque(map(list.extend, map(self._groups.__getitem__, names[:count]), pairs), maxlen=0)
                later = [(at - count, position) for at, position in runs[1:]]
                if count < end:
                    later.insert(0, (0, first + count))
                self._runs, names[:count], values[:count], self._taken = later, (), (), 0
                most -= count

    def keep_arrivals(self) -> None:
        """From now on, keep batches in arrival order."""
        with self.lock:
            if self._arrivals is None:
                self._arrivals = []

    def arrivals(self, low: int, high: int) -> list[Arrival] | None:
        """The rows with low <= number < high in arrival order, batch by batch; None if that order was not kept."""
        low, high = max(low, self.first_position), min(high, self.next_position)
        if low >= high:
            return []
        with self.lock:
            arrivals = self._arrivals
            if not arrivals or arrivals[0][0] > low:
                return None
            start = bisect_right(arrivals, low, key=_position_of) - 1
            found = arrivals[start : bisect_left(arrivals, high, key=_position_of)]
        return [part for one in found if (part := _clipped(one, low, high))[1]]

    def rows(self, name: bytes, low: int, high: int) -> tuple[list[int], list[bytes]]:
        """Positions and values of the series' rows with low <= position < high. Cost: grouping of new rows, then O(log n)."""
        group, start, end = self._find(name, low, high)
        return group[2 * start : 2 * end : 2], group[2 * start + 1 : 2 * end : 2]

    def last_rows(self, name: bytes, low: int, high: int, most: int) -> tuple[list[int], list[bytes]]:
        """The last `most` rows that `rows` returns, ascending. Cost: as `rows`, without copying earlier rows."""
        group, start, end = self._find(name, low, high)
        start = max(start, end - most)
        return group[2 * start : 2 * end : 2], group[2 * start + 1 : 2 * end : 2]

    def ungrouped(self, high: int) -> int:
        """The number of rows that a read below `high` has to group first."""
        runs = self._runs
        return len(self._names) if runs and runs[0][1] < high else 0

    def count(self, name: bytes, low: int, high: int) -> int:
        """The number of rows that `rows` returns."""
        _, start, end = self._find(name, low, high)
        return max(0, end - start)

    def _find(self, name: bytes, low: int, high: int) -> tuple[list[Any], int, int]:
        self._unread = 0
        runs = self._runs
        # Rows being appended now are beyond the caller's bound: the caller does not wait for the writer.
        if runs and runs[0][1] < high:
            self._group()
        group = self._groups.get(name)
        if not group or group[-2] < low:
            return [], 0, 0
        count = len(group) >> 1
        start, end = 0, count
        if group[0] < low:
            if group[2 * count - 4] < low:
                start = count - 1  # The usual poll finds one new row.
            else:
                start = bisect_left(range(count), low, key=lambda at: group[2 * at])
        if group[2 * count - 2] >= high:
            end = bisect_left(range(count), high, key=lambda at: group[2 * at])
        return group, start, end

    def names_below(self, position: int, prefix: bytes = b"") -> list[bytes]:
        """The names beginning with `prefix` that have a row with a smaller number, sorted."""
        names = self.names()
        if prefix:
            after = prefix_end(prefix)
            names = names[bisect_left(names, prefix) : None if after is None else bisect_left(names, after)]
        if self.next_position <= position:
            return names
        groups = self._groups
        return [name for name in names if groups[name][0] < position]

    def names(self) -> list[bytes]:
        """Every name, sorted. The list is shared: do not change it."""
        self._group()
        if len(self._sorted) != len(self._groups):
            with self.lock:
                names = list(self._groups)
            names.sort()
            self._sorted = names
        return self._sorted

    def chunks(self) -> Iterator[SeriesChunk]:
        """All rows in order, about 4 slices at a time. Requires: no more appends."""
        names = self.names()
        groups = self._groups
        sizes = list(map(len, map(groups.__getitem__, names)))
        ends = list(accumulate(sizes))
        start = 0
        while start < len(names):
            if sizes[start] > 8 * SLICE_ROWS:
                group = groups[names[start]]
                for at in range(0, len(group), 8 * SLICE_ROWS):
                    piece = group[at : at + 8 * SLICE_ROWS]
                    yield SeriesChunk(self.family, names[start : start + 1], [len(piece) >> 1], piece[::2], piece[1::2])
                start += 1
                continue
            target = (ends[start - 1] if start else 0) + 8 * SLICE_ROWS
            end = max(start + 1, bisect_left(ends, target, start))
            while end - start > 1 and sizes[end - 1] > 8 * SLICE_ROWS:
                end -= 1
            part = names[start:end]
            flat = list(chain.from_iterable(map(groups.__getitem__, part)))
            yield SeriesChunk(self.family, part, [size >> 1 for size in sizes[start:end]], flat[::2], flat[1::2])
            start = end


class Memtable:
    """Rows and series of all partitions, in memory."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = runtime.lock()
        self._rows: dict[bytes, Version] = {}
        self._new_keys: list[bytes] = []
        self._index: Any = SortedList()
        self.series: dict[bytes, SeriesRows] = {}
        self._keeps_arrivals = False
        self.size = 0
        self.rows = 0
        self.first_seq = 0
        self.last_seq = 0
        # First and last log object that hold exactly these rows, set at freeze or by replay; 0 if there is none.
        self.wal_first = 0
        self.wal_last = 0
        # From wal_first on, objects count if their epoch is at least wal_floor; wal_epoch is the newest epoch up to wal_last.
        self.wal_floor = 0
        self.wal_epoch = 0

    @property
    def is_empty(self) -> bool:
        return not self.rows

    def keep_arrivals(self) -> None:
        """`SeriesRows.keep_arrivals` for all present and future families. Requires: the write lock."""
        self._keeps_arrivals = True
        for series in self.series.values():
            series.keep_arrivals()

    def put_rows(
        self, seq: int, keys: Sequence[bytes], kinds: Sequence[int], values: Sequence[bytes], size: int
    ) -> None:
        """Add one batch's rows; their keys are distinct. Requires: seq >= every seq so far, under the write lock."""
        rows, new = self._rows, self._new_keys
        get = rows.get
        for key, kind, value in zip(keys, kinds, values, strict=True):
            older = get(key)
            if older is None:
                new.append(key)
            rows[key] = (seq, kind, value, older)
        self._count(seq, len(keys), size)

    def append_series(
        self, seq: int, family: bytes, names: Sequence[bytes], first: int, values: Sequence[bytes], size: int
    ) -> None:
        """Add one batch's series rows. Requires: as `SeriesRows.append`."""
        table = self.series.get(family)
        if table is None:
            table = self.series[family] = SeriesRows(family, self._runtime, keeps_arrivals=self._keeps_arrivals)
        table.append(names, first, values)
        self._count(seq, len(names), size)

    def _count(self, seq: int, rows: int, size: int) -> None:
        if not self.first_seq:
            self.first_seq = seq
        self.last_seq = seq
        self.rows += rows
        self.size += size + rows * ROW_OVERHEAD

    def get(self, key: bytes, seq: int) -> Version | None:
        """The newest version of `key` with a sequence number <= `seq`."""
        version = self._rows.get(key)
        while version is not None and version[0] > seq:
            version = version[3]
        return version

    def scan(self, low: bytes | None, high: bytes | None, seq: int, *, descending: bool = False) -> Iterator[RowChunk]:
        """The newest version <= `seq` of each key in [low, high), tombstones included, in chunks.

        Chunks follow each other in the scan's direction; inside a chunk keys always ascend.
        """
        while True:
            with self._lock:
                self._sort()
                inside = self._index.irange(low, high, (True, False), reverse=descending)
                keys = list(islice(inside, SLICE_ROWS))
            if not keys:
                return
            last = keys[-1]
            if descending:
                keys.reverse()
            found = [(key, version) for key in keys if (version := self.get(key, seq)) is not None]
            if found:
                yield RowChunk(
                    [key for key, _ in found],
                    [version[0] for _, version in found],
                    [version[1] for _, version in found],
                    [version[2] for _, version in found],
                )
            if descending:
                high = last
            else:
                low = last + b"\x00"

    def all_rows(self) -> Iterator[RowChunk]:
        """Every version of every key, in chunks that never split a key. Requires: no more writes."""
        with self._lock:
            self._sort()
            index = list(self._index)
        for start in range(0, len(index), SLICE_ROWS):
            keys: list[bytes] = []
            versions: list[Version] = []
            for key in index[start : start + SLICE_ROWS]:
                version: Version | None = self._rows[key]
                while version is not None:
                    keys.append(key)
                    versions.append(version)
                    version = version[3]
            yield RowChunk(keys, [v[0] for v in versions], [v[1] for v in versions], [v[2] for v in versions])

    def _sort(self) -> None:
        """Update the index. Requires: the table's lock. Cost: O(new log new)."""
        new = self._new_keys
        count = len(new)  # A writer may append meanwhile: list.append is atomic.
        if count or self._index is None:
            index, self._index = self._index, None  # An index cut short by an interrupt is rebuilt.
            if index is None:
                index = SortedList({*list(self._rows), *new[:count]})
            else:
                index.update(new[:count])
            new[:count], self._index = (), index
