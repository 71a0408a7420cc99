"""The kinds of rows, and the refusal of kinds that this version does not know. Pure.

A kind is one stored byte. Every reader of a row switches on its kind. A merge operand or an expiring row of a newer version
would give wrong answers if it were read as a value, and lose data if it were dropped. So every decoder of a kinds column
refuses an unknown kind (`take_kinds`), and so does every reader of rows in memory (`check_kinds`, `value_of`).
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
"""Columns hold plain integers: the interpreter compares integers faster than members of an enumeration.
In an array column, each kind is one byte."""

KNOWN_KINDS: Final = bytes((VALUE, TOMBSTONE))
"""The kinds that this version reads. A kind is added when every reader of rows handles it."""
_KNOWN: Final = frozenset(KNOWN_KINDS)
_IS_SEEN: Final = bytes(kind == VALUE for kind in range(256))


def take_kinds(data: bytes, at: int, count: int, *, name: str, offset: int) -> tuple[Sequence[int], int]:
    """The kinds column of `count` rows at offset `at`, and the offset after it. `name` and `offset`: the object, and the
    offset of the block or frame in it, for the error.

    Raises: CorruptionError if a kind is unknown. Cost: one pass in C over the stored bytes.
    """
    kinds, end = take_ints(data, at, count)
    if not count:
        return kinds, end
    width = data[at]
    if width == 1:
        unknown: Collection[int] = data[at + 1 : end].translate(None, KNOWN_KINDS)
    else:  # All items are equal (width 0), or wider than any writer stores them.
        unknown = set(kinds if width else kinds[:1]) - _KNOWN
    if unknown:
        raise unknown_row_kind(max(unknown), name=name, offset=offset)
    return list(kinds) if width > 1 else kinds, end


def check_kinds(kinds: Sequence[int]) -> None:
    """Raise CorruptionError if a kind is unknown. Cost: one pass in C."""
    unknown = bytes(kinds).translate(None, KNOWN_KINDS)
    if unknown:
        raise unknown_row_kind(unknown[0])


def are_values(kinds: Sequence[int]) -> bool:
    """Whether all rows are values. Cost: one pass in C."""
    return kinds.count(VALUE) == len(kinds)


def seen(kinds: Sequence[int]) -> bytes:
    """For each row, 1 if a read sees it, and 0 if it deletes its key. Raises: CorruptionError if a kind is unknown.
    Cost: one pass in C."""
    check_kinds(kinds)
    return bytes(kinds).translate(_IS_SEEN)


def value_of(kind: int, value: bytes) -> bytes | None:
    """The value that a row of this kind gives its key; None if the row deletes the key. Raises: CorruptionError."""
    if kind == VALUE:
        return value
    if kind == TOMBSTONE:
        return None
    raise unknown_row_kind(kind)


def unknown_row_kind(kind: int, *, name: str = "", offset: int = 0) -> CorruptionError:
    return CorruptionError(
        f"row kind {kind} is unknown: a newer version wrote it: update the library", object_name=name, offset=offset
    )
