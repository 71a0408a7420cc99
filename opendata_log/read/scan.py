"""Read walk, after `read/reads`, before `lsm`: iterators of entries and keys.

Entries are made a block at a time, and a `for` loop over them runs in C. Where it stands is read off the iterator of the
current block, so that `next_sequence` costs nothing per entry.
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
        for numbers, values in engine.scan_series(
            family,
            key,
            first - base,
            end - base,
            cache_blocks=options.cache_blocks,
            read_ahead_bytes=options.read_ahead_bytes,
        ):
            sequences = map(base.__add__, numbers) if base else numbers
            yield list(map(LogEntry, repeat(key), sequences, values))


def scan_on(source: Source, key: bytes, start: Sequence) -> LogIterator:
    """What there is of a key from `start` on. Requires: arguments that were checked before."""
    engine = source.engine()
    segments, frontier = source.view()
    return LogIterator(
        read_blocks(engine, key, segments.parts(start, frontier), _DEFAULT), start=start, frontier=frontier
    )


def shared(what: str) -> InvalidInputError:
    """For an iterator that is used by two threads at the same moment."""
    return InvalidInputError(f"another thread is reading from this {what} at this moment: give each thread its own")


def block_of(step: Callable[[], Iterator[LogEntry] | None]) -> Iterator[LogEntry]:
    """A step over blocks, by the rules of iterators."""
    block = step()
    if block is None:
        raise StopIteration
    return block


class LogIterator:
    """Entries of one key in sequence order, as of the moment of the call. For one thread at a time: where two meet, one of
    them gets an InvalidInputError, and no entry comes twice.

    A context manager; closing it, or reaching the end, lets go of the tables it keeps from being collected.
    """

    __slots__ = ("_block", "_blocks_left", "_error", "_frontier", "_is_drained", "_passed", "_position", "_turn")

    def __init__(
        self, blocks: Iterator[list[LogEntry]], *, start: Sequence, frontier: Sequence, limit: int | None = None
    ) -> None:
        self._frontier = frontier
        self._passed = start
        self._block: list[LogEntry] = []
        # The iterator of that list is CPython's own, so that `for` runs in C: a count kept here would cost a Python call per
        # entry. Its `__length_hint__` is exactly how many are left, and its `__setstate__` moves it on without a loop. CPython
        # has both for `list()` and for pickling; no public function does the same as fast.
        self._position: Any = None
        self._is_drained = False
        self._error: Error | None = None
        self._turn = [True]
        """Its item goes to whoever moves on to another block. By `del`, not a call: no signal comes between that and `try`."""
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
        """Where to go on: `scan(key, next_sequence)` omits nothing this scan has not yielded.

        The last yielded sequence + 1, or `start` before the first; after a full drain at least the frontier this scan
        saw, also for a key that has nothing there.
        """
        block = self._block
        if block:
            yielded = len(block) - self._position.__length_hint__()
            if yielded:
                last: Sequence = block[yielded - 1].sequence
                return last + 1
        return max(self._passed, self._frontier) if self._is_drained else self._passed

    def __iter__(self) -> Iterator[LogEntry]:
        # From the current block on: `fetchmany` may have left one begun that no earlier chain knows of.
        return chain.from_iterable(lsm.Steps(partial(block_of, self.next_block)))

    def __next__(self) -> LogEntry:
        while (block := self.next_block()) is not None:
            for entry in block:
                return entry
        raise StopIteration

    def next_block(self) -> Iterator[LogEntry] | None:
        """What is left of the current block, else the next one; None at the end."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        block, position = self._block, self._position  # Before the look whether another thread moves on from here.
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
        """Up to `count` entries; an empty list at the end."""
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InvalidInputError(f"fetchmany takes a count of at least 0, got {lsm.shown(count)}")
        return self._take(count)

    def fetchall(self) -> list[LogEntry]:
        """All remaining entries."""
        return self._take(sys.maxsize)

    def _take(self, count: int) -> list[LogEntry]:
        """Up to `count` entries, out of whole blocks: nothing happens per entry."""
        try:
            del self._turn[0]
        except IndexError:
            raise shared("scan") from None
        try:
            return self._take_blocks(count)
        finally:
            self._turn.append(True)

    def _take_blocks(self, count: int) -> list[LogEntry]:
        """Requires: the turn."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        at = self.next_sequence
        # A `for` loop may stand in the current block, and go on meanwhile: what is left of it is taken one by one.
        found: list[LogEntry] = list(islice(self._position, count)) if self._block else []
        while len(found) < count:
            try:
                position: Any = next(self._blocks_left, None)
            except Error:
                self._passed = at  # Nobody got what was taken before it.
                raise
            if position is None:
                break
            block = self._block
            end = min(len(block), count - len(found))
            position.__setstate__(end)  # So that a `for` loop, and `next_sequence`, go on behind what is taken here.
            found += block if end == len(block) else block[:end]
        return found

    def close(self) -> None:
        """Yield nothing more. `next_sequence` stays where it is. Idempotent. Raises: InvalidInputError while another thread
        reads from it."""
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
        self._block.clear()  # A `for` loop that stands in this block ends, too.
        self._block = []
        self._blocks_left.close()

    def __enter__(self) -> LogIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LogKeyIterator:
    """Distinct keys in lexicographic order. A context manager. For one thread at a time: where two meet, one of them gets
    an InvalidInputError, and no key comes twice."""

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
        except ValueError as error:  # The interpreter's word for a generator that another thread is in.
            raise shared("list of keys") from error

    def fetchmany(self, count: int) -> list[LogKey]:
        """Up to `count` keys; an empty list at the end."""
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InvalidInputError(f"fetchmany takes a count of at least 0, got {lsm.shown(count)}")
        return list(islice(self, count))

    def fetchall(self) -> list[LogKey]:
        """All remaining keys."""
        return list(self)

    def close(self) -> None:
        """Yield nothing more. Idempotent."""
        self._keys = iter(())

    def __enter__(self) -> LogKeyIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
