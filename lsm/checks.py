"""What callers and files give, before any of it is used or stored: durations, sizes, text, clocks. Pure.

One function for each kind of value, so that every call and every setting takes and refuses the same. All of them raise
InvalidError and name the value. What they let through can be waited for, and stored, and read back.
"""

from __future__ import annotations

import operator
from datetime import timedelta
from typing import Final

from lsm.errors import InvalidError
from lsm.runtime import WAIT_MAX

AGE_MAX: Final = timedelta.max.total_seconds()
"""Seconds, in whole milliseconds a number of 64 bits."""
SIZE_MAX: Final = (1 << 62) - 1
TEXT_BYTES_MAX: Final = 4096
SHOWN_MAX: Final = 500


def wait_seconds(value: object, what: str, *, least: float = 0.0) -> float:
    """How long to wait, from `least` on, in seconds or as timedelta. Infinity, and whatever is longer than thirty years,
    is as good as for ever and becomes the longest wait there is."""
    seconds = _seconds(value)
    if seconds is None or not seconds >= least:
        raise InvalidError(f"{what} must be seconds (at least {least:g}) or a timedelta, got {shown(value)}")
    return float(min(seconds, WAIT_MAX))


def timeout_seconds(value: object, what: str = "timeout") -> float | None:
    """As `wait_seconds`; None: as long as it takes."""
    return None if value is None else wait_seconds(value, what)


def age_seconds(value: object, what: str, *, least: float = 0.0) -> float:
    """How old something may get, from `least` on, in seconds or as timedelta: a number that dates are computed with."""
    seconds = _seconds(value)
    if seconds is None or not least <= seconds <= AGE_MAX:
        raise InvalidError(f"{what} must be seconds (from {least:g} to {AGE_MAX:g}) or a timedelta, got {shown(value)}")
    return float(seconds)


def _seconds(value: object) -> float | int | None:
    """None where it is no number of seconds."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # NaN is not itself.
        return None
    return value


def integer(value: object, what: str, *, low: int = 0, high: int = SIZE_MAX) -> int:
    """A size or a count."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high:
        raise InvalidError(f"{what} must be an integer from {low} to {high}, got {shown(value)}")
    return number


def text(value: object, what: str, *, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """Text that is stored: as UTF-8, of a size that everyone who reads it can bear."""
    if not isinstance(value, str):
        raise InvalidError(f"{what} must be a str, got {shown(value)}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidError(f"{what} {shown(value)} cannot be stored: {error.reason}") from None
    if size > bytes_max:
        raise InvalidError(f"{what} of {size} bytes is too long: at most {bytes_max} are stored")
    return str(value)


def shown(value: object) -> str:
    """For a message: what was given, cut where it is long."""
    try:
        found = repr(value)
    except Exception as error:  # An int of more digits than Python writes out, or a repr of the caller's that fails.
        found = f"a {type(value).__name__} ({error})"
    return found if len(found) <= SHOWN_MAX else f"{found[:SHOWN_MAX]}..."
