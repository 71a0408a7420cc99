"""Stores that misbehave on purpose, or watch. Each wraps another store and does all it does, if told to behave.

FaultyStore     transient or permanent faults, by script or by seed, before or after the request took effect
CrashingStore   the process "dies" at the Nth store call; every later call finds it dead
CountingStore   counts calls and remembers them
SlowStore       adds a latency to every request, and counts how many were under way at once
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, TypeVar, cast

from lsm.object_store.contract import ObjectInfo, ObjectMissing, ObjectStore, StoreFault, StoreSpec
from lsm.object_store.faults import RequestRefused

T = TypeVar("T")

CALLS = ("put_if_absent", "get", "get_range", "head", "list", "delete")


class WrappedStore(ObjectStore):
    """Passes every call through `_around`, which subclasses override."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.url = store.url
        self.is_near = store.is_near
        self.decides_itself = store.decides_itself
        self.object_bytes_max = store.object_bytes_max

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        return request()

    def put_if_absent(self, name: str, parts: Sequence[bytes], *, timeout: float) -> None:
        self._around("put_if_absent", name, lambda: self.store.put_if_absent(name, parts, timeout=timeout))

    def get(self, name: str, *, timeout: float) -> bytes:
        return self._around("get", name, lambda: self.store.get(name, timeout=timeout))

    def get_range(self, name: str, start: int, end: int, *, timeout: float) -> bytes:
        return self._around("get_range", name, lambda: self.store.get_range(name, start, end, timeout=timeout))

    def head(self, name: str, *, timeout: float) -> ObjectInfo:
        return self._around("head", name, lambda: self.store.head(name, timeout=timeout))

    def list(self, prefix: str, *, timeout: float) -> Any:
        return self._around("list", prefix, lambda: self.store.list(prefix, timeout=timeout))

    def delete(self, name: str, *, timeout: float) -> None:
        self._around("delete", name, lambda: self.store.delete(name, timeout=timeout))

    @property
    def generation(self) -> int:
        return self.store.generation

    def finish_creates(self, *, timeout: float) -> None:
        self.store.finish_creates(timeout=timeout)

    def spec(self) -> StoreSpec | None:
        return None

    def close(self) -> None:
        self.store.close()


class Fault(Enum):
    """What goes wrong with one request."""

    NONE = "none"
    NOT_SENT = "not sent"
    """A broken connection: the request never reached the store; a transient fault."""
    BUSY = "busy"
    """503: nothing happened; a transient fault."""
    CONFLICT = "conflict"
    """409 on a create that races with another: nothing happened, and nothing is said about who has the name."""
    REPLY_LOST = "reply lost"
    """The store carried the request out; the caller sees a transient fault."""
    DELIVERED_TWICE = "delivered twice"
    """The client re-sent the request by itself, and the caller sees the answer to the second copy."""
    REFUSED = "refused"
    """403, a permanent fault; the request did nothing."""
    MOVED = "moved"
    """301, a permanent fault; the request did nothing."""
    MISSING = "missing"
    """404 of a gateway on the way; the store never saw the request. A read is told that there is no such object; what an
    answer like this settles nothing for, a transient fault."""
    GARBAGE = "garbage"
    """A gateway's page, with status 200; the store never saw the request. A read gets the page for the object; anything else,
    a transient fault."""
    HANG = "hang"
    """Simulations only: no answer until the request's time is over; nothing happened."""
    LATE = "late"
    """Simulations only: no answer until the request's time is over; it is carried out some time after that."""
    LATE_COPY = "late copy"
    """Simulations only: carried out and answered; a second copy arrives later."""


NOT_APPLIED = (Fault.NOT_SENT, Fault.BUSY, Fault.CONFLICT)
REFUSALS = (Fault.REFUSED, Fault.MOVED)
FALSE_ANSWERS = (Fault.MISSING, Fault.GARBAGE)
"""What no client can tell from an answer of the store."""
GATEWAY_PAGE = b"<html><body>The service is being moved.</body></html>"


class FaultyStore(WrappedStore):
    """Faults by script (one for each request, then none) or by seed (each with the given probability).

    `only` limits the faults to some calls; the script advances at those only. Thread-safe; with a seed, the sequence of
    faults is fixed by the order of the requests.
    """

    def __init__(
        self,
        store: ObjectStore,
        script: Iterable[Fault] = (),
        *,
        seed: int | None = None,
        probability: float = 0.3,
        faults: Sequence[Fault] = (Fault.NOT_SENT, Fault.REPLY_LOST, Fault.DELIVERED_TWICE),
        only: Sequence[str] = CALLS,
    ) -> None:
        super().__init__(store)
        script = list(script)
        virtual = {Fault.HANG, Fault.LATE, Fault.LATE_COPY} & {*script, *faults}
        if virtual:
            raise ValueError(f"{sorted(fault.value for fault in virtual)} need virtual time: use a SimulatedBucket")
        self.injected: Counter[Fault] = Counter()
        self._script = iter(script)
        self._random = random.Random(seed) if seed is not None else None
        self._probability = probability
        self._faults = faults
        self._only = only
        self._lock = threading.Lock()

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        fault = self._next_fault() if call in self._only else Fault.NONE
        if fault in REFUSALS:
            raise RequestRefused(f"{call} {name}: injected: {fault.value}")
        if fault is Fault.MISSING and call in ("get", "get_range", "head"):
            raise ObjectMissing(f"{call} {name}: injected: {fault.value}")
        if fault is Fault.GARBAGE and call in ("get", "get_range"):
            return cast("T", GATEWAY_PAGE)
        if fault in NOT_APPLIED or fault in FALSE_ANSWERS:
            raise StoreFault(f"{call} {name}: injected: {fault.value}", transient=True)
        if fault is Fault.DELIVERED_TWICE:
            request()
        answer = request()
        if fault is Fault.REPLY_LOST:
            raise StoreFault(f"{call} {name}: injected: {fault.value}", transient=True)
        return answer

    def script(self, faults: Iterable[Fault]) -> None:
        """From now on: one of these for each request, then none (or by seed)."""
        with self._lock:
            self._script = iter(faults)

    def _next_fault(self) -> Fault:
        with self._lock:
            fault = next(self._script, None)
            if fault is None:
                fault = Fault.NONE
                if self._random is not None and self._random.random() < self._probability:
                    fault = self._random.choice(self._faults)
            self.injected[fault] += 1
            return fault


class SimulatedCrash(BaseException):
    """The process is dead. Not an Exception, so that no error handling of the engine gets to see it."""


class CrashAt(Enum):
    """Where in the Nth call the process dies."""

    BEFORE = "before"
    REPLY_LOST = "applied, reply lost"
    """The store carried the call out, and the process died before it learnt of it."""
    AFTER = "after"
    """The caller got its answer; the next call of any thread finds the process dead."""


class CrashingStore(WrappedStore):
    """Raises SimulatedCrash at call number `at` (from 1), and at every call after it.

    With `at=None` it only counts: run a scenario once to learn `calls`, then once for each number up to it. Calls of
    several threads are numbered in the order they start; a call that was already running when the process died raises
    on its return, whether or not it was applied, as a real one would be.
    """

    def __init__(self, store: ObjectStore, at: int | None = None, how: CrashAt = CrashAt.BEFORE) -> None:
        super().__init__(store)
        self.calls = 0
        self.log: list[tuple[str, str]] = []
        self.is_dead = False
        self._at = at
        self._how = how
        self._lock = threading.Lock()

    def die_at(self, at: int, how: CrashAt) -> None:
        """Die at this call, counted from the first one ever."""
        with self._lock:
            self._at, self._how = at, how

    def kill(self) -> None:
        """Die now."""
        with self._lock:
            self.is_dead = True

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        with self._lock:
            if self.is_dead:
                raise SimulatedCrash(f"{call} {name}: the process is dead")
            self.calls += 1
            self.log.append((call, name))
            is_last = self.calls == self._at
            if is_last and self._how is CrashAt.BEFORE:
                self.is_dead = True
                raise SimulatedCrash(f"died before call {self.calls}: {call} {name}")
        try:
            answer = request()
        finally:
            with self._lock:
                was_dead = self.is_dead
                self.is_dead = was_dead or is_last
        if was_dead or (is_last and self._how is CrashAt.REPLY_LOST):
            raise SimulatedCrash(f"died in call {self._at}: {call} {name}")
        return answer

    def close(self) -> None:
        """The wrapped store outlives the process."""


class CountingStore(WrappedStore):
    """Counts calls by kind and keeps the list of (call, name) in the order they started."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.log: list[tuple[str, str]] = []

    @property
    def counts(self) -> Counter[str]:
        return Counter(call for call, _ in self.log)

    @property
    def calls(self) -> int:
        return len(self.log)

    def reset(self) -> None:
        self.log = []

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        self.log.append((call, name))
        return request()


class SlowStore(WrappedStore):
    """Sleeps `latency` seconds (a number, or one for each kind of call) before each request.

    `most_at_once`: requests under way at the same time, at most so far.
    """

    def __init__(self, store: ObjectStore, latency: float | dict[str, float]) -> None:
        super().__init__(store)
        self.most_at_once = 0
        self._latency = latency
        self._at_once = 0
        self._lock = threading.Lock()

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        seconds = self._latency.get(call, 0.0) if isinstance(self._latency, dict) else self._latency
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if seconds > 0:
                time.sleep(seconds)
            return request()
        finally:
            with self._lock:
                self._at_once -= 1
