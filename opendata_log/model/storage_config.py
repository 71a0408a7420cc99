"""Where a log is stored: a URL, its options, and the caches of reads from there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import lsm
from lsm import Caches
from opendata_log.model.config_fields import check_integer, checked_url, from_mapping, refusal, set_field
from opendata_log.model.errors import InvalidInputError

MIB = 1 << 20
MEMORY_SETTINGS = frozenset({"block_cache_bytes", "meta_cache_bytes"})
CACHE_SETTINGS = ("block_cache_bytes", "meta_cache_bytes", "disk_cache_dir", "disk_cache_bytes")
"""Cache fields of StorageConfig and ReaderConfig; the engine's settings have the same names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageConfig:
    """Where the log is stored: an fsspec URL, the options of its backend, and caches.

    >>> StorageConfig(url="memory://orders", block_cache_bytes=64 << 20).block_cache_bytes
    67108864

    Raises: InvalidInputError where a value is invalid.
    """

    url: str
    """An fsspec URL or a local path."""
    storage_options: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """Options for fsspec. The repr omits them, because they may hold secrets."""
    wal_url: str | None = None
    """URL of another store for the write-ahead log, such as a faster one. `None`: the log is stored at `url`."""
    parent_storage_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False, repr=False)
    """Storage options of a clone's parents, by URL. A parent that is not named inherits `storage_options`."""
    block_cache_bytes: int | None = None
    """Maximum bytes of memory for decoded blocks. `None`: inherits the engine's setting."""
    meta_cache_bytes: int | None = None
    """Maximum bytes of memory for indexes and filters. `None`: inherits the engine's setting."""
    caches: Caches | None = None
    """Caches shared with other logs and readers of this process, instead of the two sizes. `None`: caches of its own."""
    disk_cache_dir: str | None = None
    """Local directory that caches parts of tables, also for other processes and the next start. `None`: inherits the engine's
    setting."""
    disk_cache_bytes: int | None = None
    """Maximum bytes in the directory. `None`: inherits the engine's setting."""

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
        set_field(self, "url", checked_url(self, "url"))
        if self.wal_url is not None:
            set_field(self, "wal_url", checked_url(self, "wal_url"))
        options = self.storage_options
        if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
            raise refusal(self, "storage_options", "a mapping with names as keys", type(options).__name__)
        set_field(self, "storage_options", dict(options))
        parents = self.parent_storage_options
        if not isinstance(parents, Mapping) or not all(isinstance(each, Mapping) for each in parents.values()):
            raise refusal(self, "parent_storage_options", "a mapping of mappings, by URL", type(parents).__name__)
        check_caches(self)

    @property
    def engine_changes(self) -> dict[str, Any]:
        """The engine's settings that this configuration replaces."""
        return {name: value for name in CACHE_SETTINGS if (value := getattr(self, name)) is not None}


Storage = str | os.PathLike[str] | StorageConfig
"""The types of a `storage` argument: a URL, a path, or a StorageConfig."""


def check_storage(owner: Any) -> None:
    """Check the field `storage`: a URL, a StorageConfig, or a mapping that makes one. Raises: InvalidInputError."""
    if isinstance(owner.storage, Mapping):
        set_field(owner, "storage", from_mapping(StorageConfig, owner.storage))
    elif not isinstance(owner.storage, StorageConfig):
        set_field(owner, "storage", checked_url(owner, "storage"))


def check_caches(owner: Any) -> None:
    """Check the fields of caches: shared ones or sizes, and a local directory. Raises: InvalidInputError."""
    for name in MEMORY_SETTINGS:
        check_integer(owner, name, low=0, optional=True)
        if owner.caches is not None and getattr(owner, name) is not None:
            raise InvalidInputError(f"{type(owner).__name__}: give caches or {name}, not both: caches have their sizes")
    if owner.caches is not None and not isinstance(owner.caches, Caches):
        raise refusal(owner, "caches", "a Caches or None", lsm.shown(owner.caches))
    if owner.disk_cache_dir is not None:
        set_field(owner, "disk_cache_dir", checked_url(owner, "disk_cache_dir", "a path or None"))
    check_integer(owner, "disk_cache_bytes", low=MIB, optional=True)
