"""Locks that raise ReentrantError if the calling thread already holds them.

A signal handler or a finalizer may run between any two instructions of a call, in that call's thread and under its locks. If
it calls the same handle, waiting for the lock would never end, and entering would change data that the interrupted call is
working on. So `Lock` raises ReentrantError before anything is done. The interpreter itself records the holder, so the holder
is known at every moment in which the lock is held.

A call that waits for other threads can also hang without taking a lock twice: those threads may need a lock, or an upload, of
the interrupted call. `Locks` knows all locks of a handle, and which of its threads other threads wait for. So such a call
checks with `Locks` before it waits.

Requires of callers: take a lock before the first change of a step, never in the middle of a step.
"""

from __future__ import annotations

import os
import sys
import threading
from operator import attrgetter
from threading import get_ident
from types import FrameType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet, WeakValueDictionary

from lsm.errors import ClosedError, ReentrantError

ENDING: Final = "the interpreter is ending: close the database before the program ends"

if TYPE_CHECKING:

    class InterpreterLock:
        """`_thread.RLock` as it is: a class to inherit from. The type stubs call it final, and lack two of its methods."""

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
        def release(self) -> None: ...
        def __exit__(self, kind: object, error: object, trace: object) -> None: ...
        def _is_owned(self) -> bool: ...
        def _at_fork_reinit(self) -> None: ...

else:
    from _thread import RLock as InterpreterLock

LONG: Final = 0
"""Rank of a lock that may be held during a request."""
WRITE: Final = 1
"""Rank of an engine's write lock."""
SHORT: Final = 2
"""Rank of a lock whose holder waits for nothing."""
BRIEF_SECONDS: Final = 0.02
"""Seconds that a thread waits for a lock before it checks whether it may wait at all. Nearly every wait ends sooner."""
PATIENCE_SECONDS: Final = 1.0
"""Maximum seconds that a thread waits for a short lock while it holds another one, which happens only after an interrupt."""


class Lock(InterpreterLock):
    """A lock that one thread holds, once. Costs as much as the interpreter's lock, plus one check of the holder."""

    __slots__ = ("_family", "_rank")
    is_held_here = InterpreterLock._is_owned
    """Whether this thread holds the lock."""

    def __init__(self, family: Locks, rank: int) -> None:
        self._family = family
        self._rank = rank

    def __enter__(self) -> bool:
        """Raises: ReentrantError; ClosedError if the lock's holder ended with the interpreter."""
        if self.is_held_here():
            raise ReentrantError
        try:
            return self.acquire(False) or self._wait()
        except BaseException:
            # A signal handler may raise before the lock is taken, or after.
            if self.is_held_here():
                self.release()
            raise

    def _wait(self) -> bool:
        """Wait for the lock, unless its holder may be waiting for this thread.

        An interrupted thread may take locks against their order.
        Example: A holds x and, interrupted, wants y; B holds y and waits for x.
        """
        if sys.is_finalizing():
            raise ClosedError(ENDING)
        if self.acquire(timeout=BRIEF_SECONDS):
            return True
        if self._rank == LONG and self._family.is_obliged():
            raise ReentrantError  # This is a finalizer in a thread that the holder may be waiting for.
        held = self._family.rank_held()
        if held < self._rank or not held:
            return self.acquire()
        if held == self._rank and self.acquire(timeout=PATIENCE_SECONDS):
            return True
        raise ReentrantError


class Condition(threading.Condition):
    """A condition over a `Lock`. A `with` block ends in the lock's own `__exit__`.

    It is C code, so no signal handler runs before it releases.
    """

    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))


class Locks:
    """The locks of one handle, and the threads that other threads wait for."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[int, Lock] = WeakValueDictionary()
        self.obliged: dict[int, FrameType] = {}
        """Threads in a call that other threads wait for, such as an upload, and the frame of that call."""
        self.own_threads: set[int] = set()
        """Threads that the handle started."""
        self.is_forked = False
        _families.add(self)

    def lock(self, rank: int) -> Lock:
        """Make a lock. Locks must be taken in the order of their ranks."""
        made = Lock(self, rank)
        self._known[id(made)] = made
        return made

    def rank_held(self) -> int:
        """Return the highest rank of the locks that this thread holds, shared locks included; -1 if it holds none."""
        highest = -1
        for family in (self, shared):
            for found in family._known.valuerefs():
                lock = found()
                if lock is not None and lock.is_held_here():
                    highest = max(highest, lock._rank)
        return highest

    def check_held(self) -> None:
        """Check that this thread may wait for a thread of a pool.

        Raises: ReentrantError: this thread was interrupted while it held a lock that the other thread may need. ClosedError:
            the interpreter is ending, or this is a forked child, so no other thread runs.
        """
        self.check_process()
        if sys.is_finalizing():
            raise ClosedError(ENDING)
        if self.rank_held() > LONG:
            raise ReentrantError

    def check_process(self) -> None:
        """Check before a request. Raises: ClosedError, in a forked child: the connections are the parent's."""
        if self.is_forked:
            raise ClosedError("this handle was opened before a fork: open it again in the child process")

    def check_waiting(self) -> None:
        """Check before waiting for durability or space. Raises: as `check_held`; ReentrantError if `is_obliged`."""
        self.check_held()
        if self.is_obliged():
            raise ReentrantError

    def is_obliged(self) -> bool:
        """Whether this thread is in `obliged` and the call recorded there still runs. An exception from a signal handler may
        have kept a call from removing its entry."""
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
        """Check before any wait. Raises: as `check_waiting`; ReentrantError in one of the handle's own threads, or if this
        thread holds a lock."""
        self.check_waiting()
        if get_ident() in self.own_threads or self.rank_held() >= LONG:
            raise ReentrantError

    def be_forked(self) -> None:
        """Reset, in a forked child, the locks and entries of other threads: only this thread exists there."""
        me = get_ident()
        self.is_forked = self is not shared
        self.obliged = {thread: call for thread, call in self.obliged.items() if thread == me}
        self.own_threads &= {me}
        for found in self._known.valuerefs():
            lock = found()
            if lock is not None and not lock.is_held_here():
                lock._at_fork_reinit()


_families: WeakSet[Any] = WeakSet()
shared: Final = Locks()
"""The locks of objects that handles share: stores in memory, caches."""


def _after_fork() -> None:
    for family in list(_families):
        family.be_forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
