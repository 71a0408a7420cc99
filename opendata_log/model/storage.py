"""Where a log is stored: a URL, its options, and the caches of what is read there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import lsm
from lsm import Caches
from opendata_log.model.errors import InvalidInputError
from opendata_log.model.fields import check_integer, checked_url, from_mapping, refusal, set_field

MIB = 1 << 20
MEMORY_SETTINGS = frozenset({"block_cache_bytes", "meta_cache_bytes"})
CACHE_SETTINGS = ("block_cache_bytes", "meta_cache_bytes", "disk_cache_dir", "disk_cache_bytes")
"""Of StorageConfig and ReaderConfig, under the names that the engine's settings have for them."""


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
        """The engine's settings that are given here."""
        return {name: value for name in CACHE_SETTINGS if (value := getattr(self, name)) is not None}


Storage = str | os.PathLike[str] | StorageConfig
"""What a `storage` is given as: a URL, a path, or a URL with options."""


def check_storage(owner: Any) -> None:
    """The field `storage`: a URL, a StorageConfig, or a mapping that makes one."""
    if isinstance(owner.storage, Mapping):
        set_field(owner, "storage", from_mapping(StorageConfig, owner.storage))
    elif not isinstance(owner.storage, StorageConfig):
        set_field(owner, "storage", checked_url(owner, "storage"))


def check_caches(owner: Any) -> None:
    """The fields of caches: shared ones or sizes, and a local directory."""
    for name in MEMORY_SETTINGS:
        check_integer(owner, name, low=0, optional=True)
        if owner.caches is not None and getattr(owner, name) is not None:
            raise InvalidInputError(f"{type(owner).__name__}: give caches or {name}, not both: caches have their sizes")
    if owner.caches is not None and not isinstance(owner.caches, Caches):
        raise refusal(owner, "caches", "a Caches or None", lsm.shown(owner.caches))
    if owner.disk_cache_dir is not None:
        set_field(owner, "disk_cache_dir", checked_url(owner, "disk_cache_dir", "a path or None"))
    check_integer(owner, "disk_cache_bytes", low=MIB, optional=True)
