"""Read walk, after `read/reads`, before `lsm`: iterators of entries and keys.

Entries are made a block at a time, and a `for` loop over them runs in C. `next_sequence` costs nothing per entry, because it
is computed from the position of the current block's iterator.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from heapq import merge
from itertools import chain, groupby, islice, repeat
from typing import Any

import lsm
from opendata_log.model.errors import Error, InvalidInputError, translate
from opendata_log.model.options import ScanOptions
from opendata_log.model.record import LogEntry, LogKey, Sequence
from opendata_log.read.source import Part, SeriesReads, Source

_DEFAULT = ScanOptions()


def read_blocks(
    engine: SeriesReads, key: bytes, parts: Iterable[Part], options: ScanOptions
) -> Iterator[list[LogEntry]]:
    """The entries of one key, in lists that are not empty."""
    for base, family, first, end in parts:
        for positions, values in engine.scan_series(
            family,
            key,
            first - base,
            end - base,
            cache_blocks=options.cache_blocks,
            read_ahead_bytes=options.read_ahead_bytes,
        ):
            sequences = map(base.__add__, positions) if base else positions
            yield list(map(LogEntry, repeat(key), sequences, values))


def scan_on(source: Source, key: bytes, start: Sequence) -> LogIterator:
    """The visible entries of a key from `start` on. Requires: checked arguments."""
    engine = source.engine()
    segments, frontier = source.view()
    return LogIterator(
        read_blocks(engine, key, segments.parts(start, frontier), _DEFAULT), start=start, frontier=frontier
    )


def shared(what: str) -> InvalidInputError:
    """The error for an iterator that two threads use at the same moment."""
    return InvalidInputError(f"another thread is reading from this {what} at this moment: give each thread its own")


def block_of(step: Callable[[], Iterator[LogEntry] | None]) -> Iterator[LogEntry]:
    """The next block of `step`; raises StopIteration where `step` returns None."""
    block = step()
    if block is None:
        raise StopIteration
    return block


class LogIterator:
    """Iterates over entries in sequence order, as of the moment the scan was called. A context manager.

    For one thread at a time: where two threads use it at the same moment, one gets an InvalidInputError, and no entry is
    yielded twice. An open iterator keeps its tables from being collected; `close`, or the end, releases them. After an error,
    further calls raise the same error: resume with a new scan at `next_sequence`.

    >>> from opendata_log import LogDb
    >>> with LogDb.open("memory://") as log:
    ...     _ = log.try_append([(b"orders", b"created"), (b"orders", b"paid")])
    ...     scan = log.scan(b"orders")
    ...     scan.fetchmany(1), scan.next_sequence
    ([LogEntry(key=b'orders', sequence=0, value=b'created')], 1)
    """

    __slots__ = ("_block", "_blocks_left", "_error", "_frontier", "_is_drained", "_passed", "_position", "_turn")

    def __init__(
        self, blocks: Iterator[list[LogEntry]], *, start: Sequence, frontier: Sequence, limit: int | None = None
    ) -> None:
        self._frontier = frontier
        self._passed = start
        self._block: list[LogEntry] = []
        # A position counted here would cost a Python call per entry, so this is CPython's own list iterator: its
        # `__length_hint__` is exactly how many entries are left, and its `__setstate__` moves it without a loop. CPython has
        # both for `list()` and for pickling; no public function does the same as fast.
        self._position: Any = None
        self._is_drained = False
        self._error: Error | None = None
        self._turn = [True]
        """A list used as a lock: one item is free, empty is taken. Its holder reads the next block. `del` takes it, because no
        signal handler runs between a `del` and the `try` after it."""
        self._blocks_left = self._one_by_one(blocks, limit)

    def _one_by_one(
        self, blocks: Iterator[list[LogEntry]], left: int | None
    ) -> Generator[Iterator[LogEntry], None, None]:
        """One iterator per block. Invariant: when the next block is asked for, the last one was yielded to its end."""
        if left == 0:
            return
        try:
            for entries in blocks:
                if left is not None:
                    if len(entries) > left:
                        entries = entries[:left]
                    left -= len(entries)
                self._block = entries
                self._position = iter(entries)
                yield self._position
                self._passed = entries[-1].sequence + 1
                if left == 0:
                    return
            self._is_drained = True
        except lsm.Error as error:
            self._error = translate(error)
            raise self._error from error
        finally:
            self._block = []

    @property
    def next_sequence(self) -> Sequence:
        """The sequence to resume at: `scan(key, next_sequence)` yields every entry that this scan has not yielded.

        Before the first entry it is `start`; then the last yielded sequence + 1. Once the scan has reached its end, it is at
        least the scan's frontier, even if the scan yielded nothing.
        """
        block = self._block
        if block:
            yielded = len(block) - self._position.__length_hint__()
            if yielded:
                last: Sequence = block[yielded - 1].sequence
                return last + 1
        return max(self._passed, self._frontier) if self._is_drained else self._passed

    def __iter__(self) -> Iterator[LogEntry]:
        # `fetchmany` may have left a partly read block that no earlier chain knows of, so begin with the current block.
        return chain.from_iterable(lsm.Steps(partial(block_of, self.next_block)))

    def __next__(self) -> LogEntry:
        while (block := self.next_block()) is not None:
            for entry in block:
                return entry
        raise StopIteration

    def next_block(self) -> Iterator[LogEntry] | None:
        """The rest of the current block, or the next block; None at the end."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        block, position = self._block, self._position  # Read before the check for another thread.
        if not self._turn:
            raise shared("scan")
        if block and position.__length_hint__():
            rest: Iterator[LogEntry] = position
            return rest
        try:
            del self._turn[0]
        except IndexError:
            raise shared("scan") from None
        try:
            return next(self._blocks_left, None)
        finally:
            self._turn.append(True)

    def fetchmany(self, count: int) -> list[LogEntry]:
        """The next entries, up to `count`; an empty list at the end. Raises: as iterating."""
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InvalidInputError(f"fetchmany takes a count of at least 0, got {lsm.shown(count)}")
        return self._take(count)

    def fetchall(self) -> list[LogEntry]:
        """All remaining entries. Raises: as iterating."""
        return self._take(sys.maxsize)

    def _take(self, count: int) -> list[LogEntry]:
        """Up to `count` entries, in slices of blocks, without a Python call per entry."""
        try:
            del self._turn[0]
        except IndexError:
            raise shared("scan") from None
        try:
            return self._take_blocks(count)
        finally:
            self._turn.append(True)

    def _take_blocks(self, count: int) -> list[LogEntry]:
        """As `_take`. Requires: the item of `_turn`."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        at = self.next_sequence
        # A `for` loop may be iterating over the current block at the same time, so its rest is taken one by one.
        found: list[LogEntry] = list(islice(self._position, count)) if self._block else []
        while len(found) < count:
            try:
                position: Any = next(self._blocks_left, None)
            except Error:
                self._passed = at  # The entries taken before the error were not returned.
                raise
            if position is None:
                break
            block = self._block
            end = min(len(block), count - len(found))
            position.__setstate__(end)  # A `for` loop and `next_sequence` go on after the taken entries.
            found += block if end == len(block) else block[:end]
        return found

    def close(self) -> None:
        """End the iteration and release its tables. `next_sequence` stays as it is. Idempotent.

        Raises: InvalidInputError while another thread reads from the iterator.
        """
        try:
            del self._turn[0]
        except IndexError:
            raise shared("scan") from None
        try:
            self._end()
        finally:
            self._turn.append(True)

    def _end(self) -> None:
        self._passed = self.next_sequence
        self._is_drained = False
        self._block.clear()  # Ends a `for` loop that is iterating over this block.
        self._block = []
        self._blocks_left.close()

    def __enter__(self) -> LogIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LogKeyIterator:
    """Iterates over distinct keys, as `LogKey`, in lexicographic order. A context manager.

    For one thread at a time: where two threads use it at the same moment, one gets an InvalidInputError, and no key is
    yielded twice.

    >>> from opendata_log import LogDb
    >>> with LogDb.open("memory://") as log:
    ...     _ = log.try_append([(b"users", b"login"), (b"orders", b"created"), (b"users", b"logout")])
    ...     log.list_keys().fetchall()
    [LogKey(key=b'orders'), LogKey(key=b'users')]
    """

    def __init__(self, names: Callable[[], list[Iterator[Iterable[bytes]]]]) -> None:
        self._error: Error | None = None
        self._keys = self._read(names)

    def _read(self, names: Callable[[], list[Iterator[Iterable[bytes]]]]) -> Iterator[LogKey]:
        try:
            streams = [chain.from_iterable(stream) for stream in names()]
            if len(streams) == 1:
                yield from map(LogKey, streams[0])
            else:
                yield from (LogKey(key) for key, _ in groupby(merge(*streams)))
        except lsm.Error as error:
            self._error = translate(error)
            raise self._error from error

    def __iter__(self) -> LogKeyIterator:
        return self

    def __next__(self) -> LogKey:
        if self._error is not None:
            raise self._error.with_traceback(None)
        try:
            return next(self._keys)
        except Error:
            raise
        except ValueError as error:  # The interpreter raises it where another thread runs the generator.
            raise shared("list of keys") from error

    def fetchmany(self, count: int) -> list[LogKey]:
        """The next keys, up to `count`; an empty list at the end."""
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InvalidInputError(f"fetchmany takes a count of at least 0, got {lsm.shown(count)}")
        return list(islice(self, count))

    def fetchall(self) -> list[LogKey]:
        """All remaining keys."""
        return list(self)

    def close(self) -> None:
        """End the iteration. Idempotent."""
        self._keys = iter(())

    def __enter__(self) -> LogKeyIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
