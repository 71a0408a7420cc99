"""Fields of frozen configurations: their checks, and configurations from mappings and files.

Each check leaves the field in its stored form, or raises InvalidInputError.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import fields
from pathlib import PurePath
from typing import Any, TypeVar

import lsm
from opendata_log.model.errors import InvalidInputError

LEAST_SECONDS = 1e-9
"""Minimum seconds of a duration that must be above zero."""
INTEGER_MAX = (1 << 62) - 1

C = TypeVar("C")
set_field = object.__setattr__
"""Sets a field of a frozen value while the value is made."""


def refusal(owner: Any, name: str, allowed: str, got: object) -> InvalidInputError:
    """The error for an invalid field: it names the field, the allowed values and the given one."""
    return InvalidInputError(f"{type(owner).__name__}: {name} must be {allowed}, got {got}")


def check_integer(owner: Any, name: str, *, low: int, high: int = INTEGER_MAX, optional: bool = False) -> None:
    """Check for an integer from `low` to `high`; None is allowed where `optional`."""
    value = getattr(owner, name)
    if value is None and optional:
        return
    limits = f"at least {low}" if high == INTEGER_MAX else f"from {low} to {high}"
    allowed = f"an integer, {limits}" + (", or None" if optional else "")
    try:
        number = operator.index(value)
    except TypeError:
        raise refusal(owner, name, allowed, lsm.shown(value)) from None
    if isinstance(value, bool) or not low <= number <= high:
        raise refusal(owner, name, allowed, lsm.shown(value))
    set_field(owner, name, number)


def check_flag(owner: Any, name: str) -> None:
    """Check for True or False; no other type is allowed."""
    value = getattr(owner, name)
    if type(value) is not bool:
        raise refusal(owner, name, "True or False", lsm.shown(value))


def check_duration(owner: Any, name: str, *, optional: bool = False) -> None:
    """Check for seconds above zero, as a number or a timedelta; None is allowed where `optional`."""
    value = getattr(owner, name)
    if value is None and optional:
        return
    try:
        set_field(owner, name, lsm.age_seconds(value, name, least=LEAST_SECONDS))
    except lsm.InvalidError:
        allowed = "seconds above zero or a timedelta" + (", or None" if optional else "")
        raise refusal(owner, name, allowed, lsm.shown(value)) from None


def check_interval(owner: Any, name: str) -> None:
    """Check for a duration that a thread waits; it is cut to the longest wait that a lock takes."""
    check_duration(owner, name)
    set_field(owner, name, lsm.wait_seconds(getattr(owner, name), name))


def milliseconds(seconds: float | None) -> int | None:
    """Seconds as whole milliseconds, at least one; None stays None."""
    return None if seconds is None else max(1, round(seconds * 1000))


def checked_url(owner: Any, name: str, allowed: str = "an fsspec URL or a path") -> str:
    """The text of a URL or path, which must not be empty."""
    value = getattr(owner, name)
    text = str(value) if isinstance(value, PurePath) else value
    if not isinstance(text, str) or not text:
        raise refusal(owner, name, allowed, lsm.shown(value))
    return text


def check_nested(owner: Any, name: str, kind: type[Any]) -> None:
    """Check for a configuration of that kind, or a mapping that makes one."""
    value = getattr(owner, name)
    if isinstance(value, Mapping):
        set_field(owner, name, from_mapping(kind, value))
    elif not isinstance(value, kind):
        raise refusal(owner, name, f"a {kind.__name__} or a mapping", lsm.shown(value))


def check_names(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Check that every name is a field of `kind`. Raises: InvalidInputError."""
    known = sorted(one.name for one in fields(kind))
    for name in values:
        if name not in known:
            raise InvalidInputError(f"{kind.__name__}: unknown name {name!r}; known names are {known}")


def from_mapping(kind: type[C], values: Mapping[str, Any]) -> C:
    """A configuration from names and values. Raises: InvalidInputError."""
    if not isinstance(values, Mapping):
        raise InvalidInputError(f"{kind.__name__} must be made from a mapping, got {type(values).__name__}")
    check_names(kind, values)
    try:
        return kind(**values)
    except TypeError as error:  # A required name is missing.
        raise InvalidInputError(f"{kind.__name__}: {error}") from error


def read_file(path: str | PurePath) -> dict[str, Any]:
    """Names and values of a TOML, JSON or YAML file. Raises: InvalidInputError."""
    try:
        return lsm.read_settings_file(str(path))
    except lsm.InvalidError as error:
        raise InvalidInputError(str(error)) from error
