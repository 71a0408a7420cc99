"""Write walk, after `write/intake`: one batch at a time gets its sequence number, goes into the log's buffer, then into memory.

The order is load-bearing. A batch is in the log's buffer before it is visible, and `bounds` move only when all of its rows
are in the memtable, so no read sees part of a batch. Everything here holds the one write lock for some microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from lsm.errors import Error, InvalidError, ReentrantError, UnavailableError, halfway, kept
from lsm.rows.chunk import total_length
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime
from lsm.view import Bounds, LiveViews
from lsm.wal.log import WriteAheadLog
from lsm.write.batch import WriteBatch, check_bytes
from lsm.write.pressure import DELAY_MAX, DELAY_MIN, Pressure, delay_of, pressure


class Writer:
    """The single writer of a database."""

    def __init__(
        self,
        runtime: Runtime,
        lock: Any,
        wal: WriteAheadLog,
        views: LiveViews,
        *,
        last_seq: int,
        wal_enabled: bool,
        memtable_bytes: int,
        unflushed_bytes_max: int,
        wal_objects_max: int,
        on_freeze: Callable[[], None],
        on_growth: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._lock = lock
        self._space = runtime.condition(lock)
        self._wal = wal
        self._wal_enabled = wal_enabled
        self._views = views
        self._active = views.current.memtables[0]
        self._frozen_bytes = sum(table.size for table in views.current.memtables[1:])
        self._memtable_bytes = memtable_bytes
        self._unflushed_bytes_max = unflushed_bytes_max
        self._on_freeze = on_freeze
        self._on_growth = on_growth
        self._wal_objects_max = wal_objects_max
        self._freeze_at_count = wal_objects_max
        # The size at which something is to be done: get a worker ready, later freeze.
        self._next_step = memtable_bytes // 4
        self._level0: tuple[int, int | None] = 0, None
        self._owed = 0.0
        self._numbers: dict[bytes, int] = {}
        self._keeps_arrivals = False
        self._poison: Error | None = None
        self._stopped: Error | None = None
        self.last_seq = last_seq

    # -- what reads may see -------------------------------------------------------------------------------------------

    def bounds(self) -> Bounds:
        """Everything accepted so far."""
        with self._lock:
            return Bounds(self.last_seq, self._numbers.copy())

    def series_bound(self, family: bytes) -> int:
        """Rows of the family with smaller numbers are accepted. Needs no lock: it moves when a batch is in memory whole."""
        return self._numbers.get(family, 0)

    def restore_numbers(self, numbers: dict[bytes, int]) -> None:
        """Families found in the log at recovery."""
        self._numbers.update(numbers)

    # -- writing ------------------------------------------------------------------------------------------------------

    @property
    def unflushed_bytes(self) -> int:
        """Bytes of accepted rows that are in no table yet, by the memtables' accounting."""
        return self._active.size + self._frozen_bytes

    def append_series(
        self, family: bytes, names: Sequence[bytes], first: int, values: Sequence[bytes], size: int
    ) -> int:
        """One batch of series rows; its sequence number. `size` is the total length of names and values.

        Requires: names and values are lists nobody changes afterwards; first is at least the family's next number.
        Raises: ClosedError, FencedError, UnavailableError; then nothing of the batch was accepted.
        """
        with self._lock:
            if self._poison is not None:
                raise kept(self._poison)
            if first < self._numbers.get(family, 0):
                raise InvalidError(f"number {first} of family {family!r} was given before: numbers only grow")
            self._check_not_inside((family,))
            if size < len(names):
                check_bytes(len(names), size)
            self._wal.raise_outage()
            self._wal.make_room(size)
            seq = self.last_seq + 1
            try:
                if self._wal_enabled:
                    self._wal.add_series(seq, family, names, first, values, size)
                self._active.append_series(seq, family, names, first, values, size)
                self._numbers[family] = first + len(names)
                self.last_seq = seq
                if self._wal_enabled:
                    self._wal.end_batch()
            except UnavailableError:
                raise  # By the log, which comes first: it took nothing.
            except BaseException as error:
                self._poison_with(error)
                raise
            if self._active.size >= self._next_step or self._wal.sealed_count >= self._freeze_at_count:
                self._step()
            return seq

    def write(self, batch: WriteBatch, *, in_outage: bool = False) -> int:
        """One batch; its sequence number. `in_outage`: accepted although the log cannot be written at present.
        Raises: as `append_series`."""
        keys, kinds, values = batch.columns()
        sizes = [total_length(part.names) + total_length(part.values) for part in batch.series]
        with self._lock:
            if self._poison is not None:
                raise kept(self._poison)
            for part in batch.series:
                if part.first < self._numbers.get(part.family, 0):
                    raise InvalidError(f"number {part.first} of family {part.family!r} was given before")
            for part, size in zip(batch.series, sizes, strict=True):
                check_bytes(len(part.names), size)
            self._check_not_inside([part.family for part in batch.series])
            if not in_outage:
                self._wal.raise_outage()
            self._wal.make_room(total_length(keys) + total_length(values) + sum(sizes))
            self._wal.encode_pending()
            seq = self.last_seq + 1
            try:
                self._apply(seq, keys, kinds, values, batch, sizes)
            except BaseException as error:
                self._poison_with(error)
                raise
            if self._active.size >= self._next_step or self._wal.sealed_count >= self._freeze_at_count:
                self._step()
            return seq

    def _apply(
        self,
        seq: int,
        keys: Sequence[bytes],
        kinds: Sequence[int],
        values: Sequence[bytes],
        batch: WriteBatch,
        sizes: Sequence[int],
    ) -> None:
        wal, active = self._wal, self._active
        if keys:
            if self._wal_enabled:
                wal.add_rows(seq, keys, kinds, values)
            active.put_rows(seq, keys, kinds, values, total_length(keys) + total_length(values))
        for part, size in zip(batch.series, sizes, strict=True):
            if self._wal_enabled:
                wal.add_series(seq, part.family, part.names, part.first, part.values, size)
            active.append_series(seq, part.family, part.names, part.first, part.values, size)
            self._numbers[part.family] = part.first + len(part.names)
        self.last_seq = seq
        if self._wal_enabled:
            wal.end_batch()

    def _check_not_inside(self, families: Sequence[bytes]) -> None:
        """A batch that a signal handler or a finalizer writes takes no lock in the middle that this thread has already: it
        would be applied in part. Raises: ReentrantError. Requires: the lock."""
        series = self._active.series
        for family in families:
            rows = series.get(family)
            if rows is not None and rows.lock.is_held_here():
                raise ReentrantError
        if self._views.lock.is_held_here():
            raise ReentrantError

    def _poison_with(self, error: BaseException) -> None:
        """An exception in the middle of a batch (KeyboardInterrupt, MemoryError) leaves it half applied in memory.
        The handle refuses everything from here on; what is durable is whole."""
        self._poison = halfway("a write", error)
        self._wal.fail(self._poison)

    def keep_arrivals(self) -> None:
        """Series rows in memory can be read in the order they came in, from now on."""
        with self._lock:
            self._keeps_arrivals = True
            self._active.keep_arrivals()

    # -- freezing -----------------------------------------------------------------------------------------------------

    def freeze(self) -> int:
        """Close the active memtable; the newest sequence number in frozen tables. Nothing to do on an empty one."""
        with self._lock:
            if not self._active.is_empty:
                self._freeze()
            return self.last_seq

    def seal(self) -> None:
        """Close the log's buffer into an object that a background thread uploads."""
        with self._lock:
            try:
                self._wal.seal()
            except BaseException as error:
                self._poison_with(error)
                raise

    def _step(self) -> None:
        if self._active.size >= self._memtable_bytes or self._wal.sealed_count >= self._freeze_at_count:
            with suppress(UnavailableError):  # The batch is accepted. The next one tries again.
                self._freeze()
        else:
            self._next_step = self._memtable_bytes
            self._on_growth()

    def _freeze(self) -> None:
        try:
            # The log is cut where the memtable is: each memtable is a whole number of log objects.
            self._wal.seal()
            self._freeze_at_count = self._wal.sealed_count + self._wal_objects_max
            self._frozen_bytes += self._active.size
            self._active = Memtable(self._runtime)
            if self._keeps_arrivals:
                self._active.keep_arrivals()
            self._views.push(self._active)
            self._on_freeze()
        except UnavailableError:
            raise  # By the log, which is not cut: nothing changed.
        except BaseException as error:
            self._poison_with(error)
            raise

    def release(self, table: Memtable) -> None:
        """A frozen table is in the manifest: its memory counts no more. Requires: not holding the lock."""
        with self._lock:
            self._frozen_bytes -= table.size
            self._space.notify_all()

    def wait_space(self, timeout: float | None) -> None:
        """Wait until less than `max_unflushed_bytes` are unflushed. Raises: UnavailableError after `timeout`."""
        deadline = None if timeout is None else self._runtime.monotonic() + timeout
        with self._lock:
            while self.unflushed_bytes >= self._unflushed_bytes_max:
                if self._poison is not None:
                    raise kept(self._poison)
                if not self._frozen_bytes:
                    self._freeze()
                wait = None if deadline is None else deadline - self._runtime.monotonic()
                if wait is not None and wait <= 0:
                    raise UnavailableError(
                        f"{self.unflushed_bytes} bytes are not flushed yet (max_unflushed_bytes is "
                        f"{self._unflushed_bytes_max}) and none became free within {timeout} s"
                    )
                self._space.wait(wait)

    def set_level0(self, tables: int, limit: int | None) -> None:
        """How full the fullest level 0 is, and at how many tables flushes wait; None: never."""
        self._level0 = tables, limit

    @property
    def pressure(self) -> Pressure:
        """How much writers that may wait are slowed at this moment."""
        tables, limit = self._level0
        return pressure(
            l0=tables, l0_max=limit, unflushed=self.unflushed_bytes, unflushed_max=self._unflushed_bytes_max
        )

    def slow_down(self, size: int, timeout: float | None) -> None:
        """Wait as long as a batch of that size should at this pressure, at most `timeout`. Requires: holding no lock."""
        found = self.pressure
        if not found.seconds_per_mib:
            return
        self._owed += delay_of(size, found)  # Threads that race here owe a little less: it is a brake, not an account.
        if self._owed >= DELAY_MIN:
            wait, self._owed = self._owed, 0.0
            self._runtime.sleep(min(wait, DELAY_MAX if timeout is None else timeout))

    @property
    def has_space(self) -> bool:
        return self.unflushed_bytes < self._unflushed_bytes_max

    # -- the end ------------------------------------------------------------------------------------------------------

    def fail(self, error: Error) -> None:
        """Refuse all further work with `error`; the first cause wins. Requires: not holding the lock."""
        with self._lock:
            if self._poison is None or self._poison is self._stopped:
                self._poison = error
            self._wal.fail(self._poison)
            self._space.notify_all()

    def stop(self, error: Error) -> None:
        """Refuse new batches with `error` while what was accepted is flushed. Requires: not holding the lock."""
        with self._lock:
            if self._poison is None:
                self._poison = self._stopped = error
            self._space.notify_all()

    @property
    def poison(self) -> Error | None:
        """Why this handle can do nothing any more; None while it can, if only to flush."""
        poison = self._poison
        return self._wal.fatal if poison is None or poison is self._stopped else poison
