"""The benchmark's log has a new directory of its own, which is removed afterwards unless `--keep` is given."""

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
    """Storage that nothing else uses. It is always below the given URL, so an existing log is never touched."""
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
    """The URL of `name` below `url`. `memory://` gets a name too: without one it is private to one handle, and lost at a
    reopen."""
    return url + name if url.endswith("/") else f"{url}/{name}"


def _remove(storage: StorageConfig) -> None:
    """Remove the log, and ignore errors, so that the result is printed in any case."""
    if storage.url.startswith("file://"):
        shutil.rmtree(storage.url.removeprefix("file://"), ignore_errors=True)
        return
    with suppress(Exception):
        filesystem, path = fsspec.url_to_fs(storage.url, **storage.storage_options)
        filesystem.rm(path, recursive=True)
