"""Every setting of the log, as frozen values that are checked once, when they are made.

Durations are given in seconds or as timedelta, and kept as float. Sizes are bytes. A mapping is accepted where a nested
configuration is expected, so a plain dict, a file and keyword arguments all take the same way.

Source: opendata log/src/config.rs at 5f5c2882, its names and defaults. Different on purpose: storage is named by a
URL, a seal interval or limit of zero is refused, and files give durations in seconds instead of milliseconds.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import lsm
from lsm import Caches, InvalidError, Settings, read_settings_file
from opendata_log.model.errors import InvalidInputError

LEAST_SECONDS = 1e-9
"""Of what must not be zero."""
INTEGER_MAX = (1 << 62) - 1
MIB = 1 << 20
MEMORY_SETTINGS = frozenset({"block_cache_bytes", "meta_cache_bytes"})
CACHE_SETTINGS = ("block_cache_bytes", "meta_cache_bytes", "disk_cache_dir", "disk_cache_bytes")
"""Of StorageConfig and ReaderConfig, under the names that the engine's settings have for them."""


class ReadVisibility(Enum):
    """What reads of a `LogDb` see: everything appended, or only what is durable."""

    MEMORY = "memory"
    REMOTE = "remote"


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageConfig:
    """Where the log is stored: an fsspec URL and what its backend needs to open it."""

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """Passed to fsspec. Kept out of the repr, as it may hold secrets."""
    wal_url: str | None = None
    """Another store for the write-ahead log, such as a faster one. None: with the rest."""
    parent_storage_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False, repr=False)
    """Of a clone: the storage options of its parents by URL. Those of a parent that is not named are the clone's own."""
    block_cache_bytes: int | None = None
    """Memory for decoded blocks. None: the engine's setting, as with all of the caches' settings."""
    meta_cache_bytes: int | None = None
    """Memory for indexes and filters."""
    caches: Caches | None = None
    """Memory shared with other logs and readers of this process, instead of the two sizes."""
    disk_cache_dir: str | None = None
    """A local directory that keeps parts of tables, also for other processes and the next start."""
    disk_cache_bytes: int | None = None
    """Space the directory may take."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            url: str | PurePath,
            storage_options: Mapping[str, Any] = ...,
            wal_url: str | PurePath | None = ...,
            parent_storage_options: Mapping[str, Mapping[str, Any]] = ...,
            block_cache_bytes: int | None = ...,
            meta_cache_bytes: int | None = ...,
            caches: Caches | None = ...,
            disk_cache_dir: str | PurePath | None = ...,
            disk_cache_bytes: int | None = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        _set(self, "url", _url(self, "url"))
        if self.wal_url is not None:
            _set(self, "wal_url", _url(self, "wal_url"))
        options = self.storage_options
        if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
            raise _refusal(self, "storage_options", "a mapping with names as keys", type(options).__name__)
        _set(self, "storage_options", dict(options))
        parents = self.parent_storage_options
        if not isinstance(parents, Mapping) or not all(isinstance(each, Mapping) for each in parents.values()):
            raise _refusal(self, "parent_storage_options", "a mapping of mappings, by URL", type(parents).__name__)
        _caches(self)

    @property
    def engine_changes(self) -> dict[str, Any]:
        """The engine's settings that are given here."""
        return {name: value for name in CACHE_SETTINGS if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """When the active segment is sealed. Neither given: only by `seal_segment()`."""

    seal_interval: float | None = None
    """Seconds since the segment's first append."""
    seal_byte_limit: int | None = None
    """Bytes of stored keys and values of log entries. Soft: checked before a batch, counted anew after a reopen."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            seal_interval: float | timedelta | None = ...,
            seal_byte_limit: int | None = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        _duration(self, "seal_interval", optional=True)
        _integer(self, "seal_byte_limit", low=1, optional=True)

    @property
    def seal_interval_ms(self) -> int | None:
        """The interval in whole milliseconds, at least one."""
        return _milliseconds(self.seal_interval)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionConfig:
    """How long a sealed segment is kept after its successor started."""

    retention: float | None = None
    """Seconds. None: for ever."""
    check_interval: float = 60.0
    """Seconds between two looks for expired segments."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            retention: float | timedelta | None = ...,
            check_interval: float | timedelta = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        _duration(self, "retention", optional=True)
        _interval(self, "check_interval")

    @property
    def retention_ms(self) -> int | None:
        """The retention in whole milliseconds, at least one."""
        return _milliseconds(self.retention)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogCompactionOptions:
    """How the tables of a segment are merged."""

    min_l0_per_compaction: int = 4
    """Level-0 tables of the active segment from which on they become runs."""
    max_l0_per_compaction: int = 8
    """With `l0_only`: level-0 tables that are merged into one run at most."""
    l0_only: bool = False
    """Skip the final pass that rewrites a sealed segment into one run; merge level-0 tables a few at a time instead."""

    def __post_init__(self) -> None:
        _integer(self, "min_l0_per_compaction", low=1)
        _integer(self, "max_l0_per_compaction", low=1)
        _flag(self, "l0_only")
        if self.min_l0_per_compaction > self.max_l0_per_compaction:
            raise InvalidInputError(
                f"LogCompactionOptions: min_l0_per_compaction ({self.min_l0_per_compaction}) must not exceed "
                f"max_l0_per_compaction ({self.max_l0_per_compaction})"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything a `LogDb` is opened with."""

    storage: str | StorageConfig = "file://.data/log"
    segmentation: SegmentConfig = field(default_factory=SegmentConfig)
    read_visibility: ReadVisibility = ReadVisibility.MEMORY
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    compaction: LogCompactionOptions = field(default_factory=LogCompactionOptions)
    sst_block_size: int | None = None
    """Bytes of keys and values in a block before compression. None: the engine's setting."""
    engine: Settings | None = None

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
        _storage(self)
        _nested(self, "segmentation", SegmentConfig)
        _nested(self, "retention", RetentionConfig)
        _nested(self, "compaction", LogCompactionOptions)
        _visibility(self)
        _integer(self, "sst_block_size", low=64, high=16 * MIB, optional=True)
        _engine(self)
        kept, sealed = self.retention.retention, self.segmentation.seal_interval
        if kept is not None and (sealed is None or kept < sealed):
            raise InvalidInputError(
                f"Config: retention.retention ({kept} s) needs a segmentation.seal_interval that is no longer, "
                f"got {sealed!r}: only sealed segments expire"
            )

    @property
    def storage_config(self) -> StorageConfig:
        """`storage` in its long form."""
        return self.storage if isinstance(self.storage, StorageConfig) else StorageConfig(url=self.storage)

    def with_overrides(self, **overrides: Any) -> Config:
        """This configuration with some fields replaced. Raises: InvalidInputError for a name it does not have."""
        _check_names(Config, overrides)
        return replace(self, **overrides)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """A configuration from plain names and values, mappings for the nested ones."""
        return _from_mapping(cls, values)

    @classmethod
    def from_file(cls, path: str | PurePath) -> Config:
        """A configuration from a TOML or JSON file (YAML where PyYAML is installed)."""
        return _from_mapping(cls, _read(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderConfig:
    """Everything a `LogDbReader` is opened with."""

    storage: str | StorageConfig = "file://.data/log"
    refresh_interval: float = 1.0
    """Seconds between two looks for new data."""
    checkpoint: str | None = None
    """The id of a checkpoint to read instead of what is newest."""
    block_cache_bytes: int | None = None
    """Memory for decoded blocks. None: the storage's, then the engine's setting, as with all of the caches' settings."""
    meta_cache_bytes: int | None = None
    caches: Caches | None = None
    disk_cache_dir: str | None = None
    disk_cache_bytes: int | None = None
    engine: Settings | None = None

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
        _storage(self)
        _interval(self, "refresh_interval")
        if self.checkpoint is not None and not isinstance(self.checkpoint, str):
            raise _refusal(self, "checkpoint", "the id of a checkpoint", repr(self.checkpoint))
        _caches(self)
        _engine(self)

    @property
    def storage_config(self) -> StorageConfig:
        """`storage` in its long form, with this reader's cache settings where they are given."""
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
        _check_names(ReaderConfig, overrides)
        return replace(self, **overrides)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReaderConfig:
        """A configuration from plain names and values, mappings for the nested ones."""
        return _from_mapping(cls, values)

    @classmethod
    def from_file(cls, path: str | PurePath) -> ReaderConfig:
        """A configuration from a TOML or JSON file (YAML where PyYAML is installed)."""
        return _from_mapping(cls, _read(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanOptions:
    """How a scan reads."""

    limit: int | None = None
    """Entries to yield at most. None: all."""
    read_ahead_bytes: int = 1 * MIB
    """Bytes fetched ahead of what was asked for."""
    cache_blocks: bool = True
    """Keep what was read in the block cache. Off for a large scan that nobody repeats."""

    def __post_init__(self) -> None:
        _integer(self, "limit", low=0, optional=True)
        _integer(self, "read_ahead_bytes", low=0)
        _flag(self, "cache_blocks")


@dataclass(frozen=True, kw_only=True, slots=True)
class CountOptions:
    """How a count is made."""

    approximate: bool = False
    """Read indexes only, not the blocks in which the range starts and ends. Off by at most the rows of one block per table for
    a key that has blocks of its own. A key that shares its block counts as the average of those that share blocks in the table:
    within a factor of two where they are about equally large, which is all that an index knows of them."""

    def __post_init__(self) -> None:
        _flag(self, "approximate")


# -- checks: each leaves the field in its stored form or raises InvalidInputError --------------------------------------

C = TypeVar("C")
_set = object.__setattr__


def _refusal(owner: Any, name: str, allowed: str, got: object) -> InvalidInputError:
    return InvalidInputError(f"{type(owner).__name__}: {name} must be {allowed}, got {got}")


def _integer(owner: Any, name: str, *, low: int, high: int = INTEGER_MAX, optional: bool = False) -> None:
    value = getattr(owner, name)
    if value is None and optional:
        return
    limits = f"at least {low}" if high == INTEGER_MAX else f"from {low} to {high}"
    allowed = f"an integer, {limits}" + (", or None" if optional else "")
    try:
        number = operator.index(value)
    except TypeError:
        raise _refusal(owner, name, allowed, lsm.shown(value)) from None
    if isinstance(value, bool) or not low <= number <= high:
        raise _refusal(owner, name, allowed, lsm.shown(value))
    _set(owner, name, number)


def _caches(owner: Any) -> None:
    for name in MEMORY_SETTINGS:
        _integer(owner, name, low=0, optional=True)
        if owner.caches is not None and getattr(owner, name) is not None:
            raise InvalidInputError(f"{type(owner).__name__}: give caches or {name}, not both: caches have their sizes")
    if owner.caches is not None and not isinstance(owner.caches, Caches):
        raise _refusal(owner, "caches", "a Caches or None", lsm.shown(owner.caches))
    if owner.disk_cache_dir is not None:
        _set(owner, "disk_cache_dir", _url(owner, "disk_cache_dir", "a path or None"))
    _integer(owner, "disk_cache_bytes", low=MIB, optional=True)


def _flag(owner: Any, name: str) -> None:
    value = getattr(owner, name)
    if type(value) is not bool:
        raise _refusal(owner, name, "True or False", lsm.shown(value))


def _duration(owner: Any, name: str, *, optional: bool = False) -> None:
    value = getattr(owner, name)
    if value is None and optional:
        return
    try:
        _set(owner, name, lsm.age_seconds(value, name, least=LEAST_SECONDS))
    except InvalidError:
        allowed = "seconds above zero or a timedelta" + (", or None" if optional else "")
        raise _refusal(owner, name, allowed, lsm.shown(value)) from None


def _interval(owner: Any, name: str) -> None:
    """How long a thread waits: longer waits than locks take are as good as the longest."""
    _duration(owner, name)
    _set(owner, name, lsm.wait_seconds(getattr(owner, name), name))


def timeout_seconds(value: float | timedelta | None, name: str = "timeout") -> float | None:
    """How long to wait, None for as long as it takes. Raises: InvalidInputError."""
    try:
        return lsm.timeout_seconds(value, name)
    except InvalidError:
        raise InvalidInputError(f"{name} must be None or at least 0 seconds, got {lsm.shown(value)}") from None


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))


def _url(owner: Any, name: str, allowed: str = "an fsspec URL or a path") -> str:
    value = getattr(owner, name)
    text = str(value) if isinstance(value, PurePath) else value
    if not isinstance(text, str) or not text:
        raise _refusal(owner, name, allowed, lsm.shown(value))
    return text


def _storage(owner: Any) -> None:
    if isinstance(owner.storage, Mapping):
        _set(owner, "storage", _from_mapping(StorageConfig, owner.storage))
    elif not isinstance(owner.storage, StorageConfig):
        _set(owner, "storage", _url(owner, "storage"))


def _nested(owner: Any, name: str, kind: type[Any]) -> None:
    value = getattr(owner, name)
    if isinstance(value, Mapping):
        _set(owner, name, _from_mapping(kind, value))
    elif not isinstance(value, kind):
        raise _refusal(owner, name, f"a {kind.__name__} or a mapping", lsm.shown(value))


def _visibility(owner: Any) -> None:
    try:
        _set(owner, "read_visibility", ReadVisibility(owner.read_visibility))
    except ValueError:
        names = " or ".join(repr(level.value) for level in ReadVisibility)
        raise _refusal(owner, "read_visibility", names, repr(owner.read_visibility)) from None


def _engine(owner: Any) -> None:
    value = owner.engine
    if isinstance(value, Mapping):
        try:
            _set(owner, "engine", Settings.from_dict(value))
        except InvalidError as error:
            raise InvalidInputError(f"{type(owner).__name__}: engine: {error}") from error
    elif value is not None and not isinstance(value, Settings):
        raise _refusal(owner, "engine", "an lsm.Settings, a mapping or None", lsm.shown(value))


def engine_settings(engine: Settings | None, changes: Mapping[str, Any]) -> Settings:
    """The engine's settings, the log's own applied. Raises: InvalidInputError."""
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


Storage = str | os.PathLike[str] | StorageConfig
"""What a `storage` is given as: a URL, a path, or a URL with options."""
K = TypeVar("K", Config, ReaderConfig)


def config_of(kind: type[K], given: K | Storage | None, overrides: Mapping[str, Any]) -> K:
    """The configuration that a handle is opened with: `given` is one, or what its `storage` shall be, or None for the
    default. Raises: InvalidInputError."""
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


def _check_names(kind: type[Any], values: Mapping[str, Any]) -> None:
    known = sorted(one.name for one in fields(kind))
    for name in values:
        if name not in known:
            raise InvalidInputError(f"{kind.__name__}: unknown name {name!r}; known names are {known}")


def _from_mapping(kind: type[C], values: Mapping[str, Any]) -> C:
    if not isinstance(values, Mapping):
        raise InvalidInputError(f"{kind.__name__} must be made from a mapping, got {type(values).__name__}")
    _check_names(kind, values)
    try:
        return kind(**values)
    except TypeError as error:  # A required name is missing.
        raise InvalidInputError(f"{kind.__name__}: {error}") from error


def _read(path: str | PurePath) -> dict[str, Any]:
    try:
        return read_settings_file(str(path))
    except InvalidError as error:
        raise InvalidInputError(str(error)) from error
