"""Every setting of the log, as frozen values that are checked once, when they are made.

Durations are seconds or a timedelta, and are kept as float. Sizes are bytes. A mapping is accepted for a nested
configuration, so plain dicts, files and keyword arguments are handled alike.

Source: opendata log/src/config.rs at 5f5c2882, its names and defaults. Different on purpose: storage is named by a
URL, a seal interval or limit of zero is refused, and files give durations in seconds instead of milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import lsm
from lsm import Caches, InvalidError, Settings
from opendata_log.model.config_fields import (
    check_duration,
    check_flag,
    check_integer,
    check_interval,
    check_names,
    check_nested,
    from_mapping,
    milliseconds,
    read_file,
    refusal,
    set_field,
)
from opendata_log.model.errors import InvalidInputError
from opendata_log.model.storage_config import (
    CACHE_SETTINGS,
    MEMORY_SETTINGS,
    MIB,
    Storage,
    StorageConfig,
    check_caches,
    check_storage,
)


class ReadVisibility(Enum):
    """Which records the reads of a `LogDb` see: all appended ones, or only durable ones."""

    MEMORY = "memory"
    """Reads see a record once it is appended."""
    REMOTE = "remote"
    """Reads see a record once it is durable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """When the active segment is sealed: at the first limit that is reached, checked before a batch.

    Without any limit, only `seal_segment()` seals. Raises: InvalidInputError where a value is invalid.
    """

    seal_interval: float | None = None
    """Maximum seconds from the segment's first append to its seal. `None` disables this limit."""
    seal_byte_limit: int | None = None
    """Bytes of keys and values in a segment that trigger its seal. `None` disables this limit.

    The limit is soft: the batch that reaches it is not split, and the count starts at 0 after a reopen."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            seal_interval: float | timedelta | None = ...,
            seal_byte_limit: int | None = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        check_duration(self, "seal_interval", optional=True)
        check_integer(self, "seal_byte_limit", low=1, optional=True)

    @property
    def seal_interval_ms(self) -> int | None:
        """The interval in whole milliseconds, at least one."""
        return milliseconds(self.seal_interval)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionConfig:
    """How long a sealed segment is kept. Raises: InvalidInputError where a value is invalid."""

    retention: float | None = None
    """Seconds that a sealed segment is kept after the start of its successor. `None`: unlimited, nothing expires."""
    check_interval: float = 60.0
    """Seconds between two checks for expired segments."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            retention: float | timedelta | None = ...,
            check_interval: float | timedelta = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        check_duration(self, "retention", optional=True)
        check_interval(self, "check_interval")

    @property
    def retention_ms(self) -> int | None:
        """The retention in whole milliseconds, at least one."""
        return milliseconds(self.retention)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogCompactionOptions:
    """How the tables of a segment are merged. Raises: InvalidInputError where a value is invalid."""

    min_l0_per_compaction: int = 4
    """Level-0 tables of the active segment that trigger their move into sorted runs."""
    max_l0_per_compaction: int = 8
    """Maximum level-0 tables per merge into one run. Used with `l0_only`."""
    l0_only: bool = False
    """Merge level-0 tables a few at a time, and skip the final pass that rewrites a sealed segment into one run."""

    def __post_init__(self) -> None:
        check_integer(self, "min_l0_per_compaction", low=1)
        check_integer(self, "max_l0_per_compaction", low=1)
        check_flag(self, "l0_only")
        if self.min_l0_per_compaction > self.max_l0_per_compaction:
            raise InvalidInputError(
                f"LogCompactionOptions: min_l0_per_compaction ({self.min_l0_per_compaction}) must not exceed "
                f"max_l0_per_compaction ({self.max_l0_per_compaction})"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The configuration of a `LogDb`.

    >>> config = Config(storage="memory://", segmentation={"seal_interval": 3600}, retention={"retention": 86_400})
    >>> config.retention.retention
    86400.0

    Raises: InvalidInputError where a value is invalid, or where `retention.retention` is shorter than
    `segmentation.seal_interval` or that interval is None: only sealed segments expire.
    """

    storage: str | StorageConfig = "file://.data/log"
    """The place of the log: an fsspec URL, a local path, or a StorageConfig."""
    segmentation: SegmentConfig = field(default_factory=SegmentConfig)
    """When segments are sealed."""
    read_visibility: ReadVisibility = ReadVisibility.MEMORY
    """Which records reads see."""
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    """How long segments are kept."""
    compaction: LogCompactionOptions = field(default_factory=LogCompactionOptions)
    """How tables are merged."""
    sst_block_size: int | None = None
    """Bytes of keys and values per block of a table, before compression. `None`: inherits the engine's setting."""
    engine: Settings | None = None
    """Settings of the engine. `None`: the engine's defaults."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            storage: str | PurePath | StorageConfig | Mapping[str, Any] = ...,
            segmentation: SegmentConfig | Mapping[str, Any] = ...,
            read_visibility: ReadVisibility | Literal["memory", "remote"] = ...,
            retention: RetentionConfig | Mapping[str, Any] = ...,
            compaction: LogCompactionOptions | Mapping[str, Any] = ...,
            sst_block_size: int | None = ...,
            engine: Settings | Mapping[str, Any] | None = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        check_storage(self)
        check_nested(self, "segmentation", SegmentConfig)
        check_nested(self, "retention", RetentionConfig)
        check_nested(self, "compaction", LogCompactionOptions)
        _visibility(self)
        check_integer(self, "sst_block_size", low=64, high=16 * MIB, optional=True)
        _engine(self)
        kept, sealed = self.retention.retention, self.segmentation.seal_interval
        if kept is not None and (sealed is None or kept < sealed):
            raise InvalidInputError(
                f"Config: retention.retention ({kept} s) needs a segmentation.seal_interval that is no longer, "
                f"got {sealed!r}: only sealed segments expire"
            )

    @property
    def storage_config(self) -> StorageConfig:
        """`storage` as a StorageConfig."""
        return self.storage if isinstance(self.storage, StorageConfig) else StorageConfig(url=self.storage)

    def with_overrides(self, **overrides: Any) -> Config:
        """This configuration with some fields replaced. Raises: InvalidInputError for a name it does not have."""
        check_names(Config, overrides)
        return replace(self, **overrides)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """A configuration from names and values, with mappings for nested configurations. Raises: InvalidInputError."""
        return from_mapping(cls, values)

    @classmethod
    def from_file(cls, path: str | PurePath) -> Config:
        """A configuration from a TOML or JSON file, or YAML where PyYAML is installed. Raises: InvalidInputError."""
        return from_mapping(cls, read_file(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderConfig:
    """The configuration of a `LogDbReader`. Raises: InvalidInputError where a value is invalid.

    A cache field that is `None` inherits the storage's value, then the engine's setting.
    """

    storage: str | StorageConfig = "file://.data/log"
    """The place of the log: an fsspec URL, a local path, or a StorageConfig."""
    refresh_interval: float = 1.0
    """Maximum seconds between two polls for new records. After a poll that found some, the next ones come sooner."""
    checkpoint: str | None = None
    """Id of the checkpoint to read. `None`: the reader follows the newest records."""
    block_cache_bytes: int | None = None
    """Maximum bytes of memory for decoded blocks. `None`: inherits."""
    meta_cache_bytes: int | None = None
    """Maximum bytes of memory for indexes and filters. `None`: inherits."""
    caches: Caches | None = None
    """Caches shared with other logs and readers of this process, instead of the two sizes. `None`: inherits."""
    disk_cache_dir: str | None = None
    """Local directory that caches parts of tables. `None`: inherits."""
    disk_cache_bytes: int | None = None
    """Maximum bytes in the directory. `None`: inherits."""
    engine: Settings | None = None
    """Settings of the engine. `None`: the engine's defaults."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            storage: str | PurePath | StorageConfig | Mapping[str, Any] = ...,
            refresh_interval: float | timedelta = ...,
            checkpoint: str | None = ...,
            block_cache_bytes: int | None = ...,
            meta_cache_bytes: int | None = ...,
            caches: Caches | None = ...,
            disk_cache_dir: str | PurePath | None = ...,
            disk_cache_bytes: int | None = ...,
            engine: Settings | Mapping[str, Any] | None = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        check_storage(self)
        check_interval(self, "refresh_interval")
        if self.checkpoint is not None and not isinstance(self.checkpoint, str):
            raise refusal(self, "checkpoint", "the id of a checkpoint", repr(self.checkpoint))
        check_caches(self)
        _engine(self)

    @property
    def storage_config(self) -> StorageConfig:
        """`storage` as a StorageConfig, with those cache fields of this configuration that are not None."""
        found = self.storage if isinstance(self.storage, StorageConfig) else StorageConfig(url=self.storage)
        names = (*CACHE_SETTINGS, "caches")
        changes = {name: value for name in names if (value := getattr(self, name)) is not None}
        if "caches" in changes:
            changes = {"block_cache_bytes": None, "meta_cache_bytes": None, **changes}
        elif MEMORY_SETTINGS & changes.keys():
            changes["caches"] = None
        return replace(found, **changes) if changes else found

    def with_overrides(self, **overrides: Any) -> ReaderConfig:
        """This configuration with some fields replaced. Raises: InvalidInputError for a name it does not have."""
        check_names(ReaderConfig, overrides)
        return replace(self, **overrides)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReaderConfig:
        """A configuration from names and values, with mappings for nested configurations. Raises: InvalidInputError."""
        return from_mapping(cls, values)

    @classmethod
    def from_file(cls, path: str | PurePath) -> ReaderConfig:
        """A configuration from a TOML or JSON file, or YAML where PyYAML is installed. Raises: InvalidInputError."""
        return from_mapping(cls, read_file(path))


def _visibility(owner: Any) -> None:
    try:
        set_field(owner, "read_visibility", ReadVisibility(owner.read_visibility))
    except ValueError:
        names = " or ".join(repr(level.value) for level in ReadVisibility)
        raise refusal(owner, "read_visibility", names, repr(owner.read_visibility)) from None


def _engine(owner: Any) -> None:
    value = owner.engine
    if isinstance(value, Mapping):
        try:
            set_field(owner, "engine", Settings.from_dict(value))
        except InvalidError as error:
            raise InvalidInputError(f"{type(owner).__name__}: engine: {error}") from error
    elif value is not None and not isinstance(value, Settings):
        raise refusal(owner, "engine", "an lsm.Settings, a mapping or None", lsm.shown(value))


def engine_settings(engine: Settings | None, changes: Mapping[str, Any]) -> Settings:
    """The engine's settings with `changes` applied; `engine` None: the defaults. Raises: InvalidInputError."""
    try:
        return replace(engine if engine is not None else Settings(), **changes)
    except InvalidError as error:
        raise InvalidInputError(str(error)) from error


def writer_settings(config: Config) -> Settings:
    """The engine's settings of a log's writer, or of its compactor. Raises: InvalidInputError."""
    changes = config.storage_config.engine_changes
    if config.sst_block_size is not None:
        changes["sst_block_size"] = config.sst_block_size
    return engine_settings(config.engine, changes)


K = TypeVar("K", Config, ReaderConfig)


def config_of(kind: type[K], given: K | Storage | None, overrides: Mapping[str, Any]) -> K:
    """The configuration of a handle. `given`: a configuration, or the `storage` of one; None: the default configuration.
    `overrides` replace its fields. Raises: InvalidInputError."""
    if given is None:
        found = kind()
    elif isinstance(given, kind):
        found = given
    elif isinstance(given, str | os.PathLike | StorageConfig):
        if "storage" in overrides:
            raise InvalidInputError(f"storage is given twice: {given!r} and storage={overrides['storage']!r}")
        found = kind(storage=os.fspath(given) if isinstance(given, os.PathLike) else given)
    else:
        raise InvalidInputError(f"config must be a {kind.__name__}, a URL or a path, got {type(given).__name__}")
    return found.with_overrides(**overrides)
