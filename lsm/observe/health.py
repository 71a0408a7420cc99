"""What fails and for how long: requests by kind, background work by job. For `status()` and for log lines.

A line is written when failures have lasted TELL_AFTER, again after pauses that double, and once more when they are over. So
an outage of an hour is a dozen lines, whatever the number of threads.

Cost: nothing while all goes well. No lock is held while a line is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from lsm.errors import ClosedError, FencedError
from lsm.observe import events
from lsm.runtime import Runtime

TELL_AFTER: Final = 1.0
"""Seconds of failures before the first line about requests. Most faults are over sooner."""
TELL_EVERY: Final = 10.0
"""Seconds from the first line to the second. Each further pause is twice as long."""
TELL_EVERY_MAX: Final = 600.0
"""Maximum seconds between two lines."""
SLOW_SECONDS: Final = 5.0
"""A request is slow from this many seconds, or from half of `request_timeout` if that is less."""


class BackgroundStatus(msgspec.Struct, frozen=True):
    """How often one kind of background work failed so far, and its last failure.

    `failing_for`: seconds since the first failure in a row; None: the last run succeeded.
    """

    failures: int
    failing_for: float | None
    last_failure: str


class _Streak:
    """Failures in a row, and when the next line about them is due. Requires: the owner's lock."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.failures = 0
        self.is_told = False
        self._tell_at = 0.0
        self._pause = TELL_EVERY

    def add(self, now: float, *, is_worth_a_line: bool) -> bool:
        """Count one more failure. Return whether a line is due."""
        self.failures += 1
        if not is_worth_a_line or now < self._tell_at:
            return False
        self.is_told = True
        self._tell_at = now + self._pause
        self._pause = min(TELL_EVERY_MAX, 2 * self._pause)
        return True


class _KindOfRequest:
    """Operations whose requests of one kind fail.

    `given_up`: when the first failure of a given-up operation was; None once a request of this kind is answered.
    """

    def __init__(self, now: float) -> None:
        self.streak = _Streak(now)
        self.operations: dict[int, tuple[float, float]] = {}
        self.given_up: float | None = None

    def since(self, now: float) -> float | None:
        """Return since when the oldest operation fails. An operation past its deadline was interrupted, and does not count."""
        found = [since for since, deadline in self.operations.values() if deadline > now]
        if self.given_up is not None:
            found.append(self.given_up)
        return min(found, default=None)


class StoreHealth:
    """Health of a store, as seen by one handle. Thread-safe."""

    def __init__(self, runtime: Runtime, url: str, *, request_timeout: float) -> None:
        self._runtime = runtime
        self._url = url
        self._lock = runtime.lock()
        self._slow = min(SLOW_SECONDS, request_timeout / 2)
        self._slow_told_at: float | None = None
        self._slow_untold = 0
        self._kinds: dict[str, _KindOfRequest] = {}
        self.last_failure: tuple[float, str] | None = None
        """When the newest failure was, by the runtime's monotonic clock, and its text."""

    def failed(
        self,
        operation: int,
        kind: str,
        text: str,
        reason: str,
        *,
        began: float,
        deadline: float,
        is_last: bool,
        is_refused: bool,
    ) -> None:
        """Record that an operation's request, sent at `began`, failed. `is_last`: the operation is given up."""
        now = self._runtime.monotonic()
        with self._lock:
            self.last_failure = now, reason
            found = self._kinds.get(kind)
            if found is None:
                found = self._kinds[kind] = _KindOfRequest(began)
            since, known_deadline = found.operations.get(operation, (began, deadline))
            if known_deadline != deadline:  # An interrupted operation left the entry, and its id was reused.
                since = began
            found.operations[operation] = since, deadline
            if is_last:
                found.given_up = since if found.given_up is None else min(since, found.given_up)
                del found.operations[operation]
            since = min(since, found.since(now) or since)
            is_due = found.streak.add(now, is_worth_a_line=is_last or now - since >= TELL_AFTER)
            failures = found.streak.failures
        if is_due and is_refused:
            events.tell(events.REQUEST_REFUSED, store=self._url, kind=kind, operation=text, reason=reason)
        elif is_due:
            events.tell(
                events.STORE_FAILING,
                store=self._url,
                kind=kind,
                seconds=now - since,
                failures=failures,
                operation=text,
                reason=reason,
            )

    def answered(self, operation: int, kind: str, text: str, cause: str, *, began: float) -> None:
        """Record that the store answered a request that was sent at `began`."""
        seconds = self._runtime.monotonic() - began
        if seconds >= self._slow:
            self._was_slow(kind, text, seconds)
        if self._kinds:
            self._recovered(operation, kind)
        if events.REQUEST.is_heard:
            events.tell(events.REQUEST, store=self._url, kind=kind, cause=cause, operation=text, seconds=seconds)

    def _was_slow(self, kind: str, text: str, seconds: float) -> None:
        now = self._runtime.monotonic()
        with self._lock:
            if self._slow_told_at is not None and now - self._slow_told_at < TELL_EVERY:
                self._slow_untold += 1
                return
            self._slow_told_at, more, self._slow_untold = now, self._slow_untold, 0
        events.tell(events.SLOW_REQUEST, store=self._url, kind=kind, operation=text, seconds=seconds, more=more)

    def _recovered(self, operation: int, kind: str) -> None:
        now = self._runtime.monotonic()
        with self._lock:
            found = self._kinds.get(kind)
            if found is None:
                return
            found.operations.pop(operation, None)
            found.given_up = None
            if found.since(now) is not None:
                return
            streak = self._kinds.pop(kind).streak
        if streak.is_told:
            events.tell(
                events.STORE_RECOVERED,
                store=self._url,
                kind=kind,
                seconds=now - streak.since,
                failures=streak.failures,
            )

    def failing_for(self) -> float | None:
        """Return for how many seconds requests of some kind have failed; None: all are answered."""
        now = self._runtime.monotonic()
        with self._lock:
            since = [each.since(now) for each in self._kinds.values()]
        return max((now - each for each in since if each is not None), default=None)


class BackgroundHealth:
    """Health of a handle's background work. Thread-safe."""

    def __init__(self, runtime: Runtime, url: str) -> None:
        self._runtime = runtime
        self._url = url
        self._lock = runtime.lock()
        self._streaks: dict[str, _Streak] = {}
        self._failures: dict[str, tuple[int, str, float]] = {}
        self._is_stopped = self._is_refusal_told = False

    def failed(self, job: str, error: BaseException) -> None:
        """Record that `job` failed and will be retried. Requires: no engine lock is held."""
        now, reason = self._runtime.monotonic(), events.reason(error)
        with self._lock:
            streak = self._streaks.setdefault(job, _Streak(now))
            self._failures[job] = (self._failures.get(job, (0, "", 0.0))[0] + 1, reason, now)
            is_due = streak.add(now, is_worth_a_line=True)
            failures = streak.failures
        if is_due:
            events.tell(
                events.JOB_FAILING,
                url=self._url,
                job=job,
                seconds=now - streak.since,
                failures=failures,
                reason=reason,
            )

    def succeeded(self, job: str) -> None:
        """Record that `job` succeeded. Requires: as `failed`."""
        if job not in self._streaks:
            return
        with self._lock:
            streak = self._streaks.pop(job, None)
        if streak is not None:
            seconds = self._runtime.monotonic() - streak.since
            events.tell(events.JOB_RECOVERED, url=self._url, job=job, seconds=seconds, failures=streak.failures)

    def refused(self, error: BaseException) -> None:
        """Report a refused proposal of the scheduler, the first time only. `Status.refused_compactions` counts them."""
        with self._lock:
            is_first, self._is_refusal_told = not self._is_refusal_told, True
        if is_first:
            events.tell(events.PROPOSAL_REFUSED, url=self._url, reason=events.reason(error))

    def failures_in_a_row(self, job: str) -> int:
        streak = self._streaks.get(job)
        return 0 if streak is None else streak.failures

    def stopped(self, error: BaseException) -> None:
        """Report the first `error` after which the handle refuses further work. Requires: as `failed`."""
        if isinstance(error, ClosedError) and not isinstance(error, FencedError):
            return
        with self._lock:
            if self._is_stopped:
                return
            self._is_stopped = True
        event = events.FENCED if isinstance(error, FencedError) else events.FAILED
        events.tell(event, url=self._url, reason=events.reason(error))

    def status(self) -> Mapping[str, BackgroundStatus]:
        """Return the status of each job that ever failed."""
        now = self._runtime.monotonic()
        with self._lock:
            return {
                job: BackgroundStatus(
                    failures, now - self._streaks[job].since if job in self._streaks else None, last_failure
                )
                for job, (failures, last_failure, _) in self._failures.items()
            }

    def failing_for(self, job: str) -> float | None:
        """Return the seconds since the job's first failure in a row; None: its last run succeeded."""
        streak = self._streaks.get(job)
        return None if streak is None else self._runtime.monotonic() - streak.since

    def last_failure(self) -> tuple[float, str] | None:
        """Return when the newest failure of any job was, by the runtime's monotonic clock, and its text."""
        with self._lock:
            return max(((when, text) for _, text, when in self._failures.values()), default=None)


def failing_for(*stores: StoreHealth) -> float | None:
    """Return the greatest `failing_for` of the stores; None: requests to none of them fail."""
    return max((seconds for store in stores if (seconds := store.failing_for()) is not None), default=None)


def newest_failure(background: BackgroundHealth, *stores: StoreHealth) -> str | None:
    """Return the text of the newest failure, of a request or a job."""
    found = [
        each for each in (background.last_failure(), *(store.last_failure for store in stores)) if each is not None
    ]
    return max(found)[1] if found else None
