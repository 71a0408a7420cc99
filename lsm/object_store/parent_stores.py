"""The store of a clone, which reads its parents' tables in the parents' stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from lsm.object_store.contract import MissingInParent, ObjectInfo, ObjectMissing, ObjectStore


class RoutedStore(ObjectStore):
    """Reads of a name in `elsewhere` go to the store that `elsewhere` gives. All other calls, and every delete, go to `own`."""

    def __init__(self, own: ObjectStore, elsewhere: Mapping[str, ObjectStore]) -> None:
        self.own = own
        self.url = own.url
        self.is_near = own.is_near and all(each.is_near for each in elsewhere.values())
        self.decides_itself = own.decides_itself
        self.object_bytes_max = own.object_bytes_max
        self._elsewhere = elsewhere

    @property
    def generation(self) -> int:
        return self.own.generation

    def put_if_absent(self, name: str, parts: Sequence[bytes], *, timeout: float) -> None:
        self.own.put_if_absent(name, parts, timeout=timeout)

    def get(self, name: str, *, timeout: float) -> bytes:
        with self._place_of(name) as store:
            return store.get(name, timeout=timeout)

    def get_range(self, name: str, start: int, end: int, *, timeout: float) -> bytes:
        with self._place_of(name) as store:
            return store.get_range(name, start, end, timeout=timeout)

    def head(self, name: str, *, timeout: float) -> ObjectInfo:
        with self._place_of(name) as store:
            return store.head(name, timeout=timeout)

    @contextmanager
    def _place_of(self, name: str) -> Iterator[ObjectStore]:
        parent = self._elsewhere.get(name)
        try:
            yield self.own if parent is None else parent
        except ObjectMissing as error:
            if parent is None:
                raise
            raise MissingInParent(name, parent.url) from error

    def list(self, prefix: str, *, timeout: float) -> list[ObjectInfo]:
        return self.own.list(prefix, timeout=timeout)

    def delete(self, name: str, *, timeout: float) -> None:
        self.own.delete(name, timeout=timeout)

    def finish_creates(self, *, timeout: float) -> None:
        self.own.finish_creates(timeout=timeout)

    def leftovers(self, *, timeout: float) -> Sequence[ObjectInfo]:
        return self.own.leftovers(timeout=timeout)

    def outer(self) -> Iterable[tuple[ObjectStore, str]]:
        return self.own.outer()

    def is_replaced(self) -> bool:
        return self.own.is_replaced()

    def close(self) -> None:
        for each in {id(store): store for store in (self.own, *self._elsewhere.values())}.values():
            each.close()
