"""Read walk, after `scan`: a read that goes on when it has reached the end, without looking for news itself.

A follower reads to the frontier, then sleeps until its handle tells it (`wakeups`): the writer's process after an append, or
when it is durable under `REMOTE`; a reader's process after a poll that found something. However many there are, waiting
costs no request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice

import lsm
from opendata_log.errors import ClosedError, Error, InvalidInputError, SnapshotExpired
from opendata_log.record import LogEntry, Sequence
from opendata_log.scan import LogIterator
from opendata_log.wakeups import Wakeups

EXPIRED_MAX = 3
"""Reads in a row that collection may overtake before a follower gives up."""


class Signal:
    """Something to sleep on until it is set. One sleeper."""

    def __init__(self, runtime: lsm.Runtime) -> None:
        self._changed = runtime.condition()
        self._is_set = False

    def wake(self) -> None:
        if self._is_set:  # Whoever is about to clear it reads after that, and so sees what this call is about.
            return
        with self._changed:
            self._is_set = True
            self._changed.notify()

    def wait(self, timeout: float | None) -> None:
        """Return when it is set, at once if it was meanwhile, or after `timeout`; it is clear then."""
        with self._changed:
            if not self._is_set:
                self._changed.wait(timeout)
            self._is_set = False


class LogFollower:
    """Entries as they come, in sequence order. Not for use by several threads at once; a context manager.

    It ends after `timeout` seconds without a new entry and when the log is closed, and raises what a scan raises. Neither an
    error nor Ctrl-C ends it: iterating again goes on where it stood. A slow consumer misses nothing.
    """

    def __init__(
        self,
        read: Callable[[Sequence], LogIterator],
        wakeups: Wakeups,
        runtime: lsm.Runtime,
        *,
        keys: Iterable[bytes] | None,
        start: Sequence,
        timeout: float | None,
    ) -> None:
        self._read = read
        self._runtime = runtime
        self._timeout = timeout
        self._signal = Signal(runtime)
        self._since: float | None = None
        self._expired = 0
        self._is_closed = False
        # Before the first read, so that nothing can become visible between a read and the sleep after it unnoticed.
        wakeups.add(keys, self._signal)
        self._wakeups = wakeups
        self._keys = keys
        self._round = LogIterator(iter(()), start=start, frontier=start)
        self._entries = self._chained()

    def _chained(self) -> Iterator[LogEntry]:
        return chain.from_iterable(iter(self._next_block, None))

    def _next_block(self) -> Iterator[LogEntry] | None:
        """What is left of the current block, or the next one, once there is one; None at the end."""
        while not self._is_closed:
            try:
                block = self._round.next_block()
                if block is None:
                    self._round = self._read(self._round.next_sequence)
                    block = self._round.next_block()
            except ClosedError:
                break
            except Error as error:
                cursor = self._round.next_sequence
                self._round = LogIterator(iter(()), start=cursor, frontier=cursor)
                self._expired += 1
                if isinstance(error, SnapshotExpired) and self._expired <= EXPIRED_MAX:
                    continue
                raise
            self._expired = 0
            if block is not None:
                self._since = None
                return block
            if not self._sleep():
                break
        return None

    def _sleep(self) -> bool:
        """Wait for news. False when it has been quiet for `timeout`."""
        left = None
        if self._timeout is not None:
            now = self._runtime.monotonic()
            if self._since is None:
                self._since = now
            left = self._since + self._timeout - now
            if left <= 0:
                self._since = None
                return False
        self._signal.wait(left)
        return True

    @property
    def next_sequence(self) -> Sequence:
        """Where to go on: following from it omits nothing this follower has not yielded, and repeats nothing."""
        return self._round.next_sequence

    def __iter__(self) -> Iterator[LogEntry]:
        self._entries = self._chained()
        return self._entries

    def __next__(self) -> LogEntry:
        try:
            return next(self._entries)
        except BaseException:
            self._entries = self._chained()
            raise

    def fetchmany(self, count: int) -> list[LogEntry]:
        """What is there, up to `count` entries; waits until there is one. Empty at the end."""
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InvalidInputError(f"fetchmany takes a count of at least 0, got {count!r}")
        entries: list[LogEntry] = []
        block = self._next_block() if count else None
        while block is not None:
            entries += islice(block, count - len(entries))
            block = self._round.next_block() if len(entries) < count else None
        return entries

    def close(self) -> None:
        """Yield nothing more; a thread that waits in this follower stops waiting. `next_sequence` stays. Idempotent."""
        self._is_closed = True
        with suppress(ValueError):  # Another thread is reading in it: it stops by itself.
            self._round.close()
        self._wakeups.remove(self._keys, self._signal)
        self._signal.wake()

    def __enter__(self) -> LogFollower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
