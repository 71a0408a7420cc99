"""The store that the engine uses: an adapter with deadlines, retries and verified answers.

Adapters report their backends' answers. This module decides what the answers mean:

- ObjectExists proves nothing. Clients re-send a PUT whose reply was lost (aiohttp always does), and the second copy finds
  the first. So the object is read back: equal bytes are a success, other bytes are a lost race.
- An object that must exist counts as missing or damaged only after three such answers (`insist`).
- A failed create may have been applied, or may be applied later. The same bytes are sent to the same name until an answer is
  definite. At the deadline the outcome is unknown, and the caller must not use the name for other bytes.
- The time limit of a request is the smaller of `request_timeout` and the rest of the operation's `op_timeout`.

Every request is counted under its kind and the caller's cause, so that tests can check request budgets.

Source: SlateDB retries in its RetryingObjectStore. There a retried create reads back an attribute, not the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import add
from typing import NamedTuple, TypeVar

from lsm.errors import CorruptionError, TableMissingError, UnavailableError
from lsm.object_store.contract import ObjectExists, ObjectInfo, ObjectMissing, ObjectStore, StoreFault, StoreSpec
from lsm.object_store.faults import RequestRefused, Unreachable
from lsm.observe.health import StoreHealth
from lsm.runtime import Runtime

T = TypeVar("T")

BACKOFF_FIRST = 0.05
BACKOFF_MAX = 5.0
FIRST_CONTACT_SECONDS = 5.0
"""Maximum seconds of retries if the first connection to a store is refused or its host is unknown. The usual reason is a
wrong address, not an outage."""
DOUBT_SECONDS = (0.05, 0.2)
"""Pauses in seconds before a damaged or missing object is read again."""


class Traffic(NamedTuple):
    """Totals of one kind of request for one cause. `requests` includes `retries`."""

    requests: int = 0
    retries: int = 0
    bytes_out: int = 0
    bytes_in: int = 0


class _Ledger:
    """Traffic by (kind, cause), shared by every view of one store. Each thread counts in rows of its own, without a lock."""

    def __init__(self, runtime: Runtime) -> None:
        self._thread_id = runtime.thread_id
        self._rows: dict[tuple[str, str, int], list[int]] = {}

    def add(self, kind: str, cause: str, is_retry: bool, bytes_out: int) -> list[int]:
        """Count a request. Return its row, whose last item counts bytes that come in."""
        key = kind, cause, self._thread_id()
        row = self._rows.get(key)
        if row is None:
            row = self._rows.setdefault(key, [0, 0, 0, 0])
        row[0] += 1
        row[1] += is_retry
        row[2] += bytes_out
        return row

    def snapshot(self) -> dict[tuple[str, str], Traffic]:
        found: dict[tuple[str, str], list[int]] = {}
        for (kind, cause, _), row in list(self._rows.items()):
            total = found.setdefault((kind, cause), [0, 0, 0, 0])
            total[:] = map(add, total, row)
        return {key: Traffic(*row) for key, row in found.items()}


class Proof:
    """When the store last refused the create of a taken name. Shared by every view of one store; see probe.py.

    No lock is needed: a race costs at most one extra probe.
    """

    __slots__ = ("generation", "is_spent", "is_waived", "seen_at")

    def __init__(self, *, is_waived: bool) -> None:
        self.is_waived = is_waived
        """The caller asserts that there is no second writer, so no proof is needed."""
        self.seen_at = float("-inf")
        self.generation = -1
        self.is_spent = False
        """A commit has used this proof; the next commit needs a new one."""

    def renew(self, now: float, generation: int) -> None:
        self.seen_at, self.generation, self.is_spent = now, generation, False


class _Contact:
    """Whether a store was ever reached. Shared by every view of the store."""

    def __init__(self) -> None:
        self.is_made = False


class ReliableStore:
    """A view of `store` that labels its requests with one cause. Thread-safe; views share store and counters.

    Raises, from every method: UnavailableError if a transient fault outlasts `op_timeout`; UnavailableError at once, and not
    retryable, on a permanent fault. If a store was never reached, retries end after FIRST_CONTACT_SECONDS; if its certificate
    is not accepted, there are none. ObjectMissing and InvalidError pass through without a retry.
    """

    def __init__(
        self,
        store: ObjectStore,
        runtime: Runtime,
        *,
        op_timeout: float,
        request_timeout: float,
        assume_single_writer: bool = False,
    ) -> None:
        self.store = store
        self.runtime = runtime
        self.op_timeout = op_timeout
        self.request_timeout = request_timeout
        self.cause = ""
        self.proof = Proof(is_waived=assume_single_writer)
        self._ledger = _Ledger(runtime)
        self.health = StoreHealth(runtime, store.url, request_timeout=request_timeout)
        self.contact = _Contact()

    def with_cause(self, cause: str) -> ReliableStore:
        """Return a view of this store that counts its requests under `cause`."""
        view = ReliableStore.__new__(ReliableStore)
        view.__dict__.update(self.__dict__)
        view.cause = cause
        return view

    # -- operations -----------------------------------------------------------------------------------------------

    def put_new(self, name: str, parts: Sequence[bytes]) -> None:
        """Create `name` with the concatenation of `parts`; on return the object holds exactly these bytes.

        `parts` must be unique to this writer (by an epoch and a nonce), because equal bytes count as this writer's own.

        Cost: one request. If the name is taken: two if the bytes are ours; if not, four, or two if `is_near`.
        Raises: ObjectExists if the object was read back and differs: another writer owns the name.
            UnavailableError; with `outcome_unknown` the object may exist now or later with these bytes.
        """
        operation = _Operation(self, f"write {name}")
        size = sum(map(len, parts))
        while True:
            try:
                operation.send("put", self.store.put_if_absent, name, parts, bytes_out=size)
                return
            except ObjectExists as error:
                operation.is_unknown = True
                ours = b"".join(parts)
                found = self._read_back(operation, name)
                for _ in () if self.store.is_near else DOUBT_SECONDS:
                    if found is None or found == ours:
                        break
                    found = self._read_back(operation, name)  # The previous answer may have been a gateway's own page.
                if found == ours:
                    return
                if found is not None:
                    self._renew_proof()
                    raise ObjectExists(f"{name} holds what another writer wrote") from error
            except StoreFault as fault:
                operation.is_unknown = operation.is_unknown or not isinstance(fault, RequestRefused)
                operation.wait_after(fault)

    def refuses(self, name: str, body: bytes) -> bool:
        """Whether the store refuses a create of `name` because the name is taken. The object's bytes are not compared.

        Cost: one request. Raises: UnavailableError.
        """
        operation = _Operation(self, f"probe {name}")

        def create() -> bool:
            try:
                operation.send("put", self.store.put_if_absent, name, [body], bytes_out=len(body))
            except ObjectExists:
                self._renew_proof()
                return True
            return False

        return self._repeat(operation, create)

    def _renew_proof(self) -> None:
        self.proof.renew(self.runtime.monotonic(), self.store.generation)

    def _read_back(self, operation: _Operation, name: str) -> bytes | None:
        """Return the bytes of the object at a taken name. None, after a pause: the read failed and should be repeated."""
        try:
            return operation.receive("get", self.store.get, name)
        except ObjectMissing:
            # The object was deleted in between, or the server takes the name before it shows the object.
            operation.wait_after(StoreFault(f"{name} is reported as taken and as missing", transient=True))
        except StoreFault as fault:
            operation.wait_after(fault)
        return None

    def get(self, name: str) -> bytes:
        """Return the whole object. Raises: ObjectMissing, UnavailableError."""
        operation = _Operation(self, f"read {name}")
        return self._repeat(operation, lambda: operation.receive("get", self.store.get, name))

    def get_range(self, name: str, start: int, end: int) -> bytes:
        """Return bytes [start, end), fewer if the object ends before `end`. Raises: ObjectMissing, UnavailableError."""
        operation = _Operation(self, f"read {name} [{start}, {end})")
        return self._repeat(operation, lambda: operation.receive("get_range", self.store.get_range, name, start, end))

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read several ranges in parallel; results in the order of `ranges`. Cost: one request per range; adjacent ranges are
        not merged.

        Raises: ObjectMissing, UnavailableError.
        """
        return self.runtime.map(lambda span: self.get_range(name, *span), ranges)

    def head(self, name: str) -> ObjectInfo:
        """Return size and modification time. Raises: ObjectMissing, UnavailableError."""
        operation = _Operation(self, f"look at {name}")
        return self._repeat(operation, lambda: operation.send("head", self.store.head, name))

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Return every object under `prefix`, in order of name. Cost: one S3 request per 1,000 names, counted as one request.

        Raises: UnavailableError.
        """
        operation = _Operation(self, f"list {prefix or 'everything'}")
        return self._repeat(operation, lambda: operation.send("list", self.store.list, prefix))

    def delete(self, name: str) -> None:
        """Remove the object if it exists. Raises: UnavailableError."""
        operation = _Operation(self, f"delete {name}")
        self._repeat(operation, lambda: operation.send("delete", self.store.delete, name))

    def finish_creates(self) -> None:
        """Complete or undo creates that a dead process left unfinished.

        Requires: no other process creates. Raises: UnavailableError.
        """
        operation = _Operation(self, "finish interrupted creates")
        self._repeat(operation, lambda: self.store.finish_creates(timeout=self.request_timeout))

    def leftovers(self) -> Sequence[ObjectInfo]:
        """List files that interrupted creates left. Cost: one LIST if the backend can leave such files.

        Raises: UnavailableError.
        """
        operation = _Operation(self, "list leftovers")
        return self._repeat(operation, lambda: self.store.leftovers(timeout=self.request_timeout))

    def insist(self, read: Callable[[], T], *, is_known: bool = False) -> T:
        """Return the result of `read`. Repeat `read` if its object is damaged, or, with `is_known`, missing.

        The third such answer is final, because an earlier one may have come from a gateway, not from the store. A near store
        has no gateway, so its first answer is final. Missing and damaged answers are counted separately. A gateway's
        page after a missing answer must not end the read as damage, so a missing answer resets the count of damage.

        Requires: `read` only reads.
        """
        doubtful: tuple[type[Exception], ...] = (CorruptionError, ObjectMissing) if is_known else (CorruptionError,)
        pauses = () if self.store.is_near else DOUBT_SECONDS
        missing, damaged = iter(pauses), iter(pauses)
        while True:
            try:
                return read()
            except doubtful as error:
                if isinstance(error, ObjectMissing | TableMissingError):
                    pause = next(missing, None)
                    damaged = iter(pauses)
                else:
                    pause = next(damaged, None)
                if pause is None:
                    raise
            self.runtime.sleep(pause)

    @staticmethod
    def _repeat(operation: _Operation, request: Callable[[], T]) -> T:
        while True:
            try:
                return request()
            except StoreFault as fault:
                operation.wait_after(fault)

    # -- the adapter ----------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return self.store.url

    def spec(self) -> StoreSpec | None:
        return self.store.spec()

    def close(self) -> None:
        """Close the adapter, for every view. Idempotent."""
        self.store.close()

    # -- counters -------------------------------------------------------------------------------------------------

    def traffic(self) -> dict[tuple[str, str], Traffic]:
        """Return requests, retries and bytes by (kind, cause). Kinds are put, get, get_range, head, list and delete."""
        return self._ledger.snapshot()

    def requests(self) -> dict[tuple[str, str], int]:
        """Return the number of requests to the adapter, by (kind, cause)."""
        return {key: row.requests for key, row in self._ledger.snapshot().items()}

    @property
    def ledger(self) -> _Ledger:
        return self._ledger


class _Operation:
    """One call of the engine: its deadline, its attempts, and whether its write may have been applied."""

    def __init__(self, store: ReliableStore, action: str) -> None:
        self.action = action
        self.is_unknown = False
        self._store = store
        self._runtime = store.runtime
        self._runtime.check_process()
        self._began = self._runtime.monotonic()
        self._deadline = self._began + store.op_timeout
        self._kind = "list"
        self._started = self._began
        self._faults = 0

    def send(self, kind: str, request: Callable[..., T], *arguments: object, bytes_out: int = 0) -> T:
        """Make one request within the remaining time, and count it."""
        self._count(kind, bytes_out)
        return self._ask(kind, request, arguments)

    def receive(self, kind: str, request: Callable[..., bytes], *arguments: object) -> bytes:
        """Like `send`, for a request that returns bytes."""
        row = self._count(kind, 0)
        found = self._ask(kind, request, arguments)
        row[3] += len(found)
        return found

    def _ask(self, kind: str, request: Callable[..., T], arguments: tuple[object, ...]) -> T:
        self._kind = kind
        self._began = now = self._runtime.monotonic()
        seconds = max(0.001, min(self._store.request_timeout, self._deadline - now))
        try:
            answer = request(*arguments, timeout=seconds)
        except (ObjectExists, ObjectMissing):
            self._answered()
            raise
        self._answered()
        return answer

    def _answered(self) -> None:
        self._store.contact.is_made = True
        self._store.health.answered(id(self), self._kind, self.action, self._store.cause, began=self._began)

    def _failed(self, fault: StoreFault, *, is_last: bool) -> None:
        self._store.health.failed(
            id(self),
            self._kind,
            self.action,
            str(fault),
            began=self._began,
            deadline=self._deadline,
            is_last=is_last,
            is_refused=not fault.transient,
        )

    def wait_after(self, fault: StoreFault) -> None:
        """Sleep before the next attempt. Raises: UnavailableError if the fault is permanent or no time is left."""
        allowed = self._store.op_timeout
        can_heal = fault.transient
        if not isinstance(fault, Unreachable):
            self._store.contact.is_made = True
        elif not self._store.contact.is_made:
            can_heal = fault.can_heal
            allowed = min(allowed, FIRST_CONTACT_SECONDS)
        if not can_heal:
            self._failed(fault, is_last=True)
            raise UnavailableError(str(fault), outcome_unknown=self.is_unknown, retryable=False) from fault
        self._faults += 1
        pause = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(self._faults - 1, 16)) * (0.5 + self._runtime.jitter() / 2)
        left = self._started + allowed - self._runtime.monotonic()
        is_last = left < BACKOFF_FIRST
        self._failed(fault, is_last=is_last)
        if is_last:
            raise UnavailableError(
                f"{self.action} at {self._store.url} failed {self._faults} times within "
                f"{allowed:g} s; the last fault: {fault}",
                outcome_unknown=self.is_unknown,
            ) from fault
        # Pauses shrink near the deadline, so that a long pause does not waste its last seconds.
        self._runtime.sleep(min(pause, left / 2))

    def _count(self, kind: str, bytes_out: int) -> list[int]:
        return self._store.ledger.add(kind, self._store.cause, self._faults > 0, bytes_out)
