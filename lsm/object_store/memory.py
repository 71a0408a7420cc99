"""Objects in a dict of this process: the model that the other stores must match.

`memory://` is private to its instance. `memory://name` is one store per name and process; it lives until the process ends
or `MemoryStore.forget` drops it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lsm.concurrency.locks import SHORT, shared
from lsm.object_store.contract import ObjectExists, ObjectInfo, ObjectMissing, ObjectStore

_shared: dict[str, MemoryStore] = {}
_shared_lock = shared.lock(SHORT)


class MemoryStore(ObjectStore):
    """A dict and a lock. No call is ambiguous or slow, and none raises StoreFault.

    Cost: put, get, head and delete O(1); list sorts the names under the prefix (0.2 s at 100,000 objects).
    """

    is_near = True
    decides_itself = True
    object_bytes_max = 1 << 40

    def __init__(self, url: str = "memory://", *, now_ms: Callable[[], int] | None = None) -> None:
        """`now_ms` gives the objects' modification times. None: objects have no modification time."""
        self.url = url
        self._now_ms = now_ms
        self._objects: dict[str, bytes] = {}
        self._modified: dict[str, int] = {}
        self._lock = shared.lock(SHORT)

    @classmethod
    def shared(cls, name: str) -> MemoryStore:
        """Return this process's store called `name`. The first call makes it."""
        with _shared_lock:
            return _shared.setdefault(name, cls(f"memory://{name}"))

    @classmethod
    def forget(cls, name: str) -> None:
        """Drop the shared store called `name`. Handles that use it keep it."""
        with _shared_lock:
            _shared.pop(name, None)

    def put_if_absent(self, name: str, parts: Sequence[bytes], *, timeout: float) -> None:
        body = b"".join(parts)
        with self._lock:
            if name in self._objects:
                raise ObjectExists(f"write {name} at {self.url}: the name is taken")
            if self._now_ms is not None:
                self._modified[name] = self._now_ms()
            self._objects[name] = body

    def get(self, name: str, *, timeout: float) -> bytes:
        try:
            return self._objects[name]
        except KeyError:
            raise self._missing("read", name) from None

    def get_range(self, name: str, start: int, end: int, *, timeout: float) -> bytes:
        return self.get(name, timeout=timeout)[start:end] if start < end else b""

    def head(self, name: str, *, timeout: float) -> ObjectInfo:
        try:
            return self._info(name)
        except KeyError:
            raise self._missing("look at", name) from None

    def list(self, prefix: str, *, timeout: float) -> list[ObjectInfo]:
        # Code points sort like their UTF-8 bytes, so the order of str is the byte order of the contract.
        with self._lock:
            return [self._info(name) for name in sorted(name for name in self._objects if name.startswith(prefix))]

    def delete(self, name: str, *, timeout: float) -> None:
        with self._lock:
            self._objects.pop(name, None)
            self._modified.pop(name, None)

    def outer(self) -> Iterator[tuple[ObjectStore, str]]:
        levels = self.url.removeprefix("memory://").split("/")
        for depth in range(len(levels) - 1, 0, -1):
            found = _shared.get("/".join(levels[:depth]))
            if found is not None:
                yield found, "/".join(levels[depth:]) + "/"

    def _info(self, name: str) -> ObjectInfo:
        return ObjectInfo(name, len(self._objects[name]), self._modified.get(name))

    def _missing(self, verb: str, name: str) -> ObjectMissing:
        return ObjectMissing(f"{verb} {name} at {self.url}: no such object")
