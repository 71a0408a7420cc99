"""Checks of values from callers and files: durations, sizes, text. Pure.

There is one function per kind of value, so that every call and every setting accepts the same values. All of them raise
InvalidError, and the message names the parameter and its value. A value that passes can be waited for, stored and read back.
"""

from __future__ import annotations

import operator
from datetime import timedelta
from typing import Final, SupportsIndex, cast

from lsm.errors import InvalidError
from lsm.runtime import WAIT_MAX

AGE_MAX: Final = timedelta.max.total_seconds()
"""Maximum seconds of an age. In milliseconds it fits into 64 bits."""
SIZE_MAX: Final = (1 << 62) - 1
TEXT_BYTES_MAX: Final = 4096
SHOWN_MAX: Final = 500


def wait_seconds(value: object, what: str, *, least: float = 0.0) -> float:
    """Check a duration to wait for: seconds or a timedelta, at least `least`. Return seconds.

    A duration above WAIT_MAX, such as infinity, becomes WAIT_MAX.
    """
    seconds = _seconds(value)
    if seconds is None or not seconds >= least:
        raise InvalidError(f"{what} must be seconds (at least {least:g}) or a timedelta, got {shown(value)}")
    return float(min(seconds, WAIT_MAX))


def timeout_seconds(value: object, what: str = "timeout") -> float | None:
    """Like `wait_seconds`; None: wait without a limit."""
    return None if value is None else wait_seconds(value, what)


def age_seconds(value: object, what: str, *, least: float = 0.0) -> float:
    """Check an age: seconds or a timedelta, from `least` to AGE_MAX, so that dates can be computed with it. Return seconds."""
    seconds = _seconds(value)
    if seconds is None or not least <= seconds <= AGE_MAX:
        raise InvalidError(f"{what} must be seconds (from {least:g} to {AGE_MAX:g}) or a timedelta, got {shown(value)}")
    return float(seconds)


def _seconds(value: object) -> float | int | None:
    """Return `value` as seconds; None if it is not a number of seconds."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # NaN is not itself.
        return None
    return value


def integer(value: object, what: str, *, low: int = 0, high: int = SIZE_MAX) -> int:
    """Check a size or a count."""
    try:
        number = operator.index(cast("SupportsIndex", value))  # Raises TypeError where it is none.
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high:
        raise InvalidError(f"{what} must be an integer from {low} to {high}, got {shown(value)}")
    return number


def text(value: object, what: str, *, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """Check text that is stored: valid UTF-8 of at most `bytes_max` bytes."""
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
    """Return the repr of `value` for a message. A long one is cut."""
    try:
        found = repr(value)
    except Exception as error:  # An int of more digits than Python prints, or a caller's class whose repr fails.
        found = f"a {type(value).__name__} ({error})"
    return found if len(found) <= SHOWN_MAX else f"{found[:SHOWN_MAX]}..."
