"""Every knob of the engine in one frozen value: SlateDB's names and defaults where they make sense here.

Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

import json
import os
import tomllib
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
    """Settings of a database handle. All can differ from one open to the next."""

    # -- write-ahead log --
    flush_interval: float | None = 0.1
    """Longest time an append that nobody waits for stays out of the log. None: only waiters and size flush."""
    wal_enabled: bool = True
    """Off: rows become durable with their level-0 table only."""
    wal_object_bytes: int = 8 * MIB
    """The log buffer is written when it reaches this size, whoever waits."""
    wal_uploads_max: int = 4
    """Log objects uploaded at the same time. They become durable in order whatever order they finish in."""
    max_wal_objects_before_l0_flush: int = 512
    """The memtable is flushed after this many log objects, so that recovery stays short."""

    # -- memory --
    l0_sst_size_bytes: int = 64 * MIB
    """The memtable is frozen and written as level-0 tables when it holds about this many bytes."""
    max_unflushed_bytes: int = 1 * GIB
    """Writers wait (or are refused) while memtables and log buffer hold this much."""

    # -- caches --
    block_cache_bytes: int = 224 * MIB
    """Memory for decoded blocks. Not used where `Components.caches` is given, nor is the next one."""
    meta_cache_bytes: int = 32 * MIB
    """Memory for indexes and filters: some two bytes for each key in tables that are read, at 16 bits a key."""
    disk_cache_dir: str | None = None
    """A local directory that keeps stored parts of tables, also for other processes and the next start. None: no such."""
    disk_cache_bytes: int = 1 * GIB
    """Space the directory may take, of all databases in it. What is read of a table is fetched in parts of 128 KiB then."""

    # -- tables --
    sst_block_size: int = 64 * KIB
    """Bytes of keys and values in a block before compression; twice as many in series of rows of 512 bytes and more."""
    max_sst_size: int = 48 * MIB
    """Compaction starts a new table when the current one reaches this size."""
    compression: str | None = "zstd"
    """'zstd' or None. A block that compression does not shrink is stored as it is."""
    compression_level: int = 1
    filter_bits_per_key: int = 16
    min_filter_keys: int = 16
    """Tables with fewer distinct keys or series carry no bloom filter."""
    sequence_range_bytes: int = 16 * KIB
    """Bytes in a table's index that say where its series end, so that a cursor beyond reads nothing. 0: none."""

    # -- level 0 --
    l0_max_ssts: int = 16
    """Flushes wait while a partition has this many level-0 tables."""
    l0_flush_parallelism: int = 2
    """Level-0 tables uploaded at the same time."""

    # -- compaction --
    compaction_enabled: bool = True
    compaction_placement: str = "auto"
    """'process': worker processes; 'thread': a thread of this one; 'auto': processes where the store can be shared."""
    compaction_workers: int = 1
    """Jobs, or parts of one, that run side by side. One of them is kept for level 0; of a single one, one more is."""
    compaction_part_bytes: int = 256 * MIB
    """A job is cut into key ranges of about this size, which run side by side where there are workers."""
    compaction_stall_timeout: float | None = 600.0
    """A worker that finishes no table for so long is taken for dead, and its part of the job begins again elsewhere."""
    flush_placement: str = "auto"
    """Where frozen memtables become tables: 'process' builds them from the log objects, 'thread' from memory."""
    l0_compaction_min: int = 4
    l0_compaction_max: int = 8
    level_size_ratio: int = 10
    level_base_bytes: int = 256 * MIB

    # -- store --
    op_timeout: float = 60.0
    """Deadline of one engine operation on the store, retries included."""
    request_timeout: float = 15.0
    """Deadline of one request."""
    assume_single_writer: bool = False
    """Write to a store without atomic create-if-absent. Two writers can then damage the database. Readers do not need it."""

    # -- garbage --
    gc_interval: float | None = 600.0
    """How often the writer collects garbage. None: never by itself."""
    gc_min_age: float = 300.0
    """Courtesy to slow readers: unreferenced objects younger than this stay. Safety does not depend on it."""

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
        """Settings from plain names and values; an unknown name is refused."""
        if not isinstance(values, Mapping):
            raise InvalidError(f"settings must be made from a mapping, got {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise InvalidError(f"settings: unknown name {name!r}; known names are {sorted(known)}")
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Settings:
        """Settings from a TOML or JSON file (YAML where PyYAML is installed)."""
        return cls.from_dict(read_settings_file(path))

    @classmethod
    def from_env(cls, prefix: str = "LSM_", *, base: Settings | None = None) -> Settings:
        """`base` with every variable `PREFIX<NAME>` applied, its value written as JSON or bare text."""
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
"""Of the integers: the least and the greatest."""
_WAITS: dict[str, float] = {
    "flush_interval": 0,
    "compaction_stall_timeout": 0.001,
    "op_timeout": 0.001,
    "request_timeout": 0.001,
    "gc_interval": 0.001,
}
"""The least seconds of the durations that are waited for. Infinity is as good as for ever."""
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
    """The mapping in a TOML, JSON or YAML file, chosen by the file's suffix. UTF-8, with a byte order mark or without."""
    try:
        file = Path(path)
        text = file.read_text("utf-8-sig")
    except (OSError, TypeError, ValueError) as error:
        raise InvalidError(f"settings file {str(path)!r} cannot be read: {error}") from error
    try:
        match file.suffix.lower():
            case ".toml":
                found: Any = tomllib.loads(text)
            case ".json":
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
    """A JSON object. A name that is given twice is a mistake, and which of the two was meant is not known."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found
