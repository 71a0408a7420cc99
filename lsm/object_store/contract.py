"""The seam for bytes at rest: what the engine asks of an object store, in words.

A store keeps immutable objects under slash-separated names. Seven calls, each atomic:

    put_if_absent   create an object that does not exist; of several racing creators exactly one succeeds, and no reader
                    ever sees part of an object
    get, get_range  read a whole object or a byte range
    head, list      look at sizes and names, without a cache
    delete          remove; removing what is not there is fine

An adapter translates its backend's exceptions into the three classes below and does nothing else: no retries, no
caching. `ReliableStore` (reliable.py) puts deadlines, retries and the resolution of ambiguous replies on top.

Source: the operations SlateDB uses of the Rust `object_store` crate, minus overwrites and If-Match, which local files
and memory cannot give (every object here is written once).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CREATE_BYTES_MAX = 99 << 20
"""No object in a remote store is larger: above it s3fs switches to multipart uploads, whose conditions some servers ignore."""

TEMPORARY_PREFIX = ".tmp-"
"""Begins the names of files that are not objects yet. No listing shows them."""


class ObjectExists(Exception):
    """put_if_absent found the name taken. Says nothing about who took it: compare the bytes before believing it."""


class ObjectMissing(Exception):
    """The object does not exist."""


class MissingInParent(ObjectMissing):
    """An object of another database, which a clone reads in place, does not exist at `url`."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(name)
        self.url = url


class StoreFault(Exception):
    """The backend failed. `transient` faults are worth a retry; a write that faulted may have been applied."""

    def __init__(self, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object's name (relative to the store's root), size in bytes, and age where the backend tells it."""

    name: str
    size: int
    modified_ms: int | None = None


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """How to open the same store again, in this process or another one. Picklable."""

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


class ObjectStore(ABC):
    """One root (bucket and prefix, directory, or a private dict) of a backend. Thread-safe."""

    url: str
    """For messages and status; never contains credentials."""

    is_near: bool = False
    """Requests take less time than handing them to another thread: reading in parallel would not pay."""

    decides_itself: bool = False
    """Whether a name is taken is decided by this process or its kernel, so a store that refused once refuses for ever."""

    object_bytes_max: int = CREATE_BYTES_MAX
    """No larger object can be created."""

    @abstractmethod
    def put_if_absent(self, name: str, parts: Sequence[bytes], *, timeout: float) -> None:
        """Create `name` with the concatenation of `parts`. On local files it is durable against power loss on return.

        Raises: ObjectExists, StoreFault (the object may exist or appear later).
        """

    @abstractmethod
    def get(self, name: str, *, timeout: float) -> bytes:
        """The whole object. Raises: ObjectMissing, StoreFault."""

    @abstractmethod
    def get_range(self, name: str, start: int, end: int, *, timeout: float) -> bytes:
        """Bytes [start, end) of the object; shorter, possibly empty, where it ends before `end`.

        Raises: ObjectMissing, StoreFault.
        """

    @abstractmethod
    def head(self, name: str, *, timeout: float) -> ObjectInfo:
        """Size and age. Raises: ObjectMissing, StoreFault."""

    @abstractmethod
    def list(self, prefix: str, *, timeout: float) -> list[ObjectInfo]:
        """Every object whose name starts with `prefix` (which ends in '/' or is empty), in byte order of the names.

        Never an error for a prefix that holds nothing. Raises: StoreFault.
        """

    @abstractmethod
    def delete(self, name: str, *, timeout: float) -> None:
        """Remove the object if it exists. Raises: StoreFault."""

    @property
    def generation(self) -> int:
        """Grows when an answer shows that the backend is not what it was: other software, or versioning switched on."""
        return 0

    def finish_creates(self, *, timeout: float) -> None:  # noqa: B027 -- most backends create at one stroke
        """Complete or undo creates that a process died in, on backends that write in place. A writer calls it at its open,
        before it reads; nobody else does. Raises: StoreFault."""

    def leftovers(self, *, timeout: float) -> Sequence[ObjectInfo]:
        """What creates that were cut off left behind, by names that `list` never shows and `delete` takes. A create whose
        leftover is deleted while it is under way begins again. Raises: StoreFault."""
        return []

    def spec(self) -> StoreSpec | None:
        """How another process can open this store, or None where it cannot (memory, a file system handed in)."""
        return None

    def outer(self) -> Iterable[tuple[ObjectStore, str]]:
        """The stores of the same backend that this root lies in, the nearest first, each with the path from there to here,
        which ends in '/'. They need not be closed."""
        return ()

    def is_replaced(self) -> bool:
        """Whether the root is not the one this store found when it was first used. Cost: no request."""
        return False

    def close(self) -> None:  # noqa: B027 -- most backends have nothing to release
        """Release connections. Idempotent."""
