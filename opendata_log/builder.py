"""The builder that opens a log with the caller's own components."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import lsm
from opendata_log.log_db import LogDb
from opendata_log.model.config import Config, config_of
from opendata_log.model.errors import InvalidInputError
from opendata_log.model.storage_config import Storage
from opendata_log.write.sequence import BLOCK_MIN


class LogDbBuilder:
    """Opens a log with the caller's own components. Each `with_…` returns the builder; `build` opens the log.

    >>> import lsm
    >>> with LogDbBuilder("memory://").with_caches(lsm.Caches()).build() as log:
    ...     log.append(b"orders", b"created")
    AppendOutput(start_sequence=0)
    """

    def __init__(self, config: Config | Storage | None = None, **overrides: Any) -> None:
        """`config`: a `Config`, or the URL or path of the log; `None`: the default `Config()`. `overrides` replace its
        fields. Raises: InvalidInputError."""
        self._config = config_of(Config, config, overrides)
        self._clock: lsm.Clock | None = None
        self._file_system: Any = None
        self._object_store: lsm.ObjectStore | None = None
        self._runtime: lsm.Runtime | None = None
        self._compaction_executor: Executor | None = None
        self.sequence_block = BLOCK_MIN
        """Minimum sequences per reserved block. Tests set it low, so that blocks run out."""

    def with_sst_block_size(self, size: int) -> LogDbBuilder:
        """Bytes of keys and values per block of a table, before compression. Raises: InvalidInputError."""
        self._config = replace(self._config, sst_block_size=size)
        return self

    def with_clock(self, clock: lsm.Clock) -> LogDbBuilder:
        """Use a wall clock of the caller: an object with `now_ms() -> int`, milliseconds since the epoch.

        The clock dates segments and entries; no safety rule depends on it. Raises: InvalidInputError.
        """
        if not callable(getattr(clock, "now_ms", None)):
            raise InvalidInputError(f"a clock needs a method now_ms(), {type(clock).__name__} has none")
        self._clock = clock
        return self

    def with_object_store(self, store: Any) -> LogDbBuilder:
        """Keep the log in `store`: an fsspec file system, below the path of the configured URL; or an `lsm.ObjectStore`, as
        it is."""
        if isinstance(store, lsm.ObjectStore):
            self._object_store = store
        else:
            self._file_system = store
        return self

    def with_runtime(self, runtime: lsm.Runtime) -> LogDbBuilder:
        """Take threads, time and chance from `runtime`, such as a simulation's (`lsm.testing`). It overrides `with_clock`.

        Raises: InvalidInputError.
        """
        if not isinstance(runtime, lsm.Runtime):
            raise InvalidInputError(f"runtime must be an lsm.Runtime, got {type(runtime).__name__}")
        self._runtime = runtime
        return self

    def with_caches(self, caches: lsm.Caches) -> LogDbBuilder:
        """Share `caches` with other logs and readers of this process. They replace the storage's two cache sizes."""
        storage = replace(self._config.storage_config, caches=caches, block_cache_bytes=None, meta_cache_bytes=None)
        self._config = replace(self._config, storage=storage)
        return self

    def with_compaction_executor(self, executor: Executor) -> LogDbBuilder:
        """Run compactions on any `concurrent.futures.Executor`, such as a dask client's, instead of in worker processes here.

        The executor's workers need this package and access to the store. The caller shuts the executor down.
        Raises: InvalidInputError.
        """
        if not callable(getattr(executor, "submit", None)):
            raise InvalidInputError(f"an executor needs a method submit(), {type(executor).__name__} has none")
        self._compaction_executor = executor
        return self

    def build(self) -> LogDb:
        """Open the log. Raises: as `LogDb.open`."""
        return LogDb(
            self._config,
            clock=self._clock,
            file_system=self._file_system,
            object_store=self._object_store,
            runtime=self._runtime,
            compaction_executor=self._compaction_executor,
            sequence_block=self.sequence_block,
        )
