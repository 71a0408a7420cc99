"""Where the benchmark's log lives: a new directory of its own, gone afterwards unless it is to be kept."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import fsspec

from opendata_log import StorageConfig
from opendata_log.bench.options import Options


@contextmanager
def open_place(options: Options) -> Iterator[StorageConfig]:
    """Storage that nothing else uses. The URL asked for is only ever a parent, so an existing log stays untouched."""
    if options.storage is None:
        path = tempfile.mkdtemp(prefix="opendata-log-bench-")
        storage = StorageConfig(url=f"file://{path}")
    else:
        url = _below(options.storage, f"bench-{uuid.uuid4().hex[:12]}")
        storage = StorageConfig(url=url, storage_options=dict(options.storage_options))
    try:
        yield storage
    finally:
        if not options.keep:
            _remove(storage)


def _below(url: str, name: str) -> str:
    """`memory://` alone is private to one instance and would not survive the reopen, so it gets a name too."""
    return url + name if url.endswith("/") else f"{url}/{name}"


def _remove(storage: StorageConfig) -> None:
    """Best effort: the result is printed even if the storage refuses."""
    if storage.url.startswith("file://"):
        shutil.rmtree(storage.url.removeprefix("file://"), ignore_errors=True)
        return
    with suppress(Exception):
        filesystem, path = fsspec.url_to_fs(storage.url, **storage.storage_options)
        filesystem.rm(path, recursive=True)
