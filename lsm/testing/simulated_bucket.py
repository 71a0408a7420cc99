"""The object store of a simulation: latency in virtual time, and the faults of networks and buckets.

One `SimulatedBucket` holds the objects. Each process uses its own `client`, in which it may also crash. The bucket keeps the
store's guarantees: a create succeeds once, an object appears whole, a read returns the newest state. `Faults` sets everything
else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from zlib import crc32

from lsm.object_store.contract import ObjectExists, ObjectInfo, ObjectMissing, ObjectStore
from lsm.object_store.error_map import Request, translate
from lsm.testing.scheduler import Process, Scheduler
from lsm.testing.stores import FALSE_ANSWERS, GATEWAY_PAGE, Fault

T = TypeVar("T")


WRITE_FAULTS = (Fault.REPLY_LOST, Fault.DELIVERED_TWICE, Fault.LATE, Fault.LATE_COPY, Fault.CONFLICT)
READ_FAULTS = (Fault.NOT_SENT, Fault.BUSY, Fault.HANG)
ROUGH_FAULTS = (Fault.REFUSED, Fault.MOVED, *FALSE_ANSWERS)
"""Faults of wrong settings, and of gateways with their own answers. Not every call can retry until they end."""
PASSING_FAULTS = (*READ_FAULTS, *WRITE_FAULTS)
"""Faults that every call retries until its deadline."""
ALL_FAULTS = (*READ_FAULTS, *ROUGH_FAULTS, *WRITE_FAULTS)
FALSE_IN_A_ROW_MAX = 2
"""Maximum false answers in a row that one thread gets about one object. If a gateway always answered by itself, it would look
like a store that lost its objects."""
_REQUESTS: dict[str, Request] = {
    "put": "write",
    "get": "read",
    "get_range": "read",
    "head": "look at",
    "list": "list",
    "delete": "delete",
}


class ServiceError(Exception):
    """An answer with an error status, in the form of botocore's errors."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.response = {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }


_ANSWERS = {
    Fault.BUSY: (503, "SlowDown"),
    Fault.CONFLICT: (409, "ConditionalRequestConflict"),
    Fault.REFUSED: (403, "AccessDenied"),
    Fault.MOVED: (301, "PermanentRedirect"),
    Fault.MISSING: (404, "NoSuchKey"),
}


def _as_client_raises(fault: Fault) -> Exception:
    """Return the exception that the client library below an adapter would raise."""
    said = f"simulated: {fault.value}"
    if fault in _ANSWERS:
        return ServiceError(*_ANSWERS[fault], said)
    if fault in (Fault.HANG, Fault.LATE):
        return TimeoutError(said)
    return ConnectionResetError(said)


@dataclass(kw_only=True)
class Faults:
    """The frequencies of faults. The defaults give a fast and reliable store. Fields may be changed during a simulation."""

    probability: float = 0.0
    """Probability that a request has a fault of `kinds`."""
    kinds: tuple[Fault, ...] = PASSING_FAULTS
    late_seconds: float = 30.0
    """A late write is applied up to this many seconds after its request's timeout."""
    latency: float = 0.01
    """Mean seconds per request."""
    pair_probability: float = 0.0
    """Probability that the process's next request after a fault has a fault, too."""
    slow_probability: float = 0.0
    """Probability that a request is slow."""
    slow_seconds: float = 2.0
    """Maximum seconds per slow request."""
    burst_probability: float = 0.0
    """Probability that a request begins an outage, in which every request of its process fails."""
    burst_seconds: float = 1.0
    """Maximum seconds per outage."""
    listing_lag: float = 0.0
    """Maximum age in seconds of a listing's state. Zero: each change during a listing may or may not be in it, object by
    object. The stores supported today guarantee that, and the engine relies on it."""
    ignores_conditions: bool = False
    """Whether a create of a taken name overwrites the object, as on some servers."""
    crash_probability: float = 0.0
    """Probability that a process dies in a request: before it is sent, with its reply lost, or after it."""


class SimulatedBucket:
    """The objects, and counts of calls and faults. `on_put(name, body)` and `on_delete(name)` are called after each change."""

    def __init__(self, scheduler: Scheduler, faults: Faults | None = None, *, url: str = "simulated://bucket") -> None:
        self.scheduler = scheduler
        self.faults = faults if faults is not None else Faults()
        self.url = url
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.late_writes = 0
        """Writes that will still be applied after their requests ended."""
        self.on_put: Callable[[str, bytes], None] | None = None
        self.on_delete: Callable[[str], None] | None = None
        self.on_crash: Callable[[Process], None] | None = None
        self.outages: dict[str, float] = {}
        self.in_pairs: set[str] = set()
        self.false_answers: dict[tuple[str, str, str], int] = {}
        self._changes: list[tuple[float, str, ObjectInfo | None]] = []

    def client(self, process: Process, *, is_near: bool = False) -> BucketClient:
        """Return a process's connection to the bucket."""
        return BucketClient(self, process, is_near=is_near)

    # -- effects, each atomic -----------------------------------------------------------------------------------------

    def put(self, name: str, body: bytes) -> None:
        if name in self.objects and not self.faults.ignores_conditions:
            raise ObjectExists(f"write {name} at {self.url}: the name is taken")
        self._remember(name)
        self.objects[name] = body
        self.modified[name] = self.scheduler.now_ms()
        if self.on_put is not None:
            self.on_put(name, body)

    def read(self, name: str) -> bytes:
        try:
            return self.objects[name]
        except KeyError:
            raise ObjectMissing(f"read {name} at {self.url}: no such object") from None

    def remove(self, name: str) -> None:
        if name in self.objects:
            self._remember(name)
            del self.objects[name]
            self.modified.pop(name, None)
            if self.on_delete is not None:
                self.on_delete(name)

    def info(self, name: str) -> ObjectInfo:
        return ObjectInfo(name, len(self.read(name)), self.modified.get(name))

    def listing(self, prefix: str, since: float) -> list[ObjectInfo]:
        """Return a listing that was made between `since` and now."""
        found = {name: self.info(name) for name in self.objects if name.startswith(prefix)}
        chance, lag = self.scheduler.random, self.faults.listing_lag
        settled = since - lag * chance.random() if lag else since
        for when, name, before in reversed(self._changes):
            if when <= settled:  # A step later, time is a microsecond later: what was done at `since` was done before.
                break
            if name.startswith(prefix) and (when <= since or chance.random() < 0.5):
                if before is None:
                    found.pop(name, None)
                else:
                    found[name] = before
        return [found[name] for name in sorted(found)]

    def _remember(self, name: str) -> None:
        before = self.info(name) if name in self.objects else None
        self._changes.append((self.scheduler.monotonic(), name, before))


class BucketClient(ObjectStore):
    """A process's connection to the bucket."""

    def __init__(self, bucket: SimulatedBucket, process: Process, *, is_near: bool = False) -> None:
        self.bucket = bucket
        self.url = bucket.url
        self.is_near = is_near
        self._process = process
        self._scheduler = bucket.scheduler

    def put_if_absent(self, name: str, parts: Sequence[bytes], *, timeout: float) -> None:
        body = b"".join(parts)
        self._request("put", name, lambda: self.bucket.put(name, body), timeout, is_write=True)

    def get(self, name: str, *, timeout: float) -> bytes:
        return self._request("get", name, lambda: self.bucket.read(name), timeout)

    def get_range(self, name: str, start: int, end: int, *, timeout: float) -> bytes:
        return self._request("get_range", name, lambda: self.bucket.read(name)[start:end], timeout)

    def head(self, name: str, *, timeout: float) -> ObjectInfo:
        return self._request("head", name, lambda: self.bucket.info(name), timeout)

    def list(self, prefix: str, *, timeout: float) -> Any:
        since = self._scheduler.monotonic()
        return self._request("list", prefix, lambda: self.bucket.listing(prefix, since), timeout)

    def delete(self, name: str, *, timeout: float) -> None:
        with suppress(ObjectMissing):
            self._request("delete", name, lambda: self.bucket.remove(name), timeout, is_write=True)

    # -- one request --------------------------------------------------------------------------------------------------

    def _request(self, call: str, name: str, effect: Callable[[], T], timeout: float, *, is_write: bool = False) -> T:
        scheduler, bucket = self._scheduler, self.bucket
        scheduler.point()
        bucket.calls[call] += 1
        scheduler.note(crc32(f"{self._process.name} {call} {name}".encode()))
        faults, chance = bucket.faults, scheduler.random
        if faults.crash_probability and chance.random() < faults.crash_probability:
            return self._crash(effect, is_write)
        fault = self._draw(call, name, is_write)
        seconds = min(chance.expovariate(1.0) * faults.latency, timeout * 0.9)
        if faults.slow_probability and chance.random() < faults.slow_probability:
            bucket.injected["slow"] += 1
            seconds = min(chance.random() * faults.slow_seconds, timeout * 0.9)
        if fault is not None:
            return self._faulty(fault, call, name, effect, seconds, timeout)
        if bucket.false_answers:
            bucket.false_answers.pop((self._process.name, scheduler.current.name, name), None)
        if chance.random() < 0.5:
            answer = effect()
            scheduler.wait(seconds)
            return answer
        scheduler.wait(seconds)
        return effect()

    def _draw(self, call: str, name: str, is_write: bool) -> Fault | None:
        scheduler, bucket = self._scheduler, self.bucket
        faults, chance = bucket.faults, scheduler.random
        if faults.burst_probability:
            if bucket.outages.get(self._process.name, 0.0) > scheduler.monotonic():
                bucket.injected["outage"] += 1
                return Fault.BUSY
            if chance.random() < faults.burst_probability:
                until = scheduler.monotonic() + chance.random() * faults.burst_seconds
                bucket.outages[self._process.name] = until
        process = self._process.name
        if process in bucket.in_pairs:
            bucket.in_pairs.discard(process)
            bucket.injected["pair"] += 1
        elif not faults.probability or chance.random() >= faults.probability:
            return None
        elif faults.pair_probability and chance.random() < faults.pair_probability:
            bucket.in_pairs.add(process)
        fault = chance.choice(faults.kinds)
        if fault in WRITE_FAULTS and not is_write:
            fault = chance.choice(READ_FAULTS)
        if fault is Fault.CONFLICT and call != "put":
            fault = Fault.BUSY
        if fault in FALSE_ANSWERS and not self._may_lie(name):
            fault = Fault.BUSY
        bucket.injected[fault.value] += 1
        return fault

    def _may_lie(self, name: str) -> bool:
        """Whether this request may get a false answer: only behind a gateway, and only a few in a row about one object."""
        told = self.bucket.false_answers
        key = (self._process.name, self._scheduler.current.name, name)
        if self.is_near or told.get(key, 0) >= FALSE_IN_A_ROW_MAX:
            return False
        told[key] = told.get(key, 0) + 1
        return True

    def _faulty(self, fault: Fault, call: str, name: str, effect: Callable[[], T], seconds: float, timeout: float) -> T:
        scheduler = self._scheduler
        if fault is Fault.GARBAGE and call in ("get", "get_range"):
            scheduler.wait(seconds)
            return cast("T", GATEWAY_PAGE)
        if fault is Fault.LATE_COPY:
            self._later(effect)
            answer = effect()
            scheduler.wait(seconds)
            return answer
        if fault is Fault.DELIVERED_TWICE:
            effect()
            scheduler.wait(seconds)
            return effect()
        if fault is Fault.REPLY_LOST:
            scheduler.wait(seconds)
            effect()
            scheduler.point()
        elif fault is Fault.LATE:
            scheduler.wait(timeout)
            self._later(effect)
        else:
            scheduler.wait(timeout if fault is Fault.HANG else seconds)
        # Translated by the adapters' own table. An error that the caller is handling becomes its context, as in reality.
        try:
            raise _as_client_raises(fault)
        except Exception as error:
            raise translate(error, _REQUESTS[call], name, self.url) from error

    def _later(self, effect: Callable[[], Any]) -> None:
        bucket = self.bucket
        bucket.late_writes += 1

        def land() -> None:
            bucket.late_writes -= 1
            with suppress(ObjectExists):
                effect()

        self._scheduler.at(self._scheduler.random.random() * bucket.faults.late_seconds, land)

    def _crash(self, effect: Callable[[], T], is_write: bool) -> T:
        """Kill the process in this request: before it is sent, with its reply lost, or after it. A write may also be applied
        later."""
        scheduler, bucket = self._scheduler, self.bucket
        way = scheduler.random.randrange(4 if is_write else 3)
        bucket.injected[("crash before", "crash, reply lost", "crash after", "crash, late")[way]] += 1
        if way == 2:
            # A few scheduling points later, so that the caller gets its answer and acts on it.
            scheduler.at_step(scheduler.steps + 1 + scheduler.random.randrange(20), lambda: self._die(self._process))
            return effect()
        if way == 1:
            with suppress(ObjectExists, ObjectMissing):
                effect()
        if way == 3:
            self._later(effect)
        self._die(self._process)
        raise AssertionError("unreachable: the task that kills its own process is unwound")

    def _die(self, process: Process) -> None:
        if not process.is_dead:
            if self.bucket.on_crash is not None:
                self.bucket.on_crash(process)
            self._scheduler.kill(process)
