"""Write walk, after `db`: one batch at a time gets its sequence number and goes into the log buffer, then memory.

The order must not change. A batch is in the log's buffer before reads see it. `bounds` move only when all rows of the batch are
in the memtable, so no read sees part of a batch. Each write holds the write lock for some microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from lsm.errors import Error, InvalidError, ReentrantError, UnavailableError, halfway, kept
from lsm.rows.chunk import total_length
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime
from lsm.view import Bounds, LiveViews
from lsm.wal.log import WriteAheadLog
from lsm.write.batch import WriteBatch, check_bytes
from lsm.write.pressure import DELAY_MAX, Debt, Pressure, pressure


class WriteLimits(msgspec.Struct, frozen=True):
    """When a memtable is frozen, and when further batches have to wait for space."""

    memtable_bytes: int
    """Size at which a memtable is frozen."""
    wal_objects_max: int
    """Maximum log objects per memtable."""
    unflushed_bytes_max: int
    """Size of all memtables at which further batches wait for space."""


class Writer:
    """The writer of a database. Methods that end in `_locked` require the write lock; the others require not holding it."""

    def __init__(
        self,
        runtime: Runtime,
        lock: Any,
        wal: WriteAheadLog,
        views: LiveViews,
        *,
        last_seq: int,
        wal_enabled: bool,
        limits: WriteLimits,
        on_freeze: Callable[[], None],
        on_growth: Callable[[], None],
    ) -> None:
        """`on_freeze`: called under the write lock when a memtable was frozen. `on_growth`: called under the write lock when
        the memtable reaches a quarter of the size at which it is frozen."""
        self._runtime = runtime
        self._lock = lock
        """The write lock."""
        self._space_cv = runtime.condition(lock)
        """Notified when a memtable is released, and when the handle fails or stops."""
        self._wal = wal
        self._wal_enabled = wal_enabled
        self._views = views
        self._limits = limits
        self._on_freeze = on_freeze
        self._on_growth = on_growth
        # Guarded by the write lock:
        self._freeze_at_count = limits.wal_objects_max
        """Number of sealed log objects at which the memtable is frozen."""
        self._next_step = limits.memtable_bytes // 4
        """Memtable size at which `_step_locked` acts next: `on_growth` first, then the freeze."""
        self._keeps_arrivals = False
        self._stopped: Error | None = None
        """Why new batches are refused while accepted batches are flushed."""
        # Changed under the write lock, read without:
        self._active = views.current.memtables[0]
        self._frozen_bytes = sum(table.size for table in views.current.memtables[1:])
        self._positions: dict[bytes, int] = {}
        """Next row number by series family."""
        self._poison: Error | None = None
        self.last_seq = last_seq
        # Not guarded, because a stale value does no harm.
        self._level0: tuple[int, int | None] = 0, None
        self._debt = Debt()

    # -- what reads may see -------------------------------------------------------------------------------------------

    def bounds(self) -> Bounds:
        """Return bounds that show every accepted batch."""
        with self._lock:
            return Bounds(self.last_seq, self._positions.copy())

    def series_bound(self, family: bytes) -> int:
        """Return the family's bound: rows with smaller numbers are accepted. It is raised after the rows are in place,
        so it is read without the lock."""
        return self._positions.get(family, 0)

    def restore_positions(self, positions: dict[bytes, int]) -> None:
        """Set the next numbers of the families that recovery found."""
        self._positions.update(positions)

    # -- writing ------------------------------------------------------------------------------------------------------

    @property
    def unflushed_bytes(self) -> int:
        """Bytes of accepted rows that are in no table yet, as the memtables count them."""
        return self._active.size + self._frozen_bytes

    def append_series(
        self, family: bytes, names: Sequence[bytes], first: int, values: Sequence[bytes], size: int
    ) -> int:
        """Append one batch of series rows and return its sequence number. `size`: total length of names and values.

        Requires: names and values are lists that are not changed afterwards; first is at least the family's next number.
        Raises: ClosedError, FencedError, UnavailableError; then no row of the batch was accepted.
        """
        with self._lock:
            if self._poison is not None:
                raise kept(self._poison)
            if first < self._positions.get(family, 0):
                raise InvalidError(f"number {first} of family {family!r} was given before: numbers only grow")
            self._check_not_inside_locked((family,))
            if size < len(names):
                check_bytes(len(names), size)
            self._wal.raise_outage_locked()
            self._wal.make_room_locked(size)
            seq = self.last_seq + 1
            try:
                if self._wal_enabled:
                    self._wal.add_series_locked(seq, family, names, first, values, size)
                self._active.append_series(seq, family, names, first, values, size)
                self._positions[family] = first + len(names)
                self.last_seq = seq
                if self._wal_enabled:
                    self._wal.end_batch_locked()
            except UnavailableError:
                raise  # Only the log raises this. The log is called first and did not take the batch.
            except BaseException as error:
                self._poison_with_locked(error)
                raise
            if self._active.size >= self._next_step or self._wal.sealed_count >= self._freeze_at_count:
                self._step_locked()
            return seq

    def write(self, batch: WriteBatch, *, in_outage: bool = False) -> int:
        """Write one batch and return its sequence number. `in_outage`: accept it even if the log cannot be written at present.
        Raises: as `append_series`."""
        keys, kinds, values = batch.columns()
        sizes = [total_length(part.names) + total_length(part.values) for part in batch.series]
        with self._lock:
            if self._poison is not None:
                raise kept(self._poison)
            for part in batch.series:
                if part.first < self._positions.get(part.family, 0):
                    raise InvalidError(f"number {part.first} of family {part.family!r} was given before")
            for part, size in zip(batch.series, sizes, strict=True):
                check_bytes(len(part.names), size)
            self._check_not_inside_locked([part.family for part in batch.series])
            if not in_outage:
                self._wal.raise_outage_locked()
            self._wal.make_room_locked(total_length(keys) + total_length(values) + sum(sizes))
            self._wal.encode_pending_locked()
            seq = self.last_seq + 1
            try:
                self._apply_locked(seq, keys, kinds, values, batch, sizes)
            except BaseException as error:
                self._poison_with_locked(error)
                raise
            if self._active.size >= self._next_step or self._wal.sealed_count >= self._freeze_at_count:
                self._step_locked()
            return seq

    def _apply_locked(
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
                wal.add_rows_locked(seq, keys, kinds, values)
            active.put_rows(seq, keys, kinds, values, total_length(keys) + total_length(values))
        for part, size in zip(batch.series, sizes, strict=True):
            if self._wal_enabled:
                wal.add_series_locked(seq, part.family, part.names, part.first, part.values, size)
            active.append_series(seq, part.family, part.names, part.first, part.values, size)
            self._positions[part.family] = part.first + len(part.names)
        self.last_seq = seq
        if self._wal_enabled:
            wal.end_batch_locked()

    def _check_not_inside_locked(self, families: Sequence[bytes]) -> None:
        """Refuse a batch from a signal handler or finalizer if this thread already holds a lock that the batch needs later:
        it would be applied in part. Raises: ReentrantError."""
        series = self._active.series
        for family in families:
            rows = series.get(family)
            if rows is not None and rows.lock.is_held_here():
                raise ReentrantError
        if self._views.lock.is_held_here():
            raise ReentrantError

    def _poison_with_locked(self, error: BaseException) -> None:
        """Refuse all further work, because an exception (KeyboardInterrupt, MemoryError) left a batch half applied in memory.
        Durable batches are whole."""
        self._poison = halfway("a write", error)
        self._wal.fail_locked(self._poison)

    def keep_arrivals(self) -> None:
        """From now on, also keep series rows in memory in the order of their arrival."""
        with self._lock:
            self._keeps_arrivals = True
            self._active.keep_arrivals()

    # -- freezing -----------------------------------------------------------------------------------------------------

    def freeze(self) -> int:
        """Freeze the active memtable unless it is empty; return the newest sequence number in frozen memtables."""
        with self._lock:
            if not self._active.is_empty:
                self._freeze_locked()
            return self.last_seq

    def seal(self) -> None:
        """Seal the log's buffer into an object, which a background thread uploads."""
        with self._lock:
            try:
                self._wal.seal_locked()
            except BaseException as error:
                self._poison_with_locked(error)
                raise

    def _step_locked(self) -> None:
        if self._active.size >= self._limits.memtable_bytes or self._wal.sealed_count >= self._freeze_at_count:
            with suppress(UnavailableError):  # The batch is accepted; the next one tries to freeze again.
                self._freeze_locked()
        else:
            self._next_step = self._limits.memtable_bytes
            self._on_growth()

    def _freeze_locked(self) -> None:
        try:
            # Cut the log here, so that each memtable is a whole number of log objects.
            self._wal.seal_locked()
            self._freeze_at_count = self._wal.sealed_count + self._limits.wal_objects_max
            self._frozen_bytes += self._active.size
            self._active = Memtable(self._runtime)
            if self._keeps_arrivals:
                self._active.keep_arrivals()
            self._views.push(self._active)
            self._on_freeze()
        except UnavailableError:
            raise  # Only the log raises this; it is not cut, so nothing changed.
        except BaseException as error:
            self._poison_with_locked(error)
            raise

    def release(self, table: Memtable) -> None:
        """Stop counting a memtable whose tables are in the manifest. If the log is disabled, its batches are durable now."""
        with self._lock:
            self._frozen_bytes -= table.size
            if not self._wal_enabled:
                self._wal.mark_durable_locked(table.last_seq)
            self._space_cv.notify_all()

    def wait_space(self, timeout: float | None) -> None:
        """Wait until fewer than `max_unflushed_bytes` bytes are unflushed. Raises: UnavailableError after `timeout`."""
        deadline = None if timeout is None else self._runtime.monotonic() + timeout
        with self._lock:
            while self.unflushed_bytes >= self._limits.unflushed_bytes_max:
                if self._poison is not None:
                    raise kept(self._poison)
                if not self._frozen_bytes:
                    self._freeze_locked()
                wait = None if deadline is None else deadline - self._runtime.monotonic()
                if wait is not None and wait <= 0:
                    raise UnavailableError(
                        f"{self.unflushed_bytes} bytes are not flushed yet (max_unflushed_bytes is "
                        f"{self._limits.unflushed_bytes_max}) and none became free within {timeout} s"
                    )
                self._space_cv.wait(wait)

    def set_level0(self, tables: int, limit: int | None) -> None:
        """Set the number of tables in the fullest level 0, and the number at which flushes wait (`None`: unlimited)."""
        self._level0 = tables, limit

    @property
    def pressure(self) -> Pressure:
        """The current delay of writers that may wait."""
        tables, limit = self._level0
        return pressure(
            l0=tables, l0_max=limit, unflushed=self.unflushed_bytes, unflushed_max=self._limits.unflushed_bytes_max
        )

    def slow_down(self, size: int, timeout: float | None) -> None:
        """Sleep as long as the pressure asks of a batch of `size` bytes, at most `timeout`. Requires: holding no lock."""
        found = self.pressure
        if not found.seconds_per_mib:
            return
        due = self._debt.due(size, found)
        if due:
            self._runtime.sleep(min(due, DELAY_MAX if timeout is None else timeout))

    @property
    def has_space(self) -> bool:
        return self.unflushed_bytes < self._limits.unflushed_bytes_max

    # -- the end ------------------------------------------------------------------------------------------------------

    def fail(self, error: Error) -> None:
        """Refuse all further work with `error`. If the handle has failed already, the first error stays."""
        with self._lock:
            if self._poison is None or self._poison is self._stopped:
                self._poison = error
            self._wal.fail_locked(self._poison)
            self._space_cv.notify_all()

    def stop(self, error: Error) -> None:
        """Refuse new batches with `error`; accepted batches are still flushed."""
        with self._lock:
            if self._poison is None:
                self._poison = self._stopped = error
            self._space_cv.notify_all()

    @property
    def poison(self) -> Error | None:
        """Why this handle has failed; `None` while it can write, or at least flush."""
        poison = self._poison
        return self._wal.fatal if poison is None or poison is self._stopped else poison
