"""Locks that refuse the thread that holds them already, instead of waiting for it.

A signal handler or a finalizer may run between any two instructions of a call, in the thread of that call and under its locks.
Where it calls the same handle again, waiting would never end, and going on would change what the interrupted call has in
its hands. So `Lock` raises ReentrantError there, before anything was done. It knows its holder from inside the interpreter, so
there is no moment in which the lock is held and the holder is unknown.

A call that waits for other threads can hang although it takes no lock twice: they may need a lock, or an upload, of the call
that it interrupted. `Locks` knows all locks of a handle, and what its threads owe each other, so that such a call asks first.

Requires of callers: a lock is asked for before the first change of a step, never in the middle.
"""

from __future__ import annotations

import os
import sys
import threading
from _thread import RLock
from operator import attrgetter
from threading import get_ident
from types import FrameType
from typing import Any, Final
from weakref import WeakSet, WeakValueDictionary

from lsm.errors import ClosedError, ReentrantError

ENDING: Final = "the interpreter is ending: close the database before the program ends"


LONG: Final = 0
"""Rank of a lock that may be held during a request."""
WRITE: Final = 1
"""Rank of an engine's write lock."""
SHORT: Final = 2
"""Rank of a lock under which nothing is waited for."""
BRIEF_SECONDS: Final = 0.02
"""How long a thread waits for a lock before it looks whether it may: nearly always another thread just passes by."""
PATIENCE_SECONDS: Final = 1.0
"""How long a thread waits for a short lock while it holds another one. It does that only where it was interrupted."""


class Lock(RLock):  # type: ignore[misc]  # Final in the stubs; the interpreter's own can be inherited from.
    """Held by one thread, once. As cheap as a lock of the interpreter, but for the question who asks."""

    __slots__ = ("_family", "_rank")
    is_held_here = RLock._is_owned  # type: ignore[attr-defined]
    """Whether this thread holds it."""

    def __init__(self, family: Locks, rank: int) -> None:
        self._family = family
        self._rank = rank

    def __enter__(self) -> bool:  # type: ignore[override]
        """Raises: ReentrantError; ClosedError where the thread that held it ended with the interpreter."""
        if self.is_held_here():
            raise ReentrantError
        try:
            return self.acquire(False) or self._wait()
        except BaseException:
            # What a signal handler raises comes before the lock is taken, or after.
            if self.is_held_here():
                self.release()
            raise

    def _wait(self) -> bool:
        """Whoever has it may wait for a lock that this thread has, and took in another order: before it was interrupted."""
        if sys.is_finalizing():
            raise ClosedError(ENDING)
        if self.acquire(timeout=BRIEF_SECONDS):
            return True
        if self._rank == LONG and self._family.is_obliged():
            raise ReentrantError  # Who has it may wait for this thread, in a finalizer of which this is.
        held = self._family.rank_held()
        if held < self._rank or not held:
            return self.acquire()
        if held == self._rank and self.acquire(timeout=PATIENCE_SECONDS):
            return True
        raise ReentrantError


class Condition(threading.Condition):
    """A condition over a `Lock`. A `with` block is left by the lock's own way out, which no signal can come before."""

    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))


class Locks:
    """The locks of one handle, and the threads that others wait for."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[int, Lock] = WeakValueDictionary()
        self.obliged: dict[int, FrameType] = {}
        """Threads in the middle of something that other threads wait for, such as an upload, and which call that is."""
        self.own_threads: set[int] = set()
        """Threads that the handle has started."""
        self.is_forked = False
        _families.add(self)

    def lock(self, rank: int) -> Lock:
        """Locks are taken in the order of their ranks."""
        made = Lock(self, rank)
        self._known[id(made)] = made
        return made

    def rank_held(self) -> int:
        """The highest rank of the locks that this thread holds, of what handles share, too; -1 where it holds none."""
        highest = -1
        for family in (self, shared):
            for found in family._known.valuerefs():
                lock = found()
                if lock is not None and lock.is_held_here():
                    highest = max(highest, lock._rank)
        return highest

    def check_held(self) -> None:
        """Before waiting for a thread of a pool. Raises: ReentrantError: it may need a lock that this thread holds and would
        hold for that long only because it was interrupted. ClosedError: the interpreter is ending, or this is a forked child:
        no other thread runs."""
        self.check_process()
        if sys.is_finalizing():
            raise ClosedError(ENDING)
        if self.rank_held() > LONG:
            raise ReentrantError

    def check_process(self) -> None:
        """Before a request. Raises: ClosedError, in a forked child: the connections are the parent's."""
        if self.is_forked:
            raise ClosedError("this handle was opened before a fork: open it again in the child process")

    def check_waiting(self) -> None:
        """Before waiting for durability or space. Raises: as `check_held`; ReentrantError where this thread does already."""
        self.check_held()
        if self.is_obliged():
            raise ReentrantError

    def is_obliged(self) -> bool:
        """Whether this thread is in `obliged`. An exception out of a signal handler may have kept a call from leaving it, so
        the call must be under way still."""
        me = get_ident()
        call = self.obliged.get(me)
        frame: FrameType | None = sys._getframe() if call is not None else None
        while frame is not None:
            if frame is call:
                return True
            frame = frame.f_back
        self.obliged.pop(me, None)
        return False

    def check_outside(self) -> None:
        """Before waiting for anything at all. Raises: as `check_waiting`; ReentrantError in a thread of the handle's own."""
        self.check_waiting()
        if get_ident() in self.own_threads or self.rank_held() >= LONG:
            raise ReentrantError

    def be_forked(self) -> None:
        """In a forked child: the holders of the locks are not there, but for this thread."""
        me = get_ident()
        self.is_forked = self is not shared
        self.obliged = {thread: call for thread, call in self.obliged.items() if thread == me}
        self.own_threads &= {me}
        for found in self._known.valuerefs():
            lock = found()
            if lock is not None and not lock.is_held_here():
                lock._at_fork_reinit()  # type: ignore[attr-defined]


_families: WeakSet[Any] = WeakSet()
shared: Final = Locks()
"""Those of what handles share: stores in memory, caches."""


def _after_fork() -> None:
    for family in list(_families):
        family.be_forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
