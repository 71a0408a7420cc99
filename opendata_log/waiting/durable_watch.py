"""Threads wait for the durable watermark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import lsm
from opendata_log.model.errors import ClosedError, InvalidInputError, translate
from opendata_log.model.options import timeout_seconds
from opendata_log.model.record import Sequence
from opendata_log.waiting.wakeups import Sleeper, Wakeups


class DurableWatch:
    """Waits for the durable watermark to advance. Waiting causes no request.

    Any number of watches can be used, from any thread. Iterating yields the watermark after each advance.

    >>> from opendata_log import LogDb
    >>> with LogDb.open("memory://") as log:
    ...     output = log.append(b"orders", b"created")
    ...     log.subscribe_durable().wait(output.start_sequence, timeout=60)
    1
    """

    def __init__(
        self,
        value: Callable[[], Sequence],
        wait_beyond: Callable[[int, float | None], int],
        db: lsm.Db,
        clock: lsm.Runtime,
        wakeups: Wakeups,
    ) -> None:
        self._value = value
        self._wait_beyond = wait_beyond
        self._db = db
        self._clock = clock
        self._wakeups = wakeups

    @property
    def value(self) -> Sequence:
        """The watermark now: every record with a lower sequence is durable."""
        return self._value()

    def wait(self, beyond: Sequence, timeout: float | timedelta | None = None) -> Sequence:
        """Wait until the watermark is greater than `beyond`, and return it.

        So `wait(sequence)` returns when the record with that sequence is durable. `timeout` `None`: no limit.
        Raises: TimeoutError after `timeout` seconds; ClosedError when the log is closed; InvalidInputError, StorageError.
        """
        if isinstance(beyond, bool) or not isinstance(beyond, int):
            raise InvalidInputError(f"beyond must be a sequence, got {beyond!r}")
        seconds = timeout_seconds(timeout)
        deadline = None if seconds is None else self._clock.monotonic() + seconds
        while True:
            seen = self._db.durable_seq
            value = self._value()
            if value > beyond:
                return value
            left = None if deadline is None else max(0.0, deadline - self._clock.monotonic())
            try:
                self._wait_beyond(seen, left)
            except TimeoutError:
                raise TimeoutError(f"the durable sequence did not pass {beyond} within {seconds} s") from None
            except lsm.Error as error:
                raise translate(error) from error

    def attach(self, sleeper: Sleeper) -> None:
        """Wake `sleeper` whenever the watermark may have advanced, and when the log is closed or has failed, as long as it is
        referenced. For waiters that block no thread: they read `value`, then call `check`."""
        self._wakeups.add(None, sleeper)

    def check(self) -> None:
        """Raise the error that keeps the watermark from ever advancing again. Raises: ClosedError, StorageError."""
        try:
            self._db.check()
        except lsm.Error as error:
            raise translate(error) from error

    def __iter__(self) -> Iterator[Sequence]:
        """Yield the watermark after each advance; end when the log is closed."""
        seen = self.value
        while True:
            try:
                seen = self.wait(seen)
            except ClosedError:
                return
            yield seen
