"""The handle that writes a log, for asyncio programs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from datetime import timedelta
from typing import Any

import lsm
from opendata_log import builder, log_db
from opendata_log.aio.durable_watch import DurableWatch, Watermark
from opendata_log.aio.loops import give_way, outcome
from opendata_log.aio.reads import Reads
from opendata_log.aio.threads import Shared, Threads, quietly
from opendata_log.model.config import Config
from opendata_log.model.errors import (
    AppendError,
    AppendStorageError,
    AppendTimeoutError,
    ClosedError,
    Error,
    InvalidInputError,
    QueueFullError,
    StorageError,
    WouldBlock,
)
from opendata_log.model.options import timeout_seconds
from opendata_log.model.record import AppendOutput, BytesLike, RecordLike, SegmentId, Sequence, listed
from opendata_log.model.storage_config import Storage
from opendata_log.write.appends import not_durable_in_time

BATCH_MAX = 1024
"""Maximum records per batch that is appended on the loop, which takes some half a millisecond."""
ATTEMPTS = 16
"""Maximum attempts per append to take the log's lock on the loop; then a thread appends."""
APPEND_COST = 16
"""Fixed cost of a batch. The unit is the cost of appending one record."""


class LogDb(Reads):
    """A keyed log, open for appends and reads by any number of tasks, loops and threads. An async context manager.

    Every method has the arguments, the result and the errors of the same method of the blocking `opendata_log.LogDb`. No I/O
    runs on the loop. When a task is cancelled, a call that already runs in a thread goes on to its end.

    >>> import asyncio
    >>> async def main():
    ...     async with await LogDb.open(storage="memory://") as log:
    ...         print(await log.try_append([(b"orders", b"created"), (b"users", b"login"), (b"orders", b"paid")]))
    ...         print([(entry.sequence, entry.value) async for entry in log.scan(b"orders")])
    >>> asyncio.run(main())
    AppendOutput(start_sequence=0)
    [(0, b'created'), (2, b'paid')]
    """

    def __init__(self, log: log_db.LogDb, threads: Threads) -> None:
        """For `open` and `wrap`, which make the handle."""
        super().__init__(log, log.source, threads)
        self._log = log
        self._flush = Shared(threads, log.flush, "flush")
        self._turn = Shared(threads, log.appends.await_turn, "turn")
        self._watermark: Watermark | None = None
        self._closing: Future[None] | None = None
        self._lock = threads.lock()

    @classmethod
    async def open(cls, config: Config | Storage | None = None, **overrides: Any) -> LogDb:
        """As the blocking `open`. A cancelled call leaves nothing open."""
        return await LogDbBuilder(config, **overrides).build()

    @classmethod
    def wrap(cls, log: log_db.LogDb) -> LogDb:
        """An asyncio handle of a log that is already open. Both handles can be used; closing either one closes the log.

        Raises: InvalidInputError.
        """
        if not isinstance(log, log_db.LogDb):
            raise InvalidInputError(f"wrap takes an opendata_log.LogDb, got {type(log).__name__}")
        return cls(log, Threads())

    # -- appending ----------------------------------------------------------------------------------------------------

    async def try_append(self, records: Iterable[RecordLike]) -> AppendOutput:
        """As the blocking `try_append`. A batch of up to 1,024 records is appended on the loop, a larger one in a thread.

        Neither waits for the store. After a cancelled call, either the whole batch was appended or none of it.
        """
        batch = listed(records)
        if len(batch) <= BATCH_MAX:
            await give_way(len(batch) + APPEND_COST)
            attempts = 0
            while attempts < ATTEMPTS:
                try:
                    return self._log.appends.append_nowait(batch)
                except WouldBlock:
                    attempts += 1
                # A thread for each append would take the interpreter from the loop, so one thread waits for all of them.
                await self._turn.join()
                await give_way(APPEND_COST)
        return await self._threads.call(self._log.try_append, batch, lane="append")

    async def append_timeout(self, records: Iterable[RecordLike], timeout: float | timedelta | None) -> AppendOutput:
        """As the blocking `append_timeout`. After a cancelled call, either the whole batch was appended or none of it."""
        seconds = timeout_seconds(timeout)
        batch = listed(records)
        if not self._log.appends.is_slowed:
            with suppress(QueueFullError):
                return await self.try_append(batch)
        future = self._threads.submit(self._log.append_timeout, batch, seconds, lane="space")
        try:
            async with asyncio.timeout(seconds):
                return await outcome(future)
        except TimeoutError as error:
            if isinstance(error, AppendTimeoutError):
                raise
            if future.cancel():
                raise AppendTimeoutError(f"no space within {seconds} s", batch) from None
            return await outcome(future)  # The call has begun: it appends the batch, or reaches its own timeout.
        except asyncio.CancelledError:
            future.cancel()
            raise

    async def append(
        self,
        key: BytesLike,
        value: BytesLike,
        *,
        durable: bool = False,
        timeout: float | timedelta | None = None,
    ) -> AppendOutput:
        """As the blocking `append`. All tasks that wait for durability share one flush in one thread."""
        seconds = timeout_seconds(timeout)
        if seconds is None:
            seconds = self._log.appends.op_timeout
        clock = asyncio.get_running_loop().time
        begun = clock()
        output = await self.append_timeout([(key, value)], seconds)
        if durable:
            try:
                async with asyncio.timeout_at(begun + seconds):
                    await self._flush.join()
            except TimeoutError as error:
                raise not_durable_in_time(seconds) from error
            except (AppendError, ClosedError):
                raise
            except StorageError as error:
                raise AppendStorageError(
                    f"accepted, and not known to be durable: {error}", outcome_unknown=True
                ) from error
        return output

    async def flush(self) -> None:
        """As the blocking `flush`. Any number of tasks share one flush; a cancelled task does not cancel it."""
        await self._flush.join()

    @property
    def durable_sequence(self) -> Sequence:
        """The durable watermark, exclusive: every record with a lower sequence is durable. It advances by itself."""
        return self._log.durable_sequence

    def subscribe_durable(self) -> DurableWatch:
        """A watch that waits for the durable watermark to advance, for any number of tasks. Waiting takes no thread.

        Raises: ClosedError.
        """
        with self._lock:
            if self._watermark is None:
                self._watermark = Watermark(self._log.subscribe_durable())
            else:
                self._log.subscribe_durable()  # Raises ClosedError on a closed log.
            return DurableWatch(self._watermark)

    async def seal_segment(self) -> SegmentId:
        """As the blocking `seal_segment`."""
        return await self._threads.call(self._log.seal_segment)

    # -- operation ----------------------------------------------------------------------------------------------------

    async def status(self) -> lsm.Status:
        """As the blocking `status`."""
        return await self._threads.call(self._log.status)

    async def create_checkpoint(
        self, lifetime: float | timedelta | None = None, name: str | None = None
    ) -> lsm.Checkpoint:
        """As the blocking `create_checkpoint`."""
        return await self._threads.call(self._log.create_checkpoint, lifetime, name, lane="care")

    async def clone(
        self,
        destination: str,
        checkpoint: str | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
    ) -> lsm.Checkpoint:
        """As the blocking `clone`."""
        return await self._threads.call(
            lambda: self._log.clone(destination, checkpoint, storage_options=storage_options), lane="care"
        )

    async def wait_idle(self, timeout: float | timedelta | None = None) -> bool:
        """As the blocking `wait_idle`."""
        return await self._threads.call(self._log.wait_idle, timeout, lane="care")

    async def collect_garbage(
        self, *, dry_run: bool = False, min_age: float | timedelta | None = None
    ) -> list[lsm.Garbage]:
        """As the blocking `collect_garbage`."""
        return await self._threads.call(
            lambda: self._log.collect_garbage(dry_run=dry_run, min_age=min_age), lane="care"
        )

    async def close(self) -> None:
        """As the blocking `close`. Idempotent; after a retryable StorageError, another call tries again.

        A cancelled call goes on in its thread to the end; another call waits for that end.
        """
        with self._lock:
            if self._closing is None or _may_try_again(self._closing):
                self._closing = self._threads.submit(self._close, lane="close")
            closing = self._closing
        await outcome(closing)

    def _close(self) -> None:
        try:
            self._log.close()
        except Error as error:
            if not error.retryable:
                self._threads.stop()
            raise
        except BaseException:
            self._threads.stop()
            raise
        self._threads.stop()

    async def __aenter__(self) -> LogDb:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<aio {self._log!r}>"


def _may_try_again(closing: Future[None]) -> bool:
    """Whether a close has failed with an error after which another attempt can succeed."""
    if not closing.done() or closing.cancelled():
        return False
    error = closing.exception()
    return isinstance(error, Error) and error.retryable


class LogDbBuilder:
    """Opens a log with the caller's own components. Each `with_…` returns the builder; `await build()` opens the log.

    >>> import asyncio, lsm
    >>> async def main():
    ...     async with await LogDbBuilder("memory://").with_caches(lsm.Caches()).build() as log:
    ...         print(await log.append(b"orders", b"created"))
    >>> asyncio.run(main())
    AppendOutput(start_sequence=0)
    """

    def __init__(self, config: Config | Storage | None = None, **overrides: Any) -> None:
        self._builder = builder.LogDbBuilder(config, **overrides)

    def with_sst_block_size(self, size: int) -> LogDbBuilder:
        """Bytes of keys and values per block of a table, before compression. Raises: InvalidInputError."""
        self._builder.with_sst_block_size(size)
        return self

    def with_clock(self, clock: lsm.Clock) -> LogDbBuilder:
        """Use a wall clock of the caller: an object with `now_ms() -> int`, milliseconds since the epoch.

        The clock dates segments and entries; no safety rule depends on it. Raises: InvalidInputError.
        """
        self._builder.with_clock(clock)
        return self

    def with_object_store(self, store: Any) -> LogDbBuilder:
        """Keep the log in `store`: an fsspec file system, below the path of the configured URL; or an `lsm.ObjectStore`."""
        self._builder.with_object_store(store)
        return self

    def with_runtime(self, runtime: lsm.Runtime) -> LogDbBuilder:
        """Take the log's own threads, time and chance from `runtime`. It overrides `with_clock`. Raises: InvalidInputError."""
        self._builder.with_runtime(runtime)
        return self

    def with_compaction_executor(self, executor: Executor) -> LogDbBuilder:
        """Run compactions on any `concurrent.futures.Executor`. The caller shuts it down. Raises: InvalidInputError."""
        self._builder.with_compaction_executor(executor)
        return self

    def with_caches(self, caches: lsm.Caches) -> LogDbBuilder:
        """Share `caches` with other logs and readers of this process. They replace the storage's two cache sizes."""
        self._builder.with_caches(caches)
        return self

    async def build(self) -> LogDb:
        """Open the log. A cancelled call leaves nothing open. Raises: as `LogDb.open`."""
        threads = Threads()
        try:
            log = await threads.make(self._builder.build, lambda log: quietly(log.close))
        except BaseException:
            threads.stop()
            raise
        return LogDb(log, threads)
