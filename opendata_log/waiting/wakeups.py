"""Who waits for news of which key, and how they are told. What makes following a million logs cost next to nothing.

A follower registers the keys it follows before it reads, so whatever becomes visible after its read tells it. Telling is a
set operation per batch and touches those concerned; with nobody following it is one attribute.

Lock order: the locks here are the last that anybody takes; a `tell` may come from under the engine's write lock. It comes when
a batch is appended already, so it must not fail, not even in a signal handler that interrupted an `add`: it takes none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain
from typing import Protocol
from weakref import ref

import lsm

FORGET_AFTER = 1024
"""Followers that come before those who left without a word are looked for."""


class Sleeper(Protocol):
    """Whoever waits for news."""

    def wake(self) -> None:
        """There may be some. Must be quick, must not raise, and must not read or write the log."""


class Wakeups:
    """The followers of one handle. Thread-safe. A follower nobody holds any more is forgotten by itself."""

    def __init__(self, runtime: lsm.Runtime) -> None:
        self._lock = runtime.lock()
        self._by_key: dict[bytes, list[ref[Sleeper]]] = {}
        self._anywhere: list[ref[Sleeper]] = []
        self._added = self._alive = 0
        self.is_followed = False
        """Anybody follows anything."""

    def add(self, keys: Iterable[bytes] | None, sleeper: Sleeper) -> None:
        """Wake `sleeper` for news of `keys` (None: of any key) from now on, until nobody holds it."""
        with self._lock:
            if keys is None:
                self._anywhere = [*filter(_is_alive, self._anywhere), ref(sleeper)]
            else:
                for key in sorted(keys):  # Whom `tell_all` wakes first must not depend on hashes.
                    # Lists are replaced, never changed: those who are being told now need no copy.
                    self._by_key[key] = [*filter(_is_alive, self._by_key.get(key, ())), ref(sleeper)]
            self.is_followed = True
            self._added += 1
            is_time = self._added > 2 * self._alive + FORGET_AFTER
        if is_time:
            self._forget_dead()

    def remove(self, keys: Iterable[bytes] | None, sleeper: Sleeper) -> None:
        """Wake it no more."""
        if self._lock.is_held_here():
            return  # From a signal handler: it is forgotten when nobody holds it any more.
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
        """The engine's batch of that number holds these keys, and reads see it."""
        self.tell(keys)

    def advanced(self) -> None:
        """More is durable than before: nothing new to those who see an append at once."""

    def tell(self, keys: Iterable[bytes]) -> None:
        """There is news of these keys."""
        by_key = self._by_key
        concerned = [by_key.get(key, ()) for key in sorted(by_key.keys() & keys)]
        self._wake(chain(self._anywhere, chain.from_iterable(concerned)))

    def tell_all(self) -> None:
        """There may be news of anything, or the handle is closed or failed."""
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
    """Followers who may see an append only when it is durable: they are told then, and not before."""

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
            # Nobody recorded which keys are in what was appended before: until that is durable, everybody is told.
            self._unrecorded_through = self._db.last_seq
        self.advanced()

    def appended(self, keys: Iterable[bytes], batch: int) -> None:
        """The engine's batch of that number holds these keys. Requires: in the order of the batches."""
        self._pending.append((batch, frozenset(keys)))
        if self._db.durable_seq >= batch:
            self.advanced()

    def advanced(self) -> None:
        """More is durable than before."""
        if self._queue.is_held_here():
            return  # From a signal handler that interrupted `add`, which does it afterwards.
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
