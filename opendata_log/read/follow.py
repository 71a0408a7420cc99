"""Read walk, after `read/scan`: a read that reaches the end and goes on with new entries, without polling.

A follower reads to the frontier, then sleeps until its handle wakes it (`wakeups`). The writer's handle wakes followers after
an append, or, under `REMOTE`, when the append is durable. A reader's handle wakes them after a poll that found new rows.
Waiting costs no request, however many followers there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import chain, islice

import lsm
from opendata_log.model.errors import ClosedError, Error, InvalidInputError, SnapshotExpired, translated
from opendata_log.model.options import timeout_seconds
from opendata_log.model.record import BytesLike, LogEntry, Sequence, to_key
from opendata_log.model.segment import check_range
from opendata_log.read.interleave import KeySet, interleave_on
from opendata_log.read.scan import LogIterator, block_of, scan_on, shared
from opendata_log.read.source import Source
from opendata_log.waiting.wakeups import Sleeper, Wakeups

TIMEOUT_MAX = 3600.0
"""Maximum seconds per sleep of a follower. After it the follower reads again, unless its own timeout is over."""
EXPIRED_MAX = 3
"""Maximum reads in a row that garbage collection may overtake; after one more, the follower raises the error."""


class Signal:
    """An event for one thread, which sleeps until it is set."""

    def __init__(self, runtime: lsm.Runtime) -> None:
        # A signal handler that appends while this thread is about to sleep must wake it; a condition cannot do that.
        self._gate = runtime.gate()

    @property
    def is_set(self) -> bool:
        return not self._gate.locked()

    def wake(self) -> None:
        """Set it. Any thread may call, and so may a signal handler."""
        if self.is_set:  # The sleeper clears it and reads afterwards, so that read sees this call's append.
            return
        with suppress(RuntimeError):  # Another thread released it first.
            self._gate.release()

    def wait(self, timeout: float | None) -> None:
        """Return when it is set, or after `timeout` seconds (None: TIMEOUT_MAX at most), and clear it."""
        self._gate.acquire(timeout=-1 if timeout is None else min(timeout, TIMEOUT_MAX))


class FollowState:
    """What a follower does except sleep: it finds the next block, classifies errors, keeps the timeout.

    The driver takes blocks with `rest`, then with `begin`; when both return None, it sleeps for `time_left`.
    `read(source, cursor)` scans from a sequence; the driver passes the source to `begin`.
    """

    def __init__(
        self,
        read: Callable[[Source, Sequence], LogIterator],
        wakeups: Wakeups,
        *,
        keys: Iterable[bytes] | None,
        start: Sequence,
        timeout: float | None,
    ) -> None:
        self._read = read
        self._wakeups = wakeups
        self._keys = keys
        self._timeout = timeout
        self._since: float | None = None
        self._expired = 0
        self._round = LogIterator(iter(()), start=start, frontier=start)
        self.is_over = False
        """The follower or the log is closed."""

    def listen(self, sleeper: Sleeper) -> None:
        """Wake `sleeper` for new entries. Called before the first read, so that no entry becomes visible unnoticed between a
        read and the sleep after it."""
        with translated():
            self._wakeups.add(self._keys, sleeper)

    def rest(self) -> Iterator[LogEntry] | None:
        """The rest of the current block, or the next block of the current read; None at the end of that read."""
        try:
            block = self._round.next_block()
        except Error as error:
            self._recover(error)
            return None
        return self._taken(block) if block is not None else None

    def begin(self, source: Source) -> Iterator[LogEntry] | None:
        """Read on from the end of the last read; None where there is nothing new. Requires: `rest` returned None."""
        while not self.is_over:
            try:
                self._round = self._read(source, self._round.next_sequence)
                block = self._round.next_block()
            except Error as error:
                self._recover(error)
                continue
            return self._taken(block)
        return None

    def _taken(self, block: Iterator[LogEntry] | None) -> Iterator[LogEntry] | None:
        self._expired = 0
        if block is not None:
            self._since = None
        return block

    def _recover(self, error: Error) -> None:
        """Make the next read resume at the current position, or raise `error`."""
        if isinstance(error, ClosedError):
            self.is_over = True
            return
        self.go_back(self._round.next_sequence)
        self._expired += 1
        if not isinstance(error, SnapshotExpired) or self._expired > EXPIRED_MAX:
            raise error

    def go_back(self, cursor: Sequence) -> None:
        """Make the next read start at `cursor`."""
        self._round = LogIterator(iter(()), start=cursor, frontier=cursor)

    def time_left(self, now: float) -> float | None:
        """Seconds to wait for new entries; None: no limit. Zero or less: no entry came for `timeout` seconds."""
        if self._timeout is None:
            return None
        if self._since is None:
            self._since = now
        left = self._since + self._timeout - now
        if left <= 0:
            self._since = None
        return left

    @property
    def next_sequence(self) -> Sequence:
        return self._round.next_sequence

    def close(self, sleeper: Sleeper) -> None:
        """End the follower, and wake `sleeper` a last time."""
        self.is_over = True
        with suppress(ValueError):  # Another thread is reading from it, and stops there.
            self._round.close()
        self._wakeups.remove(self._keys, sleeper)
        sleeper.wake()


def follow_key(source: Source, key: BytesLike, start: Sequence, timeout: float | timedelta | None) -> FollowState:
    """The state of a follower of one key. Raises: ClosedError, InvalidInputError."""
    name = to_key(key)
    first, _ = check_range(start, None)
    source.engine()
    return FollowState(
        lambda source, cursor: scan_on(source, name, cursor),
        source.wakeups,
        keys=(name,),
        start=first,
        timeout=timeout_seconds(timeout),
    )


def follow_keys(source: Source, wanted: KeySet, start: Sequence, timeout: float | timedelta | None) -> FollowState:
    """The state of a follower of many keys. Raises: ClosedError, InvalidInputError."""
    first, _ = check_range(start, None)
    source.engine()
    return FollowState(
        lambda source, cursor: interleave_on(source, wanted, cursor),
        source.wakeups,
        keys=wanted.keys,
        start=first,
        timeout=timeout_seconds(timeout),
    )


class LogFollower:
    """Iterates over entries in sequence order, and waits for new ones at the end. A context manager.

    Ends when the log is closed, and after `timeout` seconds without a new entry. Raises the errors of a scan. After an error,
    or after Ctrl-C, iterating again goes on at the same place. A slow consumer misses no entry.
    For one thread at a time: where two threads use it at the same moment, one gets an InvalidInputError, and no entry is
    yielded twice. `close` may be called from any thread.

    >>> from opendata_log import LogDb
    >>> with LogDb.open("memory://") as log:
    ...     follower = log.follow(b"orders", timeout=60)
    ...     _ = log.append(b"orders", b"created")
    ...     next(follower)
    LogEntry(key=b'orders', sequence=0, value=b'created')
    """

    def __init__(self, state: FollowState, source: Source) -> None:
        self._state = state
        self._source = source
        self._runtime = source.runtime
        self._signal = Signal(source.runtime)
        state.listen(self._signal)
        self._turn = [True]
        """A list used as a lock: one item is free, empty is taken. Its holder reads the next block. `del` takes it, because no
        signal handler runs between a `del` and the `try` after it."""

    def _next_block(self) -> Iterator[LogEntry] | None:
        """The rest of the current block, or the next block, waiting for one if necessary; None at the end."""
        try:
            del self._turn[0]
        except IndexError:
            raise shared("follower") from None
        try:
            return self._awaited_block()
        finally:
            self._turn.append(True)

    def _awaited_block(self) -> Iterator[LogEntry] | None:
        """As `_next_block`. Requires: the item of `_turn`."""
        state = self._state
        while not state.is_over:
            block = state.rest()
            if block is None:
                block = state.begin(self._source)
            if block is not None:
                return block
            if not (state.is_over or self._sleep()):
                break
        return None

    def _sleep(self) -> bool:
        """Wait for new entries. False where none came for the timeout."""
        left = self._state.time_left(self._runtime.monotonic())
        if left is not None and left <= 0:
            return False
        self._signal.wait(left)
        return True

    @property
    def next_sequence(self) -> Sequence:
        """The sequence to resume at: a follower that starts there yields every entry not yielded here, and repeats none."""
        return self._state.next_sequence

    def __iter__(self) -> Iterator[LogEntry]:
        return chain.from_iterable(lsm.Steps(partial(block_of, self._next_block)))

    def __next__(self) -> LogEntry:
        while (block := self._next_block()) is not None:
            for entry in block:
                return entry
        raise StopIteration

    def fetchmany(self, count: int) -> list[LogEntry]:
        """The entries available now, up to `count`. Waits until there is one; an empty list at the end."""
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InvalidInputError(f"fetchmany takes a count of at least 0, got {lsm.shown(count)}")
        try:
            del self._turn[0]
        except IndexError:
            raise shared("follower") from None
        try:
            return self._take(count)
        finally:
            self._turn.append(True)

    def _take(self, count: int) -> list[LogEntry]:
        """As `fetchmany`. Requires: the item of `_turn`."""
        entries: list[LogEntry] = []
        at = self.next_sequence
        try:
            block = self._awaited_block() if count else None
            while block is not None:
                entries += islice(block, count - len(entries))
                block = self._state.rest() if len(entries) < count else None
        except BaseException:
            self._state.go_back(at)  # The entries taken before the error were not returned.
            raise
        return entries

    def close(self) -> None:
        """End the iteration; a thread that waits in this follower returns. `next_sequence` stays as it is. Idempotent."""
        self._state.close(self._signal)

    def __enter__(self) -> LogFollower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
