"""What a row is: the kinds of rows, and the refusal of those that this version does not know. Pure.

A kind is one stored byte. Whatever reads a row switches on its kind: a merge operand or an expiring row that was taken for
a value would give wrong answers, and dropped it would lose data. So every decoder of a kinds column refuses a kind that a
newer version wrote (`take_kinds`), and so does every reader of rows in memory (`check_kinds`, `value_of`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import Final

from lsm.coding import take_ints
from lsm.errors import CorruptionError


class RowKind(IntEnum):
    """The stored byte of each kind of row."""

    VALUE = 0
    TOMBSTONE = 1
    MERGE = 2
    """Reserved: an operand of a merge. This version neither writes nor reads it."""


VALUE: Final[int] = RowKind.VALUE.value
TOMBSTONE: Final[int] = RowKind.TOMBSTONE.value
"""Columns hold plain integers: the interpreter compares them faster than it compares members of an enumeration.
A column that is an array has items of one byte."""

KNOWN_KINDS: Final = bytes((VALUE, TOMBSTONE))
"""The kinds that this version reads. A kind joins them when every reader of rows knows what to make of it."""
_KNOWN: Final = frozenset(KNOWN_KINDS)
_IS_SEEN: Final = bytes(kind == VALUE for kind in range(256))


def take_kinds(data: bytes, at: int, count: int, *, name: str, offset: int) -> tuple[Sequence[int], int]:
    """The kinds column of `count` rows at offset `at`, and the offset after it. `name` and `offset`: the object, and where
    in it the block or frame lies, for the error.

    Raises: CorruptionError: a kind is unknown. Cost: one pass in C over the stored bytes.
    """
    kinds, end = take_ints(data, at, count)
    if not count:
        return kinds, end
    width = data[at]
    if width == 1:
        unknown: Collection[int] = data[at + 1 : end].translate(None, KNOWN_KINDS)
    else:  # All are equal (0), or wider than any writer makes them.
        unknown = set(kinds if width else kinds[:1]) - _KNOWN
    if unknown:
        raise unknown_row_kind(max(unknown), name=name, offset=offset)
    return list(kinds) if width > 1 else kinds, end


def check_kinds(kinds: Sequence[int]) -> None:
    """Raise CorruptionError where a kind is unknown. Cost: one pass in C."""
    unknown = bytes(kinds).translate(None, KNOWN_KINDS)
    if unknown:
        raise unknown_row_kind(unknown[0])


def are_values(kinds: Sequence[int]) -> bool:
    """Whether all rows are values. Cost: one pass in C."""
    return kinds.count(VALUE) == len(kinds)


def seen(kinds: Sequence[int]) -> bytes:
    """For each row, 1 where a read sees it, and 0 where it deletes its key. Raises: CorruptionError: a kind is unknown.
    Cost: one pass in C."""
    check_kinds(kinds)
    return bytes(kinds).translate(_IS_SEEN)


def value_of(kind: int, value: bytes) -> bytes | None:
    """What a row of this kind makes of its key: its value, or None where it deletes it. Raises: CorruptionError."""
    if kind == VALUE:
        return value
    if kind == TOMBSTONE:
        return None
    raise unknown_row_kind(kind)


def unknown_row_kind(kind: int, *, name: str = "", offset: int = 0) -> CorruptionError:
    return CorruptionError(
        f"row kind {kind} is unknown: a newer version wrote it: update the library", object_name=name, offset=offset
    )
