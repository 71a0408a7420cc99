"""The followers of each key, and how they are woken. This makes following a million keys cost almost nothing.

A follower registers its keys before it reads, so any record that becomes visible after its read wakes it. A wakeup is one set
operation per batch, and touches only the followers of its keys; without followers it is one attribute read.

Lock order: no other lock is taken under the locks of this module, because `tell` may be called under the engine's write lock.
The batch is appended by then, so `tell` must not fail, not even in a signal handler that interrupted an `add`: it takes no
lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain
from typing import Protocol
from weakref import ref

import lsm

FORGET_AFTER = 1024
"""Minimum `add` calls between two sweeps of dead followers."""


class Sleeper(Protocol):
    """A waiter for new records."""

    def wake(self) -> None:
        """There may be new records. Must be quick, must not raise, and must not read or write the log."""


class Wakeups:
    """The followers of one handle. Thread-safe. A follower that is no longer referenced is removed by itself."""

    def __init__(self, runtime: lsm.Runtime) -> None:
        self._lock = runtime.lock()
        self._by_key: dict[bytes, list[ref[Sleeper]]] = {}
        self._anywhere: list[ref[Sleeper]] = []
        self._added = self._alive = 0
        self.is_followed = False
        """Whether there is any follower."""

    def add(self, keys: Iterable[bytes] | None, sleeper: Sleeper) -> None:
        """Wake `sleeper` for new records of `keys` (None: of any key) from now on, as long as it is referenced."""
        with self._lock:
            if keys is None:
                self._anywhere = [*filter(_is_alive, self._anywhere), ref(sleeper)]
            else:
                for key in sorted(keys):  # The order of wakeups must not depend on hashes.
                    # A `tell` may be iterating over the list, so the list is replaced, never changed.
                    self._by_key[key] = [*filter(_is_alive, self._by_key.get(key, ())), ref(sleeper)]
            self.is_followed = True
            self._added += 1
            is_time = self._added > 2 * self._alive + FORGET_AFTER
        if is_time:
            self._forget_dead()

    def remove(self, keys: Iterable[bytes] | None, sleeper: Sleeper) -> None:
        """Stop waking `sleeper` for `keys`."""
        if self._lock.is_held_here():
            return  # In a signal handler that interrupted a call here: removed once it is no longer referenced.
        with self._lock:
            if keys is None:
                self._anywhere = [one for one in self._anywhere if one() is not sleeper]
            else:
                for key in keys:
                    left = [one for one in self._by_key.get(key, ()) if one() is not sleeper]
                    if left:
                        self._by_key[key] = left
                    else:
                        self._by_key.pop(key, None)
            self.is_followed = bool(self._by_key or self._anywhere)

    def _forget_dead(self) -> None:
        if self._lock.is_held_here():
            return
        with self._lock:
            alive = {key: [one for one in found if one() is not None] for key, found in self._by_key.items()}
            self._by_key = {key: found for key, found in alive.items() if found}
            self._anywhere = list(filter(_is_alive, self._anywhere))
            self._added = self._alive = len(self._by_key) + len(self._anywhere)
            self.is_followed = bool(self._by_key or self._anywhere)

    def appended(self, keys: Iterable[bytes], batch: int) -> None:
        """The engine's batch of that number has records of these keys, and reads see it."""
        self.tell(keys)

    def advanced(self) -> None:
        """More is durable than before; nothing new here, because these followers see an append at once."""

    def tell(self, keys: Iterable[bytes]) -> None:
        """Wake the followers of these keys: there are new records."""
        by_key = self._by_key
        concerned = [by_key.get(key, ()) for key in sorted(by_key.keys() & keys)]
        self._wake(chain(self._anywhere, chain.from_iterable(concerned)))

    def tell_all(self) -> None:
        """Wake all followers: there may be new records of any key, or the handle is closed or failed."""
        concerned = list(self._by_key.values())
        self._wake(chain(self._anywhere, chain.from_iterable(concerned)))

    def _wake(self, found: Iterable[ref[Sleeper]]) -> None:
        has_dead = False
        for one in found:
            sleeper = one()
            if sleeper is None:
                has_dead = True
            else:
                sleeper.wake()
        if has_dead:
            self._forget_dead()


def _is_alive(sleeper: ref[Sleeper]) -> bool:
    return sleeper() is not None


class DurableWakeups(Wakeups):
    """Followers that see an append only when it is durable. They are woken then, not before."""

    def __init__(self, runtime: lsm.Runtime, db: lsm.Db) -> None:
        super().__init__(runtime)
        self._db = db
        self._queue = runtime.lock()
        self._pending: deque[tuple[int, frozenset[bytes]]] = deque()
        self._seen = db.durable_seq
        self._unrecorded_through = 0

    def add(self, keys: Iterable[bytes] | None, sleeper: Sleeper) -> None:
        super().add(keys, sleeper)
        with self._queue:
            # The keys of earlier batches were not recorded: until those batches are durable, all followers are woken.
            self._unrecorded_through = self._db.last_seq
        self.advanced()

    def appended(self, keys: Iterable[bytes], batch: int) -> None:
        """The engine's batch of that number has records of these keys. Requires: calls in the order of the batches."""
        self._pending.append((batch, frozenset(keys)))
        if self._db.durable_seq >= batch:
            self.advanced()

    def advanced(self) -> None:
        """Wake the followers of the keys that became durable."""
        if self._queue.is_held_here():
            return  # In a signal handler that interrupted `add`, which calls this method afterwards.
        keys: set[bytes] = set()
        durable = self._db.durable_seq
        with self._queue:
            while self._pending and self._pending[0][0] <= durable:
                keys |= self._pending.popleft()[1]
            is_unrecorded = self._seen < self._unrecorded_through
            self._seen = durable
        if is_unrecorded:
            self.tell_all()
        elif keys or self._anywhere:
            self.tell(keys)
