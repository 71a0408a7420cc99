"""The engine's settings as one frozen value. Names and defaults are SlateDB's where they fit.

Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from lsm.checks import SIZE_MAX, age_seconds, integer, shown, wait_seconds
from lsm.errors import InvalidError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BLOCK_BYTES_MAX = 16 * MIB
THREADS_MAX = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of a database handle. Each can differ from one open to the next.

    Large: a field is a setting, and they are given, read from files and compared as one value.
    """

    # -- write-ahead log --
    flush_interval: float | None = 0.1
    """Maximum seconds an append stays in the log buffer if no caller waits for it. None: no time limit; the buffer is written
    when a caller waits or when it is full."""
    wal_enabled: bool = True
    """Whether to write a log. Without one, rows become durable only with their level-0 table."""
    wal_object_bytes: int = 8 * MIB
    """Size at which the log buffer is written, even if no caller waits."""
    wal_uploads_max: int = 4
    """Maximum log objects uploaded at a time. They become durable in order, even if uploads finish out of order."""
    max_wal_objects_before_l0_flush: int = 512
    """Log objects after which the memtable is flushed, so that recovery stays short."""

    # -- memory --
    l0_sst_size_bytes: int = 64 * MIB
    """Approximate size at which the memtable is frozen and written as level-0 tables."""
    max_unflushed_bytes: int = 1 * GIB
    """Maximum bytes in memtables and log buffer. Beyond it, writers wait or are refused."""

    # -- caches --
    block_cache_bytes: int = 224 * MIB
    """Memory for decoded blocks. Ignored if `Components.caches` is given."""
    meta_cache_bytes: int = 32 * MIB
    """Memory for indexes and filters: about two bytes per key of the tables that are read, at 16 bits a key. Ignored if
    `Components.caches` is given."""
    disk_cache_dir: str | None = None
    """Local directory caching parts of tables, shared with other processes and kept between starts. None disables it."""
    disk_cache_bytes: int = 1 * GIB
    """Maximum bytes of `disk_cache_dir`, for all databases in it. With that directory, tables are read in parts of 128 KiB."""

    # -- tables --
    sst_block_size: int = 64 * KIB
    """Bytes of keys and values per block before compression. In series with rows of 512 bytes and more, twice as many."""
    max_sst_size: int = 48 * MIB
    """Size at which compaction starts a new table."""
    compression: str | None = "zstd"
    """'zstd'; None disables compression. A block that compression does not shrink is stored uncompressed."""
    compression_level: int = 1
    filter_bits_per_key: int = 16
    min_filter_keys: int = 16
    """Minimum distinct keys or series of a table with a bloom filter."""
    sequence_range_bytes: int = 16 * KIB
    """Maximum bytes of a table's index for the last number of each of its series. With it, a cursor beyond the end of a
    series reads no block. 0 disables it."""

    # -- level 0 --
    l0_max_ssts: int = 16
    """Level-0 tables per partition at which flushes wait."""
    l0_flush_parallelism: int = 2
    """Maximum level-0 tables uploaded at a time."""

    # -- compaction --
    compaction_enabled: bool = True
    compaction_placement: str = "auto"
    """'process': worker processes; 'thread': threads of this process; 'auto': processes, if they can reach the store."""
    compaction_workers: int = 1
    """Jobs, or parts of a job, that run in parallel. One slot is reserved for level 0; with a single worker, an extra one is
    added for it."""
    compaction_part_bytes: int = 256 * MIB
    """Approximate size of the key ranges that a job is cut into. They run in parallel if there are workers."""
    compaction_stall_timeout: float | None = 600.0
    """Seconds without a finished table after which a worker counts as dead, and its part of the job starts again elsewhere.
    None disables this."""
    flush_placement: str = "auto"
    """Where frozen memtables become tables. 'process': in worker processes, from the log objects; 'thread': in threads, from
    memory; 'auto': in processes, if they can reach the store."""
    l0_compaction_min: int = 4
    l0_compaction_max: int = 8
    level_size_ratio: int = 10
    level_base_bytes: int = 256 * MIB

    # -- store --
    op_timeout: float = 60.0
    """Maximum seconds per engine operation on the store, retries included."""
    request_timeout: float = 15.0
    """Maximum seconds per request."""
    assume_single_writer: bool = False
    """Allow writing to a store without atomic create-if-absent. Two writers can then damage the database. Readers do not need
    it."""

    # -- garbage --
    gc_interval: float | None = 600.0
    """Seconds between the writer's garbage collections. None disables them."""
    gc_min_age: float = 300.0
    """Seconds that unreferenced objects are kept, for slow readers. Safety does not depend on it."""

    def __post_init__(self) -> None:
        _check_types(self)
        for name, (low, high) in _LIMITS.items():
            integer(getattr(self, name), f"settings: {name}", low=low, high=high)
        for name, allowed in _ONE_OF.items():
            if getattr(self, name) not in allowed:
                raise InvalidError(f"settings: {name} must be one of {list(allowed)}, got {getattr(self, name)!r}")
        if self.disk_cache_dir == "":
            raise InvalidError("settings: disk_cache_dir must name a directory, or be None, got ''")
        if self.l0_compaction_min > self.l0_compaction_max:
            raise InvalidError(
                f"settings: l0_compaction_min ({self.l0_compaction_min}) must not exceed l0_compaction_max "
                f"({self.l0_compaction_max})"
            )
        if self.compaction_enabled and self.l0_compaction_min >= self.l0_max_ssts:
            raise InvalidError(
                f"settings: l0_compaction_min ({self.l0_compaction_min}) must be below l0_max_ssts "
                f"({self.l0_max_ssts}), or flushes would wait for a compaction that never starts"
            )
        if self.max_unflushed_bytes < self.l0_sst_size_bytes:
            raise InvalidError(
                f"settings: max_unflushed_bytes ({self.max_unflushed_bytes}) must be at least l0_sst_size_bytes "
                f"({self.l0_sst_size_bytes})"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Make settings from names and values. An unknown name raises InvalidError."""
        if not isinstance(values, Mapping):
            raise InvalidError(f"settings must be made from a mapping, got {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise InvalidError(f"settings: unknown name {name!r}; known names are {sorted(known)}")
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Settings:
        """Read settings from a TOML or JSON file, or from YAML if PyYAML is installed."""
        return cls.from_dict(read_settings_file(path))

    @classmethod
    def from_env(cls, prefix: str = "LSM_", *, base: Settings | None = None) -> Settings:
        """Return `base` with every environment variable `PREFIX<NAME>` applied. Its value is JSON or plain text."""
        changes: dict[str, Any] = {}
        known = {field.name for field in fields(cls)}
        for variable, text in os.environ.items():
            if not variable.startswith(prefix):
                continue
            name = variable[len(prefix) :].lower()
            if name not in known:
                raise InvalidError(f"settings: environment variable {variable} names no setting")
            try:
                changes[name] = msgspec.json.decode(text)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                changes[name] = text
        return replace(base if base is not None else cls(), **changes)


_LIMITS: dict[str, tuple[int, int]] = {
    "wal_object_bytes": (1, SIZE_MAX),
    "wal_uploads_max": (1, THREADS_MAX),
    "max_wal_objects_before_l0_flush": (1, SIZE_MAX),
    "l0_sst_size_bytes": (1, SIZE_MAX),
    "max_unflushed_bytes": (1, SIZE_MAX),
    "block_cache_bytes": (0, SIZE_MAX),
    "meta_cache_bytes": (0, SIZE_MAX),
    "disk_cache_bytes": (1 * MIB, SIZE_MAX),
    "sst_block_size": (64, BLOCK_BYTES_MAX),
    "max_sst_size": (256, SIZE_MAX),
    "compression_level": (-100, 22),
    "filter_bits_per_key": (1, 64),
    "min_filter_keys": (0, SIZE_MAX),
    "sequence_range_bytes": (0, SIZE_MAX),
    "l0_max_ssts": (1, SIZE_MAX),
    "l0_flush_parallelism": (1, THREADS_MAX),
    "compaction_workers": (1, THREADS_MAX),
    "compaction_part_bytes": (1, SIZE_MAX),
    "l0_compaction_min": (1, SIZE_MAX),
    "l0_compaction_max": (1, SIZE_MAX),
    "level_size_ratio": (2, 1 << 20),
    "level_base_bytes": (1, SIZE_MAX),
}
"""Minimum and maximum of each integer setting."""
_WAITS: dict[str, float] = {
    "flush_interval": 0,
    "compaction_stall_timeout": 0.001,
    "op_timeout": 0.001,
    "request_timeout": 0.001,
    "gc_interval": 0.001,
}
"""Minimum seconds of each duration that is waited for. The maximum is infinity."""
_AGES = ("gc_min_age",)
_ONE_OF: dict[str, tuple[str | None, ...]] = {
    "compression": ("zstd", None),
    "compaction_placement": ("auto", "process", "thread"),
    "flush_placement": ("auto", "process", "thread"),
}


def _check_types(settings: Settings) -> None:
    hints = typing.get_type_hints(Settings)
    for field in fields(settings):
        name, value = field.name, getattr(settings, field.name)
        allowed = typing.get_args(hints[name]) or (hints[name],)
        if value is None and type(None) in allowed:
            continue
        if name in _WAITS:
            object.__setattr__(settings, name, wait_seconds(value, f"settings: {name}", least=_WAITS[name]))
        elif name in _AGES:
            object.__setattr__(settings, name, age_seconds(value, f"settings: {name}"))
        elif type(value) not in allowed:
            wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in allowed)
            raise InvalidError(f"settings: {name} must be {wanted}, got {shown(value)}")


def read_settings_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the mapping in a TOML, JSON or YAML file. The suffix gives the format. UTF-8, with or without byte order mark."""
    try:
        file = Path(path)
        text = file.read_text("utf-8-sig")
    except (OSError, TypeError, ValueError) as error:
        raise InvalidError(f"settings file {str(path)!r} cannot be read: {error}") from error
    try:
        match file.suffix.lower():
            case ".toml":
                import tomllib

                found: Any = tomllib.loads(text)
            case ".json":
                import json

                found = json.loads(text, object_pairs_hook=_named_once)
            case ".yaml" | ".yml":
                found = msgspec.yaml.decode(text)
            case suffix:
                raise InvalidError(f"settings file {str(file)!r}: suffix {suffix!r} is none of .toml, .json, .yaml")
    except InvalidError:
        raise
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidError(f"settings file {str(file)!r} does not parse: {error}") from error
    except RecursionError as error:
        raise InvalidError(f"settings file {str(file)!r} does not parse: it is nested too deeply") from error
    except ImportError as error:
        raise InvalidError(f"settings file {str(file)!r}: reading YAML needs the package PyYAML") from error
    if not isinstance(found, dict):
        raise InvalidError(f"settings file {str(file)!r} must hold a mapping, got {type(found).__name__}")
    return found


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict. Refuse a name that is given twice, because either value may be the intended one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found
