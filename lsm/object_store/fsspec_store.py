"""Objects in any fsspec file system that can create atomically.

Each backend implements fsspec's `pipe_file(mode="create")` in its own way, so only listed backends are accepted:

| file system                      | create-if-absent                                              |
|----------------------------------|---------------------------------------------------------------|
| s3fs (s3, s3a)                   | If-None-Match, see s3_store.py                                |
| gcsfs (gs, gcs)                  | ifGenerationMatch=0                                           |
| adlfs (abfs, abfss, az)          | If-None-Match                                                 |
| fsspec's memory, passed as `fs`  | check and write under one lock of this process                |
| fsspec's local                   | never used: LocalStore takes over                             |
| any other                        | refused, unless the caller asserts that only one writer exists, or only reads |

A server may still ignore the condition; probe.py finds that out.

Many other file systems write in place, and the only writer may die inside a write. So a create takes three steps there:

    write <directory>/.tmp-<name> -> move it to <name> -> (if a move is a copy) remove the temporary file

While the name is free, the temporary file may be incomplete. Once the name is taken, the temporary file is whole. So
`finish_creates` can undo or complete any interrupted create. The writer calls it before it reads anything (rule O7).

This module does not retry; ReliableStore does. Listing caches are off or bypassed. Async file systems run on fsspec's I/O
thread; a call from that thread would wait for itself, and is refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from lsm.concurrency.locks import LONG, shared
from lsm.errors import InvalidError
from lsm.object_store.contract import (
    CREATE_BYTES_MAX,
    TEMPORARY_PREFIX,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectStore,
    StoreFault,
    StoreSpec,
)
from lsm.object_store.error_map import Request, oversize, translate
from lsm.object_store.faults import RangePastEnd
from lsm.object_store.names import PREFIXES, is_foreign

ATOMIC_FILE_SYSTEMS = {
    ("s3fs", "S3FileSystem"): ("s3", "s3a"),
    ("gcsfs", "GCSFileSystem"): ("gs", "gcs"),
    ("adlfs", "AzureBlobFileSystem"): ("abfs", "abfss", "az"),
}
"""File systems known to create atomically, by package and class, with the URL schemes they serve."""

_create_lock = shared.lock(LONG)
"""Held by creates on file systems without atomic create. One per process: fsspec's memory is one dict per process."""


def is_a(fs: Any, package: str, name: str) -> bool:
    """Whether `fs` is an instance of the class `name` from `package`. Does not import the package."""
    return any(kind.__name__ == name and kind.__module__.split(".")[0] == package for kind in type(fs).__mro__)


class InPlaceCreates:
    """Creates on a file system that writes in place: through a temporary file, in the steps that the module describes."""

    def __init__(self, call: Callable[..., Any], stem: str, url: str) -> None:
        """`call` runs a method of the file system. `stem` is what precedes names in its paths."""
        self._call = call
        self._stem = stem
        self._url = url

    def create(self, name: str, body: bytes, timeout: float) -> None:
        """Raises: ObjectExists; StoreFault: somebody removed the temporary file."""
        path = self._stem + name
        temporary = _temporary(path)
        with _create_lock:
            if self._is_there(path, timeout):
                if self._is_there(temporary, timeout):
                    self._complete(temporary, path, timeout)
                raise ObjectExists(f"write {name} at {self._url}: the name is taken")
            self._call("makedirs", path.rpartition("/")[0], exist_ok=True, timeout=timeout)
            self._call("pipe_file", temporary, body, timeout=timeout)
            try:
                self._call("mv", temporary, path, timeout=timeout)
            except NotImplementedError:
                self._complete(temporary, path, timeout)
            except FileNotFoundError as error:
                gone = f"write {name} at {self._url}: its temporary file was removed"
                raise StoreFault(gone, transient=True) from error

    def finish(self, name: str, timeout: float) -> None:
        """Complete or undo the create that wrote through the file `name`. Requires: the lock of creates."""
        made = _created_by(name)
        if made is None:
            return
        each, path = self._stem + name, self._stem + made
        with contextlib.suppress(FileNotFoundError):  # A worker that outlived its writer moved the file.
            if self._is_there(path, timeout):
                self._complete(each, path, timeout)
            else:
                self._call("rm_file", each, timeout=timeout)

    def _complete(self, temporary: str, path: str, timeout: float) -> None:
        """Write the temporary file's bytes to `path` and remove it. Requires: the temporary file is whole."""
        self._call("pipe_file", path, self._call("cat_file", temporary, timeout=timeout), timeout=timeout)
        self._call("rm_file", temporary, timeout=timeout)

    def _is_there(self, path: str, timeout: float) -> bool:
        # fsspec's `exists` returns False for every failure.
        try:
            self._call("info", path, timeout=timeout)
        except FileNotFoundError:
            return False
        return True


class FsspecStore(ObjectStore):
    """A prefix of an fsspec file system.

    Cost: one backend request a call. Exceptions: deletes on file systems that look first; creates on file systems that
    write in place take four (look, make the directory, write, move). gcsfs and adlfs have no shortcut for whole objects, so
    `get` is a range read there.
    """

    def __init__(
        self,
        fs: Any,
        root: str,
        url: str,
        *,
        spec: StoreSpec | None = None,
        is_owned: bool = False,
        assume_single_writer: bool = False,
        reads_only: bool = False,
    ) -> None:
        """`root` is a path in `fs` without scheme. `is_owned`: only this store uses `fs`. `reads_only`: accept a file system
        without atomic create and without the caller's assertion, and refuse every create.

        Raises: InvalidError for a file system that cannot be used safely.
        """
        # A program on files never gets here, and does without fsspec and the asyncio under it.
        from fsspec.asyn import sync

        self._sync = sync
        self.url = url
        self._fs = fs
        self._stem = root.rstrip("/") + "/" if root.strip("/") else root
        self._spec = spec
        self._is_owned = is_owned
        self._is_closed = False
        self._is_memory = is_a(fs, "fsspec", "MemoryFileSystem")
        if getattr(fs, "asynchronous", False):
            raise InvalidError(f"{url}: the file system was made with asynchronous=True; pass one made without it")
        self._creates_atomically = any(is_a(fs, *known) for known in ATOMIC_FILE_SYSTEMS)
        # The listed file systems are all async. Others are called by their plain methods: fsspec's DirFileSystem, for
        # example, has the async class and may wrap a file system without async methods.
        self._is_async = self._creates_atomically
        self._writes_in_place = not self._creates_atomically and not self._is_memory
        self._may_create = not self._writes_in_place or assume_single_writer
        if not reads_only:
            self._refuse_creates()

    # -- the contract ---------------------------------------------------------------------------------------------

    def put_if_absent(self, name: str, parts: Sequence[bytes], *, timeout: float) -> None:
        self._refuse_creates()
        body = b"".join(parts)
        if len(body) > CREATE_BYTES_MAX:
            raise oversize(name, len(body))
        try:
            if self._creates_atomically:
                self._create(name, body, timeout)
            elif self._is_memory:
                self._create_in_memory(name, body, timeout)
            else:
                self._in_place().create(name, body, timeout)
        except ObjectExists:
            raise
        except Exception as error:
            self._raise(error, "write", name)

    def get(self, name: str, *, timeout: float) -> bytes:
        try:
            return self._read(name, 0, None, timeout)
        except Exception as error:
            return self._empty_past_end(error, name)

    def get_range(self, name: str, start: int, end: int, *, timeout: float) -> bytes:
        if start >= end:
            return b""
        try:
            return self._read(name, start, end, timeout)
        except Exception as error:
            return self._empty_past_end(error, name)

    def head(self, name: str, *, timeout: float) -> ObjectInfo:
        try:
            found = self._look(name, timeout)
        except Exception as error:
            self._raise(error, "look at", name)
        if found is None:
            raise ObjectMissing(f"look at {name} at {self.url}: no such object")
        return found

    def list(self, prefix: str, *, timeout: float) -> list[ObjectInfo]:
        try:
            found = self._list(prefix, timeout)
        except Exception as error:
            self._raise(error, "list", prefix or "everything")
        # Servers have their own orders: SeaweedFS sorts '/' before every other byte.
        return sorted(found, key=lambda info: info.name)

    def delete(self, name: str, *, timeout: float) -> None:
        try:
            self._call("rm_file", self._stem + name, timeout=timeout)
        except Exception as error:
            with contextlib.suppress(ObjectMissing):
                self._raise(error, "delete", name)

    def spec(self) -> StoreSpec | None:
        return self._spec

    def outer(self) -> Iterator[tuple[ObjectStore, str]]:
        levels = self._stem.rstrip("/").split("/")
        for depth in range(len(levels) - 1, 0, -1):
            path = "/".join(levels[depth:]) + "/"
            root = "/".join(levels[:depth])
            # The first level is a bucket or container. An absolute path has none: "/" is a root of its own.
            if root.strip("/") or self._stem.startswith("/"):
                url = self.url.rstrip("/").removesuffix(path.rstrip("/"))
                yield type(self)(self._fs, root or "/", url, reads_only=True), path

    def close(self) -> None:
        """Refuse further calls. A subclass closes its client if the client's own finalizer is not enough."""
        self._is_closed = True

    # -- overridden by subclasses ---------------------------------------------------------------------------------

    def _create(self, name: str, body: bytes, timeout: float) -> None:
        self._call("pipe_file", self._stem + name, body, mode="create", timeout=timeout)

    def _read(self, name: str, start: int, end: int | None, timeout: float) -> bytes:
        # Given a start, the file system does not ask for the size first.
        found = self._call("cat_file", self._stem + name, start=start, end=end, timeout=timeout)
        if not isinstance(found, bytes):
            # fsspec returns None for a task that was cancelled on the I/O thread.
            raise ConnectionAbortedError("the request was cancelled")
        return found

    def _look(self, name: str, timeout: float) -> ObjectInfo | None:
        entry = self._call("info", self._stem + name, timeout=timeout)
        return None if entry["type"] == "directory" else ObjectInfo(name, entry["size"], modified_ms(entry))

    def _list(self, prefix: str, timeout: float) -> Sequence[ObjectInfo]:
        found = self._entries(prefix, timeout)
        if not self._writes_in_place:
            return found
        return [info for info in found if _created_by(info.name) is None]

    def _entries(self, prefix: str, timeout: float) -> Sequence[ObjectInfo]:
        if self._is_async:
            entries: Iterable[tuple[str, Mapping[str, Any]]]
            entries = self._call("find", self._stem + prefix, detail=True, timeout=timeout).items()
        else:
            entries = self._walk(self._stem + prefix)
        stem = self._stem.lstrip("/")
        return [
            ObjectInfo(path.lstrip("/")[len(stem) :], entry["size"], modified_ms(entry))
            for path, entry in entries
            if path.lstrip("/").startswith(stem + prefix)
        ]

    def _walk(self, folder: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the files below `folder`. fsspec's own `find` silently skips a directory that it cannot read."""
        try:
            entries = self._call("ls", folder, detail=True, timeout=0.0)
        except Exception as error:
            if isinstance(translate(error, "read", folder, self.url), ObjectMissing):
                return  # The directory does not exist, or was removed.
            raise
        for entry in entries:
            path = entry["name"]
            if entry["type"] != "directory":
                yield path, entry
            elif path.strip("/") != folder.strip("/"):
                yield from self._walk(path.rstrip("/") + "/")

    # -- calling --------------------------------------------------------------------------------------------------

    def _call(self, method: str, *arguments: Any, timeout: float, **options: Any) -> Any:
        """Run a method of the file system. If it is async, run it on its I/O thread and within `timeout`."""
        if not self._is_async:
            self._refuse_closed()
            return getattr(self._fs, method)(*arguments, **options)
        return self._run(getattr(self._fs, "_" + method), *arguments, timeout=timeout, **options)

    def _run(self, function: Callable[..., Any], *arguments: Any, timeout: float, **options: Any) -> Any:
        self._refuse_closed()
        try:
            return self._sync(self._fs.loop, function, *arguments, timeout=timeout, **options)
        except NotImplementedError as error:
            raise InvalidError(
                f"{self.url}: called from fsspec's own I/O thread, where it would wait for itself; call it from "
                f"another thread"
            ) from error

    def _create_in_memory(self, name: str, body: bytes, timeout: float) -> None:
        path = self._stem + name
        with _create_lock:
            # `exists` and `makedirs` of fsspec's memory look through all its objects, and creates need neither.
            if self._fs._strip_protocol(path) in self._fs.store:
                raise ObjectExists(f"write {name} at {self.url}: the name is taken")
            self._call("pipe_file", path, body, timeout=timeout)

    def _in_place(self) -> InPlaceCreates:
        # Not kept: a store that refers to itself is freed late, and with it the connections of its file system.
        return InPlaceCreates(self._call, self._stem, self.url)

    def finish_creates(self, *, timeout: float) -> None:
        """Complete or undo interrupted creates. Cost: five LIST on file systems that write in place; else none."""
        if not self._writes_in_place:
            return
        try:
            with _create_lock:
                temporaries = [info.name for prefix in PREFIXES for info in self._entries(prefix, timeout)]
                creates = self._in_place()
                for name in temporaries:
                    creates.finish(name, timeout)
        except Exception as error:
            self._raise(error, "write", "the objects of interrupted creates")

    def _refuse_creates(self) -> None:
        if not self._may_create:
            raise InvalidError(
                f"{self.url}: {type(self._fs).__name__} is not known to create objects atomically, so two writers could "
                f"damage the database. Use s3, gs, abfs, file or memory, or pass assume_single_writer=True if no second "
                f"writer can ever exist"
            )

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise InvalidError(f"{self.url}: the store is closed")

    def _raise(self, error: Exception, request: Request, name: str) -> NoReturn:
        if isinstance(error, InvalidError | StoreFault):
            raise error
        raise translate(error, request, name, self.url) from error

    def _empty_past_end(self, error: Exception, name: str) -> bytes:
        """Return b"" if the range started past the end; translate and raise any other `error`."""
        try:
            self._raise(error, "read", name)
        except RangePastEnd:
            return b""


def _created_by(name: str) -> str | None:
    """Return the object that a create was writing through the temporary file `name`. None: the file belongs to another
    program (rule B4)."""
    folder, slash, last = name.rpartition("/")
    made = f"{folder}{slash}{last.removeprefix(TEMPORARY_PREFIX)}"
    return made if made != name and not is_foreign(made) else None


def _temporary(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{TEMPORARY_PREFIX}{name}"


def modified_ms(entry: Mapping[str, Any]) -> int | None:
    """Return the modification time of an fsspec entry. Backends use different names for it."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created"):
        found = entry.get(key)
        if isinstance(found, datetime):
            return int(found.timestamp() * 1000)
    return None


def describe(fs: Any) -> str:
    """Return the first URL scheme of a file system, for messages."""
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return os.fspath(protocol)
