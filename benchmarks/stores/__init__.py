"""The stores under comparison, each behind the same small log contract (`contract.Store`).

Adapters import their engine when they are opened, so a missing package costs only its own rows.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from benchmarks.stores.contract import Batch, Entries, Store

_ADAPTERS = {
    "ours": ("benchmarks.stores.ours", "OpenDataStore", "opendata_log"),
    "uncompacted": ("benchmarks.stores.ours", "UncompactedStore", "opendata_log"),
    "slatedb": ("benchmarks.stores.slate", "SlateStore", "slatedb"),
    "slatedb+": ("benchmarks.stores.slate", "PatchedSlateStore", "slatedb"),
    "rocksdict": ("benchmarks.stores.rocks", "RocksStore", "rocksdict"),
    "lmdb": ("benchmarks.stores.lightning", "LightningStore", "lmdb"),
    "plyvel": ("benchmarks.stores.level", "LevelStore", "plyvel"),
    "sqlite3": ("benchmarks.stores.sqlite", "SqliteStore", "sqlite3"),
    "floor": ("benchmarks.stores.floor", "FloorStore", "collections"),
}
OURS = ("ours", "uncompacted")
NAMES = tuple(_ADAPTERS)
PEERS = NAMES[1:]


def missing(name: str) -> str | None:
    """Why the store cannot run here, or None when it can."""
    package = _ADAPTERS[name][2]
    if importlib.util.find_spec(package) is None:
        return f"package {package} is not installed"
    if name in OURS:
        try:
            importlib.import_module("opendata_log").LogDb  # noqa: B018 - the attribute is the check
        except (ImportError, AttributeError) as error:
            return f"opendata_log does not import: {error}"
    return None


def load(name: str) -> Any:
    """The adapter of the named store, with its engine imported."""
    module, cls, _ = _ADAPTERS[name]
    return getattr(importlib.import_module(module), cls)


def open_store(name: str, path: str, *, durable: bool = False, options: dict[str, object] | None = None) -> Store:
    """Open or create the named store under the directory `path`.

    `durable`: the workload calls `flush` often and expects power-loss safety where the engine offers it.
    `options`: adapter-specific settings; only those of ours take any (the fields of `lsm.Settings`).
    """
    store: Store = load(name)(path, durable=durable, **(options or {}))
    return store


__all__ = ["NAMES", "OURS", "PEERS", "Batch", "Entries", "Store", "load", "missing", "open_store"]
