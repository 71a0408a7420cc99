"""A log with components of one's own."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import lsm
from opendata_log.log_db import LogDb
from opendata_log.model.config import Config, config_of
from opendata_log.model.errors import InvalidInputError
from opendata_log.model.storage import Storage
from opendata_log.write.sequence import BLOCK_MIN


class LogDbBuilder:
    """A log with components of one's own: each `with_…` returns the builder, `build` opens."""

    def __init__(self, config: Config | Storage | None = None, **overrides: Any) -> None:
        """`config`: a `Config`, or a URL or path. `overrides` replace its fields."""
        self._config = config_of(Config, config, overrides)
        self._clock: lsm.Clock | None = None
        self._file_system: Any = None
        self._object_store: lsm.ObjectStore | None = None
        self._runtime: lsm.Runtime | None = None
        self._compaction_executor: Executor | None = None
        self.sequence_block = BLOCK_MIN
        """Sequences reserved at a time, at least. For tests: small ones run out."""

    def with_sst_block_size(self, size: int) -> LogDbBuilder:
        """Bytes of keys and values in a block of a table."""
        self._config = replace(self._config, sst_block_size=size)
        return self

    def with_clock(self, clock: lsm.Clock) -> LogDbBuilder:
        """A wall clock: an object with `now_ms() -> int`. It dates segments; it protects nothing."""
        if not callable(getattr(clock, "now_ms", None)):
            raise InvalidInputError(f"a clock needs a method now_ms(), {type(clock).__name__} has none")
        self._clock = clock
        return self

    def with_object_store(self, store: Any) -> LogDbBuilder:
        """An fsspec file system to keep the log in, below the path of the configured URL; or an `lsm.ObjectStore`, which
        is used as it is."""
        if isinstance(store, lsm.ObjectStore):
            self._object_store = store
        else:
            self._file_system = store
        return self

    def with_runtime(self, runtime: lsm.Runtime) -> LogDbBuilder:
        """Where threads, time and chance come from, such as a simulation's (`lsm.testing`). Goes before `with_clock`."""
        if not isinstance(runtime, lsm.Runtime):
            raise InvalidInputError(f"runtime must be an lsm.Runtime, got {type(runtime).__name__}")
        self._runtime = runtime
        return self

    def with_caches(self, caches: lsm.Caches) -> LogDbBuilder:
        """Memory for what is read of tables, shared with other logs and readers; instead of sizes in the storage's settings."""
        storage = replace(self._config.storage_config, caches=caches, block_cache_bytes=None, meta_cache_bytes=None)
        self._config = replace(self._config, storage=storage)
        return self

    def with_compaction_executor(self, executor: Executor) -> LogDbBuilder:
        """Run compactions on any `concurrent.futures.Executor`, such as a dask client's, instead of worker processes of this
        machine. Its workers need this package and access to the store. It is the caller's to shut down."""
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
