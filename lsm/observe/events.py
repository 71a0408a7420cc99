"""Events that handles report beside their answers, and the observers that get them.

An event has a name, a logger, a level and the text of its log line. Code reports one with `tell(EVENT, fact=…)`, and `tell`
passes it to every observer. `observe/logging_observer` writes log lines; another observer can feed metrics.
docs/operations.md gives the meaning of each event.

Levels: WARNING for an event that an operator should look at, INFO for takeovers and recoveries, DEBUG for requests. Facts are
names of objects, numbers, and `reason(error)`. They are never keys or values of records, and never credentials.

Requires of callers: hold no lock that appends or reads take, because observers run the application's code. Report no event
per record.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from lsm.errors import ClosedError, CorruptionError, UnavailableError

SECRET: Final = re.compile(
    r"(?i)(?<=://)[^/@\s]+(?=@)"
    r"|(?<=[?&;\s\"'])((?:x-amz-|x-goog-)?(?:signature|credential|security-token)|sig|secret|token|password|key)=[^&;\s\"']+"
)
"""Secrets that clients put into error texts: user information in a URL, and parameters of signed URLs."""


TEXT_MAX: Final = 1000
"""Maximum characters per fact. Some clients put whole answers into error texts."""
DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30
"""Levels, numbered as in `logging`."""


class Event(NamedTuple):
    """A kind of event. `text` is a %-format string that names the facts of an event."""

    name: str
    logger: str
    level: int
    text: str

    @property
    def is_heard(self) -> bool:
        """Whether an observer wants this kind. Check it before you compute expensive facts."""
        for observer in _observers:  # noqa: SIM110  Asked for every request, and a generator takes twice as long.
            if observer.wants(self):
                return True
        return False


class Observer(Protocol):
    """Gets events as they happen, in the threads that report them. Exceptions of an observer are ignored."""

    def wants(self, event: Event) -> bool:
        """Whether `on_event` should be called for this kind. It is called often, so it must be fast."""

    def on_event(self, event: Event, facts: Mapping[str, object]) -> None:
        """Handle one event. Texts in `facts` are one line of about TEXT_MAX characters at most, without credentials."""


def _warning(name: str, logger: str, text: str) -> Event:
    return Event(name, logger, WARNING, text)


def _info(name: str, logger: str, text: str) -> Event:
    return Event(name, logger, INFO, text)


# -- a handle's life ------------------------------------------------------------------------------------------------------

CREATED: Final = _info("created", "lsm.db", "%(url)s: created, and opened as epoch %(epoch)d")
OPENED: Final = _info(
    "opened",
    "lsm.db",
    "%(url)s: opened as epoch %(epoch)d, taken over from epoch %(previous)d; replayed %(log_objects)d log objects",
)
FENCED: Final = _warning("fenced", "lsm.db", "%(url)s: this writer is fenced: %(reason)s")
FAILED: Final = _warning("failed", "lsm.db", "%(url)s: this handle refuses further work: %(reason)s")
CLOSED: Final = _info("closed", "lsm.db", "%(url)s: closed; everything up to batch %(last)d is durable")
CLOSED_EARLY: Final = _warning(
    "closed early", "lsm.db", "%(url)s: closed, but batches %(first)d to %(last)d are not known to be durable"
)

# -- the store ------------------------------------------------------------------------------------------------------------

REQUEST: Final = Event(
    "request", "lsm.store", DEBUG, "%(store)s: %(kind)s for %(cause)s (%(operation)s) took %(seconds).3f s"
)
SLOW_REQUEST: Final = _warning(
    "slow request",
    "lsm.store",
    "%(store)s: a request (%(kind)s: %(operation)s) took %(seconds).1f s; %(more)d more did since the last such line",
)
STORE_FAILING: Final = _warning(
    "store failing",
    "lsm.store",
    "%(store)s: requests (%(kind)s) have failed for %(seconds).1f s, %(failures)d so far; "
    "the last one: %(operation)s: %(reason)s",
)
STORE_RECOVERED: Final = _info(
    "store recovered",
    "lsm.store",
    "%(store)s: requests (%(kind)s) recovered after %(seconds).1f s and %(failures)d failures",
)
REQUEST_REFUSED: Final = _warning(
    "request refused", "lsm.store", "%(store)s: a request (%(kind)s) was refused: %(operation)s: %(reason)s"
)

# -- background work --------------------------------------------------------------------------------------------------------

JOB_FAILING: Final = _warning(
    "job failing",
    "lsm.background",
    "%(url)s: %(job)s has failed for %(seconds).1f s, %(failures)d times so far, and is tried again: %(reason)s",
)
JOB_RECOVERED: Final = _info(
    "job recovered", "lsm.background", "%(url)s: %(job)s recovered after %(seconds).1f s and %(failures)d failures"
)
WORKERS_GIVEN_UP: Final = _warning(
    "workers given up",
    "lsm.background",
    "%(url)s: worker processes for %(job)s fail, so it goes on in threads of this process: %(reason)s",
)
PROPOSAL_REFUSED: Final = _warning(
    "proposal refused",
    "lsm.compaction",
    "%(url)s: the scheduler proposed a compaction that is not possible: %(reason)s",
)
COMPACTION_TAKEN_OVER: Final = _info(
    "compaction taken over", "lsm.compaction", "%(url)s: this process (epoch %(epoch)d) compacts from now on"
)
COMPACTION_SUPERSEDED: Final = _info(
    "compaction superseded", "lsm.compaction", "%(url)s: another process compacts now; epoch %(epoch)d stops"
)
CHECKPOINT_EXPIRED: Final = _info(
    "checkpoint expired", "lsm.gc", "%(url)s: checkpoint %(checkpoint)s expired; what it kept may be deleted now"
)

# -- damage -----------------------------------------------------------------------------------------------------------------

CORRUPTION: Final = _warning("corruption", "lsm.corruption", "%(url)s: damage: %(reason)s")
FSCK_FOUND_DAMAGE: Final = _warning(
    "fsck found damage", "lsm.fsck", "%(url)s: a verification found %(problems)d problems; the first one: %(place)s"
)

# -- readers ----------------------------------------------------------------------------------------------------------------

READER_OVERTAKEN: Final = _warning(
    "reader overtaken",
    "lsm.reader",
    "%(url)s: the collector overtook a read, which has to be started again: %(reason)s",
)
CALLBACK_FAILED: Final = _warning("callback failed", "lsm.reader", "%(url)s: a callback of on_news failed: %(reason)s")

# -- the log ----------------------------------------------------------------------------------------------------------------

SEGMENTS_RETIRED: Final = _info(
    "segments retired", "opendata_log.retention", "%(url)s: retired %(count)d segments, up to segment %(segment)d"
)
CLOCK_JUMPED: Final = _warning(
    "clock jumped",
    "opendata_log.retention",
    "%(url)s: the wall clock jumped by %(seconds)+.1f s against the monotonic clock; retention takes no segment early for it",
)

EVENTS: Final = tuple(each for each in list(vars().values()) if isinstance(each, Event))
"""Every kind of event."""

_observers: tuple[Observer, ...] = ()


def observe(observer: Observer) -> None:
    """Pass every later event of this process to `observer`, until `stop_observing`."""
    global _observers
    _observers = (*_observers, observer)


def stop_observing(observer: Observer) -> None:
    """Undo `observe`. No effect if `observer` is not registered."""
    global _observers
    _observers = tuple(each for each in _observers if each is not observer)


def tell(event: Event, **facts: object) -> None:
    """Report `event`. Never raises: an observer's exception must not become a failure of the handle."""
    clean: dict[str, object] | None = None
    for observer in _observers:
        try:
            if observer.wants(event):
                if clean is None:
                    clean = {name: _clean(fact) for name, fact in facts.items()}
                observer.on_event(event, clean)
        except Exception:
            continue


def _clean(fact: object) -> object:
    """Return a text as one line of bounded length, without secrets; any other fact unchanged."""
    if not isinstance(fact, str):
        return fact
    text = " ".join(SECRET.sub("***", fact).split())
    return text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + "..."


def reason(error: BaseException) -> str:
    """Return the description of an error for a log line.

    If the error's text can name only stores and objects, return the text. The text of any other error may contain stored
    data, so return its class and where it was raised.
    """
    if isinstance(error, UnavailableError | ClosedError) or (isinstance(error, CorruptionError) and error.object_name):
        return str(error)
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    if isinstance(root, OSError) and root.strerror:
        return f"{type(root).__name__}: {root.strerror}"
    frames = traceback.extract_tb(root.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(root).__name__}{place}"
