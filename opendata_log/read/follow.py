"""Read walk, after `read/scan`: a read that goes on when it has reached the end, without looking for news itself.

A follower reads to the frontier, then sleeps until its handle tells it (`wakeups`): the writer's process after an append, or
when it is durable under `REMOTE`; a reader's process after a poll that found something. However many there are, waiting
costs no request.
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
"""A sleep of a follower; it goes on after it, unless its own timeout is over."""
EXPIRED_MAX = 3
"""Reads in a row that collection may overtake before a follower gives up."""


class Signal:
    """Something to sleep on until it is set. One sleeper."""

    def __init__(self, runtime: lsm.Runtime) -> None:
        # Not a condition: a signal handler that appends while this thread is about to sleep has to wake it.
        self._gate = runtime.gate()

    @property
    def is_set(self) -> bool:
        return not self._gate.locked()

    def wake(self) -> None:
        if self.is_set:  # Whoever is about to clear it reads after that, and so sees what this call is about.
            return
        with suppress(RuntimeError):  # Somebody else was faster.
            self._gate.release()

    def wait(self, timeout: float | None) -> None:
        """Return when it is set, at once if it was meanwhile, or after `timeout`; it is clear then."""
        self._gate.acquire(timeout=-1 if timeout is None else min(timeout, TIMEOUT_MAX))


class FollowState:
    """Following without the waiting: what comes next, what an error means, how long quiet may last.

    Its driver takes blocks with `rest`, then `begin`, and sleeps for `time_left` when both have none.
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
        """It was closed, or the log is."""

    def listen(self, sleeper: Sleeper) -> None:
        """Wake `sleeper` for news. Before the first read, so that nothing becomes visible unnoticed between a read and the
        sleep after it."""
        with translated():
            self._wakeups.add(self._keys, sleeper)

    def rest(self) -> Iterator[LogEntry] | None:
        """What is left of the current block, or the next one of the current read; None at its end."""
        try:
            block = self._round.next_block()
        except Error as error:
            self._recover(error)
            return None
        return self._taken(block) if block is not None else None

    def begin(self, source: Source) -> Iterator[LogEntry] | None:
        """Read on from where the last read ended; None where there is nothing yet. Requires: `rest` returned None."""
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
        """Go on from where the read stood, or raise."""
        if isinstance(error, ClosedError):
            self.is_over = True
            return
        self.go_back(self._round.next_sequence)
        self._expired += 1
        if not isinstance(error, SnapshotExpired) or self._expired > EXPIRED_MAX:
            raise error

    def go_back(self, cursor: Sequence) -> None:
        """Read on from there next."""
        self._round = LogIterator(iter(()), start=cursor, frontier=cursor)

    def time_left(self, now: float) -> float | None:
        """How long to wait for news: None for ever; nothing or less when it has been quiet for `timeout`."""
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
        """Be over, and wake `sleeper` a last time."""
        self.is_over = True
        with suppress(ValueError):  # Another thread is reading in it: it stops by itself.
            self._round.close()
        self._wakeups.remove(self._keys, sleeper)
        sleeper.wake()


def follow_key(source: Source, key: BytesLike, start: Sequence, timeout: float | timedelta | None) -> FollowState:
    """Following one key. Raises: ClosedError, InvalidInputError."""
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
    """Following many keys. Raises: ClosedError, InvalidInputError."""
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
    """Entries as they come, in sequence order. A context manager. For one thread at a time: where two meet, one of them gets
    an InvalidInputError, and no entry comes twice.

    It ends after `timeout` seconds without a new entry and when the log is closed, and raises what a scan raises. Neither an
    error nor Ctrl-C ends it: iterating again goes on where it stood. A slow consumer misses nothing.
    """

    def __init__(self, state: FollowState, source: Source) -> None:
        self._state = state
        self._source = source
        self._runtime = source.runtime
        self._signal = Signal(source.runtime)
        state.listen(self._signal)
        self._turn = [True]
        """Its item goes to whoever moves on to another block. By `del`, not a call: no signal comes between that and `try`."""

    def _next_block(self) -> Iterator[LogEntry] | None:
        """What is left of the current block, or the next one, once there is one; None at the end."""
        try:
            del self._turn[0]
        except IndexError:
            raise shared("follower") from None
        try:
            return self._awaited_block()
        finally:
            self._turn.append(True)

    def _awaited_block(self) -> Iterator[LogEntry] | None:
        """Requires: the turn."""
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
        """Wait for news. False when it has been quiet for the timeout."""
        left = self._state.time_left(self._runtime.monotonic())
        if left is not None and left <= 0:
            return False
        self._signal.wait(left)
        return True

    @property
    def next_sequence(self) -> Sequence:
        """Where to go on: following from it omits nothing this follower has not yielded, and repeats nothing."""
        return self._state.next_sequence

    def __iter__(self) -> Iterator[LogEntry]:
        return chain.from_iterable(lsm.Steps(partial(block_of, self._next_block)))

    def __next__(self) -> LogEntry:
        while (block := self._next_block()) is not None:
            for entry in block:
                return entry
        raise StopIteration

    def fetchmany(self, count: int) -> list[LogEntry]:
        """What is there, up to `count` entries; waits until there is one. Empty at the end."""
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
        """Requires: the turn."""
        entries: list[LogEntry] = []
        at = self.next_sequence
        try:
            block = self._awaited_block() if count else None
            while block is not None:
                entries += islice(block, count - len(entries))
                block = self._state.rest() if len(entries) < count else None
        except BaseException:
            self._state.go_back(at)  # Nobody got what was taken before it.
            raise
        return entries

    def close(self) -> None:
        """Yield nothing more; a thread that waits in this follower stops waiting. `next_sequence` stays. Idempotent."""
        self._state.close(self._signal)

    def __enter__(self) -> LogFollower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
