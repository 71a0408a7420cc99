"""Decoded blocks, indexes and filters in memory, within budgets of bytes. Concurrent callers share one load per item.

A hit takes no lock: it is one lookup in a dict, and it notes the time of use on the item. Evictions evaluate these times
later, under the lock:

    new      first in, first out; limited to a quarter of the budget once proven items need the rest
    proven   used again some time after the load; stays for another round if it was used in this round
    ghosts   keys of items that left `new` lately; an item whose key is here is proven when it is loaded again

So a scan of any length passes through `new`. A scan may use one block many times at once (a block holds many streams): such
uses do not prove an item. Only a use some time after the load does.

Source: 2Q (Johnson and Shasha, VLDB 1994), its main part kept as a clock; the distance in uses plays the part of
InnoDB's `innodb_old_blocks_time`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec

from lsm.errors import InvalidError
from lsm.runtime import Runtime
from lsm.sst.disk_cache import DiskCacheStatus

V = TypeVar("V")
Key = tuple[Any, ...]
"""The first item is the id of the database."""

BLOCK_BYTES: Final = 224 << 20
META_BYTES: Final = 32 << 20

PROOF: Final = 1000
"""A use proves an item if it comes at least this many uses after the load. Loading 1/16 of the budget counts as this many."""


class CacheStatus(msgspec.Struct, frozen=True):
    """One cache; sizes in bytes. `hits` is approximate if threads race; `misses` counts loads, `evictions` removals."""

    capacity: int
    size: int
    items: int
    hits: int
    misses: int
    evictions: int


class _Item(Generic[V]):
    __slots__ = ("born", "used", "value", "weight")

    def __init__(self, value: V, weight: int, now: int) -> None:
        self.value = value
        self.weight = weight
        self.born = now
        self.used = now


class Cache(Generic[V]):
    """A cache of at most `capacity` bytes. Thread-safe; can be shared between databases."""

    def __init__(self, capacity: int, runtime: Runtime) -> None:
        self._capacity = capacity
        self._lock = runtime.lock()
        self._items: dict[Key, _Item[V]] = {}
        self._new: OrderedDict[Key, _Item[V]] = OrderedDict()
        self._proven: OrderedDict[Key, _Item[V]] = OrderedDict()
        self._ghosts: OrderedDict[Key, None] = OrderedDict()
        self._new_size = 0
        self._size = 0
        self._loaded = 0
        self._ticks = 0
        """Bytes loaded so far, converted to uses. The cache's clock is the sum of `_hits` and `_ticks`."""
        self._hits = 0
        self._misses = 0
        self._evictions = 0

    def peek(self, key: Key) -> V | None:
        """The item, or None if it is not cached. Takes no lock."""
        found = self._items.get(key)
        if found is None:
            return None
        self._hits = hits = self._hits + 1
        found.used = hits + self._ticks
        return found.value

    def put(self, key: Key, value: V, weight: int) -> None:
        """Keep a loaded item, and evict others to make room."""
        with self._lock:
            self._misses += 1
            self._remove(key)
            if weight > self._capacity or not self._capacity:
                return
            self._loaded += weight
            self._ticks = 16 * PROOF * self._loaded // self._capacity
            item = self._items[key] = _Item(value, weight, self._hits + self._ticks)
            self._size += weight
            if key in self._ghosts:
                del self._ghosts[key]
                self._proven[key] = item
            else:
                self._new[key] = item
                self._new_size += weight
            if self._size > self._capacity:
                self._make_room()

    def _make_room(self) -> None:
        new, proven, ghosts = self._new, self._proven, self._ghosts
        while self._size > self._capacity:
            if new and (not proven or self._new_size * 4 > self._capacity):
                key, item = new.popitem(last=False)
                self._new_size -= item.weight
                if item.used - item.born >= PROOF:
                    item.born = item.used
                    proven[key] = item
                    continue
                ghosts[key] = None
            else:
                key, item = proven.popitem(last=False)
                if item.used > item.born:  # Used in this round.
                    item.born = item.used
                    proven[key] = item
                    continue
            del self._items[key]
            self._size -= item.weight
            self._evictions += 1
        while len(ghosts) > len(self._items):
            ghosts.popitem(last=False)

    def _remove(self, key: Key) -> None:
        old = self._items.pop(key, None)
        if old is not None:
            self._size -= old.weight
            if self._new.pop(key, None) is not None:
                self._new_size -= old.weight
            else:
                del self._proven[key]

    def drop(self, database: bytes) -> None:
        """Drop one database's items."""
        with self._lock:
            for key in [key for key in self._items if key[0] == database]:
                self._remove(key)

    def status(self) -> CacheStatus:
        with self._lock:
            return CacheStatus(self._capacity, self._size, len(self._items), self._hits, self._misses, self._evictions)


class CachesStatus(msgspec.Struct, frozen=True):
    """`blocks`: decoded blocks. `meta`: indexes and filters. `disk`: the handle's directory of stored parts, if any."""

    blocks: CacheStatus
    meta: CacheStatus
    disk: DiskCacheStatus | None = None


class Caches:
    """Memory that several databases, logs and readers of a process share. Thread-safe; closing a handle does not change it.

    Keys are the database's id and a table's number and content. So items of different databases never mix, nor items of two
    copies of one database. Handles on one database share its items.

    >>> caches = Caches(block_bytes=1 << 20)
    >>> caches.status().blocks.capacity
    1048576
    """

    def __init__(
        self, *, block_bytes: int = BLOCK_BYTES, meta_bytes: int = META_BYTES, runtime: Runtime | None = None
    ) -> None:
        """`runtime`: provides the locks. Handles of other runtimes may use these caches: no thread waits while holding one."""
        for name, size in (("block_bytes", block_bytes), ("meta_bytes", meta_bytes)):
            if type(size) is not int or size < 0:
                raise InvalidError(f"Caches: {name} must be an integer, at least 0, got {size!r}")
        runtime = runtime if runtime is not None else Runtime()
        self.blocks: Cache[Any] = Cache(block_bytes, runtime)
        self.meta: Cache[Any] = Cache(meta_bytes, runtime)

    def drop(self, database: bytes) -> None:
        """Drop the items of one database, by its id."""
        self.blocks.drop(database)
        self.meta.drop(database)

    def status(self) -> CachesStatus:
        return CachesStatus(self.blocks.status(), self.meta.status())

    def __repr__(self) -> str:
        return f"<Caches {self.status()}>"


PATIENCE_SECONDS = 1.0
"""Maximum seconds that a caller waits for another caller's load."""


class _Load:
    """A load under way, which other callers wait for."""

    __slots__ = ("error", "is_done", "is_interrupted", "thread", "value")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.is_done = False
        self.is_interrupted = False
        self.value: Any = None
        self.error: BaseException | None = None


class Loads:
    """The loads one handle has under way. Handles do not share them: a handle's failure or end affects no other handle."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._changed = runtime.condition()
        self._loads: dict[Key, _Load] = {}

    def get(self, cache: Cache[V], key: Key, load: Callable[[], tuple[V, int]], *, keep: bool = True) -> V:
        """The item; if it is not cached, one of the callers loads it. `load` returns the item with its weight in bytes.

        A failed load raises in every caller that waited for it; the next caller tries again. A load may never end if its
        thread is in a signal handler: after PATIENCE_SECONDS a waiting caller loads the item itself.
        """
        me = self._runtime.thread_id()
        mine = _Load(me)
        try:
            # One step of the interpreter decides whose load it is. So only a thread that has to wait takes the lock.
            pending = self._loads.setdefault(key, mine)
            found = cache.peek(key) if pending is mine else None
            if found is not None:  # Another thread's load ended just before.
                mine.value = found
                self._finish(key, mine, None)
                return found
            if pending is not mine:
                with self._changed:
                    while True:
                        found = cache.peek(key)
                        if found is not None:
                            return found
                        pending = self._loads.setdefault(key, mine)
                        if pending is mine:
                            break
                        if pending.thread == me or not self._wait(pending):
                            break
                        if pending.is_interrupted:
                            continue
                        if pending.error is None:
                            shared: V = pending.value
                            return shared
                        raise pending.error
            loaded, weight = load()
            mine.value = loaded
            if keep:
                cache.put(key, loaded, weight)
            if pending is mine:
                self._finish(key, mine, None)
        except BaseException as error:
            if self._loads.get(key) is mine:
                # This thread's KeyboardInterrupt must not end a waiter: the waiter looks again and loads the item itself.
                mine.is_interrupted = not isinstance(error, Exception)
                self._finish(key, mine, error)
            raise
        return loaded

    def _wait(self, pending: _Load) -> bool:
        """Wait for a load, and return whether it is done. Requires: the lock."""
        deadline = self._runtime.monotonic() + PATIENCE_SECONDS
        while not pending.is_done:
            left = deadline - self._runtime.monotonic()
            if left <= 0:
                return False
            self._changed.wait(left)
        return True

    def _finish(self, key: Key, pending: _Load, error: BaseException | None) -> None:
        with self._changed:
            pending.error = error
            pending.is_done = True
            del self._loads[key]
            self._changed.notify_all()
