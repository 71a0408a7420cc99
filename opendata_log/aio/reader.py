"""The read-only handle of a log that another process may be writing, for asyncio programs."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import lsm
from opendata_log import reader
from opendata_log.aio.loops import outcome
from opendata_log.aio.reads import Reads
from opendata_log.aio.threads import Shared, Threads, quietly
from opendata_log.model.config import ReaderConfig
from opendata_log.model.errors import InvalidInputError
from opendata_log.model.storage_config import Storage


class LogDbReader(Reads):
    """A keyed log, open for reads only, by any number of tasks, loops and threads. An async context manager.

    Every method has the arguments, the result and the errors of the same method of the blocking `opendata_log.LogDbReader`.
    No I/O runs on the loop.

    >>> import asyncio
    >>> from opendata_log import LogDb
    >>> async def main():
    ...     async with await LogDbReader.open("memory://aio-reader-example") as reader:
    ...         print([entry.value async for entry in reader.scan(b"orders")])
    >>> with LogDb.open("memory://aio-reader-example") as log:
    ...     _ = log.append(b"orders", b"created", durable=True)
    ...     asyncio.run(main())
    [b'created']
    """

    def __init__(self, log: reader.LogDbReader, threads: Threads) -> None:
        """For `open` and `wrap`, which make the handle."""
        super().__init__(log, log.source, threads)
        self._log = log
        self._refresh = Shared(threads, log.refresh, "flush")
        self._closing: Future[None] | None = None
        self._lock = threads.lock()

    @classmethod
    async def open(cls, config: ReaderConfig | Storage | None = None, **overrides: Any) -> LogDbReader:
        """As the blocking `open`. A cancelled call leaves nothing open."""
        threads = Threads()
        try:
            log = await threads.make(
                lambda: reader.LogDbReader.open(config, **overrides), lambda log: quietly(log.close)
            )
        except BaseException:
            threads.stop()
            raise
        return cls(log, threads)

    @classmethod
    def wrap(cls, log: reader.LogDbReader) -> LogDbReader:
        """An asyncio handle of a reader that is already open. Both handles can be used; closing either one closes the reader.

        Raises: InvalidInputError.
        """
        if not isinstance(log, reader.LogDbReader):
            raise InvalidInputError(f"wrap takes an opendata_log.LogDbReader, got {type(log).__name__}")
        return cls(log, Threads())

    async def refresh(self) -> None:
        """As the blocking `refresh`. Any number of tasks share one poll; a cancelled task does not cancel it."""
        await self._refresh.join()

    async def status(self) -> lsm.ReaderStatus:
        """As the blocking `status`."""
        return await self._threads.call(self._log.status)

    async def close(self) -> None:
        """As the blocking `close`. Idempotent. A cancelled call goes on in its thread to the end."""
        with self._lock:
            if self._closing is None:
                self._closing = self._threads.submit(self._close, lane="close")
            closing = self._closing
        await outcome(closing)

    def _close(self) -> None:
        try:
            self._log.close()
        finally:
            self._threads.stop()

    async def __aenter__(self) -> LogDbReader:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<aio {self._log!r}>"
