"""Stores that wrap another store and inject faults, or record calls.

FaultyStore     transient or permanent faults, by script or by seed, before or after the request takes effect
CrashingStore   the process "dies" at the Nth store call; every later call raises SimulatedCrash
CountingStore   counts and records calls
SlowStore       adds a latency to every request, and records the maximum number of parallel requests
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
    """Base class: makes every call through `_around`, which subclasses override."""

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
    """A fault of one request."""

    NONE = "none"
    NOT_SENT = "not sent"
    """A broken connection before the request reached the store: a transient fault, not applied."""
    BUSY = "busy"
    """503: a transient fault, not applied."""
    CONFLICT = "conflict"
    """409 on a create that races with another one: a transient fault, not applied. Either create may get the name."""
    REPLY_LOST = "reply lost"
    """The store applied the request; the caller gets a transient fault."""
    DELIVERED_TWICE = "delivered twice"
    """The client library re-sent the request, and the caller gets the answer to the second copy."""
    REFUSED = "refused"
    """403: a permanent fault, not applied."""
    MOVED = "moved"
    """301: a permanent fault, not applied."""
    MISSING = "missing"
    """404 from a gateway; the store never gets the request. A read raises ObjectMissing; any other request gets a transient
    fault."""
    GARBAGE = "garbage"
    """A gateway's own page with status 200; the store never gets the request. A read returns the page; any other request gets
    a transient fault."""
    HANG = "hang"
    """Simulations only: no answer until the request's timeout; not applied."""
    LATE = "late"
    """Simulations only: no answer until the request's timeout; applied some time later."""
    LATE_COPY = "late copy"
    """Simulations only: applied and answered; a second copy is applied later."""


NOT_APPLIED = (Fault.NOT_SENT, Fault.BUSY, Fault.CONFLICT)
REFUSALS = (Fault.REFUSED, Fault.MOVED)
FALSE_ANSWERS = (Fault.MISSING, Fault.GARBAGE)
"""Faults that a client cannot distinguish from an answer of the store."""
GATEWAY_PAGE = b"<html><body>The service is being moved.</body></html>"


class FaultyStore(WrappedStore):
    """Injects faults by script (one per request, then none) or by seed (each request with `probability`).

    `only`: the calls that get faults; the script advances at those only. Thread-safe. With a seed, the order of the requests
    determines the faults.
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
        """Set a new script: one of `faults` per request, then none (or by seed)."""
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
    """The process is dead. Not an Exception, so that the engine's error handling does not catch it."""


class CrashAt(Enum):
    """The point in the Nth call at which the process dies."""

    BEFORE = "before"
    REPLY_LOST = "applied, reply lost"
    """The store applied the call, and the process dies before it gets the reply."""
    AFTER = "after"
    """The caller gets its answer; the next call of any thread raises SimulatedCrash."""


class CrashingStore(WrappedStore):
    """Raises SimulatedCrash at call number `at` (from 1), and at every call after it.

    With `at=None` it only counts. So run a scenario once to get `calls`, then once for each number up to it. Calls of several
    threads are numbered in the order of their starts. A call that is running when the process dies raises at its return,
    whether it was applied or not.
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
        """Die at call number `at`, counted from the store's first call."""
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
        """Do nothing, because the wrapped store outlives the process."""


class CountingStore(WrappedStore):
    """Counts calls by kind, and records (call, name) in the order of their starts."""

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
    """Sleeps `latency` seconds before each request. `latency` is a number, or a number per kind of call.

    `most_at_once`: the maximum number of parallel requests so far.
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
