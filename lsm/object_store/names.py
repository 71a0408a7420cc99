"""Where every object of a database lives. Names of one kind sort by age; no name is ever used twice.

manifest/00000000000000000007.manifest     version 7 of the manifest
wal/00000000000000000042.wal               log object 42: data or a fence
sst/00000003298534883329.sst               a table; its number is epoch << 40 | counter
sst/00000003298534883329.done              a note that a compaction has finished that table
pinned/00000000000000000007.manifest       copy of a version that a checkpoint needs and the manifest's own prefix lost
probe/standing                             whether the store refuses the create of a name that is taken, asked again and again
"""

from __future__ import annotations

import re
from typing import Final

MANIFESTS = "manifest/"
WAL = "wal/"
TABLES = "sst/"
PINNED = "pinned/"
PROBES = "probe/"
PREFIXES: Final = (MANIFESTS, WAL, TABLES, PINNED, PROBES)
PROBE = "probe/standing"
"""Stays from the creation of the database on. Every create of it must be refused (rule O2)."""

COUNTER_BITS: Final = 40
"""Of a table's number; the epoch of the process that gave it is above them."""

TEMPORARY: Final = re.compile(r"\.tmp-[0-9]+-[0-9a-f]{16}")
"""The last part of the name of a local store's temporary file."""

_DIGITS: Final = 20
_PROBE: Final = re.compile(rf"{PROBES}[0-9a-f]{{32}}")
_LEFTOVER: Final = re.compile(rf"(?:{'|'.join(PREFIXES)}){TEMPORARY.pattern}")
_FIRST_MANIFESTS: Final = re.compile(rf"(?:.*/)?{MANIFESTS}[0-9]{{{_DIGITS}}}\.manifest", re.DOTALL)


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


# Names are matched whole: other programs leave partial downloads, backups and directories of their own beside our
# objects (`...7.manifest.bak`, `...7 (conflicted copy).wal`, `.DS_Store`), and those are neither read nor deleted (rule B4).


def manifest_number(name: str) -> int | None:
    """The number of a manifest version, or None for any other name.

    >>> manifest_number(manifest_name(7)), manifest_number(manifest_name(7) + ".bak"), manifest_number(wal_name(7))
    (7, None, None)
    """
    return _number(name, MANIFESTS, ".manifest")


def wal_number(name: str) -> int | None:
    return _number(name, WAL, ".wal")


def table_number(name: str) -> int | None:
    return _number(name, TABLES, ".sst")


def note_number(name: str) -> int | None:
    return _number(name, TABLES, ".done")


def pinned_number(name: str) -> int | None:
    return _number(name, PINNED, ".manifest")


def is_probe(name: str) -> bool:
    return name == PROBE or _PROBE.fullmatch(name) is not None


def is_leftover(name: str) -> bool:
    """Whether it is the name of a temporary file that a create of an object of a database left."""
    return _LEFTOVER.fullmatch(name) is not None


def is_foreign(name: str) -> bool:
    """Whether no database gives an object this name.

    >>> is_foreign("sst/notes.txt"), is_foreign(note_name(1))
    (True, False)
    """
    kinds = (manifest_number, wal_number, table_number, note_number, pinned_number)
    return not is_probe(name) and all(kind(name) is None for kind in kinds)


def is_inner_manifest(name: str) -> bool:
    """Whether it is a manifest of another database, whose root lies below one of the prefixes of this one.

    >>> is_inner_manifest("wal/" + manifest_name(1)), is_inner_manifest(manifest_name(1))
    (True, False)
    """
    return manifest_number(name) is None and _FIRST_MANIFESTS.fullmatch(name) is not None


def _number(name: str, prefix: str, suffix: str) -> int | None:
    digits = name[len(prefix) : -len(suffix)]
    if len(digits) != _DIGITS or not (digits.isascii() and digits.isdecimal()):
        return None
    return int(digits) if name.startswith(prefix) and name.endswith(suffix) else None
