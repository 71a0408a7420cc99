"""Where every object of a database lives. Names of one kind sort by age; no name is ever used twice.

manifest/00000000000000000007.manifest     version 7 of the manifest
wal/00000000000000000042.wal               log object 42: data or a fence
sst/00000003298534883329.sst               a table; its number is epoch << 40 | counter
sst/00000003298534883329.done              a note that a compaction has finished that table
pinned/00000000000000000007.manifest       copy of a version that a checkpoint needs and the manifest's own prefix lost
probe/standing                             whether the store refuses the create of a name that is taken, asked again and again
"""

from __future__ import annotations

from typing import Final

MANIFESTS = "manifest/"
WAL = "wal/"
TABLES = "sst/"
PINNED = "pinned/"
PROBES = "probe/"
PROBE = "probe/standing"
"""Stays from the creation of the database on. Every create of it must be refused (rule O2)."""

COUNTER_BITS: Final = 40
"""Of a table's number; the epoch of the process that gave it is above them."""


def manifest_name(number: int) -> str:
    return f"{MANIFESTS}{number:020d}.manifest"


def wal_name(number: int) -> str:
    return f"{WAL}{number:020d}.wal"


def table_name(number: int) -> str:
    return f"{TABLES}{number:020d}.sst"


def note_name(number: int) -> str:
    return f"{TABLES}{number:020d}.done"


def pinned_name(number: int) -> str:
    return f"{PINNED}{number:020d}.manifest"


def number_of(name: str) -> int | None:
    """The number in an object's name, or None for a name this engine did not give.

    >>> number_of(wal_name(42)), number_of("wal/notes.txt")
    (42, None)
    """
    stem, _, _suffix = name.rpartition("/")[2].partition(".")
    return int(stem) if len(stem) == 20 and stem.isdecimal() and stem.isascii() else None
