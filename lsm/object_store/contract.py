"""The contract between the engine and an object store.

A store keeps immutable objects under slash-separated names. Each of these calls is atomic:

    put_if_absent   create an object that does not exist; of several racing creators exactly one succeeds, and no reader
                    ever sees part of an object
    get, get_range  read a whole object or a byte range
    head, list      read sizes and names; never answered from a cache
    delete          remove an object; a missing object is no error

An adapter translates its backend's exceptions into ObjectExists, ObjectMissing and StoreFault. It neither retries nor
caches. `ReliableStore` (reliable.py) adds deadlines, retries and the resolution of ambiguous replies.

Source: the operations that SlateDB uses of the Rust `object_store` crate, without overwrites and If-Match. Local files and
memory cannot offer those two, and here every object is written once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CREATE_BYTES_MAX = 99 << 20
"""Maximum bytes per object in a remote store. Above it s3fs uses multipart uploads, whose conditions some servers ignore."""

TEMPORARY_PREFIX = ".tmp-"
"""Prefix of the file names of unfinished creates. No listing shows such files."""


class ObjectExists(Exception):
    """put_if_absent found the name taken, perhaps by an earlier copy of the same request: compare the bytes."""


class ObjectMissing(Exception):
    """The object does not exist."""


class MissingInParent(ObjectMissing):
    """A clone reads an object of its parent in place, and the object does not exist at the parent's `url`."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(name)
        self.url = url


class StoreFault(Exception):
    """The backend failed. A `transient` fault can be retried. A write that failed may have been applied."""

    def __init__(self, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object's name relative to the store's root, its size in bytes, and its modification time.

    `modified_ms` is None if the backend gives no time.
    """

    name: str
    size: int
    modified_ms: int | None = None


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """URL and options that open the same store again, in this process or another one. Picklable."""

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


class ObjectStore(ABC):
    """One root (bucket and prefix, directory, or a private dict) of a backend. Thread-safe."""

    url: str
    """The store's URL in messages and in the status. It never contains credentials."""

    is_near: bool = False
    """Whether a request takes less time than handing it to another thread. If so, parallel reads do not pay."""

    decides_itself: bool = False
    """Whether this process or its kernel decides if a name is taken. If so, one refused create is a proof for ever."""

    object_bytes_max: int = CREATE_BYTES_MAX
    """Maximum bytes per object."""

    @abstractmethod
    def put_if_absent(self, name: str, parts: Sequence[bytes], *, timeout: float) -> None:
        """Create `name` with the concatenation of `parts`. On local files the object survives a power loss after return.

        Raises: ObjectExists, StoreFault (the object may exist or appear later).
        """

    @abstractmethod
    def get(self, name: str, *, timeout: float) -> bytes:
        """Return the whole object. Raises: ObjectMissing, StoreFault."""

    @abstractmethod
    def get_range(self, name: str, start: int, end: int, *, timeout: float) -> bytes:
        """Return bytes [start, end) of the object; fewer, possibly none, if the object ends before `end`.

        Raises: ObjectMissing, StoreFault.
        """

    @abstractmethod
    def head(self, name: str, *, timeout: float) -> ObjectInfo:
        """Return size and modification time. Raises: ObjectMissing, StoreFault."""

    @abstractmethod
    def list(self, prefix: str, *, timeout: float) -> list[ObjectInfo]:
        """Return every object whose name starts with `prefix`, in byte order of the names.

        `prefix` ends in '/' or is empty. A prefix without objects gives an empty list. Raises: StoreFault.
        """

    @abstractmethod
    def delete(self, name: str, *, timeout: float) -> None:
        """Remove the object if it exists. Raises: StoreFault."""

    @property
    def generation(self) -> int:
        """Number that grows when an answer shows a changed backend: other server software, or versioning switched on."""
        return 0

    def finish_creates(self, *, timeout: float) -> None:  # noqa: B027 -- most backends create at one stroke
        """Complete or undo creates that a dead process left unfinished, on backends that write in place.

        Only a writer calls it, at its open, before it reads. Raises: StoreFault.
        """

    def leftovers(self, *, timeout: float) -> Sequence[ObjectInfo]:
        """List files that interrupted creates left. `list` never shows their names, and `delete` accepts them.

        If the file of a running create is deleted, that create starts again. Raises: StoreFault.
        """
        return []

    def spec(self) -> StoreSpec | None:
        """Return the spec with which another process opens this store. None: another process cannot open it, because it is
        in memory or the application passed its own file system."""
        return None

    def outer(self) -> Iterable[tuple[ObjectStore, str]]:
        """Yield the stores of the same backend whose roots contain this root, innermost first, each with the path from its
        root to this root. The path ends in '/'. Callers need not close these stores."""
        return ()

    def is_replaced(self) -> bool:
        """Whether the root was replaced after this store first used it. Cost: no request."""
        return False

    def close(self) -> None:  # noqa: B027 -- most backends have nothing to release
        """Release connections. Idempotent."""
