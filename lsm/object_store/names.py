"""Names of a database's objects. Names of one kind sort by age. No name is used twice.

manifest/00000000000000000007.manifest     version 7 of the manifest
wal/00000000000000000042.wal               log object 42: data or a fence
sst/00000003298534883329.sst               a table; its number is epoch << 40 | counter
sst/00000003298534883329.done              completion marker: a compaction has finished that table
pinned/00000000000000000007.manifest       copy of a manifest version that a checkpoint needs and that manifest/ no longer has
probe/standing                             taken name: creates of it test whether the store refuses them
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
"""The probe object. It exists as long as the database, so every create of it must be refused (rule O2)."""

COUNTER_BITS: Final = 40
"""Bits of the counter in a table number. The bits above hold the epoch of the process that assigned the number."""

TEMPORARY: Final = re.compile(r"\.tmp-[0-9]+-[0-9a-f]{16}")
"""Last part of the name of a local store's temporary file."""

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


def marker_name(number: int) -> str:
    return f"{TABLES}{number:020d}.done"


def pinned_name(number: int) -> str:
    return f"{PINNED}{number:020d}.manifest"


# Names are matched whole, because other programs leave partial downloads, backups and directories beside our objects
# (`...7.manifest.bak`, `...7 (conflicted copy).wal`, `.DS_Store`). Those are neither read nor deleted (rule B4).


def manifest_number(name: str) -> int | None:
    """Return the number of a manifest version; None for any other name.

    >>> manifest_number(manifest_name(7)), manifest_number(manifest_name(7) + ".bak"), manifest_number(wal_name(7))
    (7, None, None)
    """
    return _number(name, MANIFESTS, ".manifest")


def wal_number(name: str) -> int | None:
    return _number(name, WAL, ".wal")


def table_number(name: str) -> int | None:
    return _number(name, TABLES, ".sst")


def marker_number(name: str) -> int | None:
    return _number(name, TABLES, ".done")


def pinned_number(name: str) -> int | None:
    return _number(name, PINNED, ".manifest")


def is_probe(name: str) -> bool:
    return name == PROBE or _PROBE.fullmatch(name) is not None


def is_leftover(name: str) -> bool:
    """Whether `name` is that of a temporary file which a create of a database's object left."""
    return _LEFTOVER.fullmatch(name) is not None


def is_foreign(name: str) -> bool:
    """Whether no object of a database has a name like `name`.

    >>> is_foreign("sst/notes.txt"), is_foreign(marker_name(1))
    (True, False)
    """
    kinds = (manifest_number, wal_number, table_number, marker_number, pinned_number)
    return not is_probe(name) and all(kind(name) is None for kind in kinds)


def is_inner_manifest(name: str) -> bool:
    """Whether `name` is a manifest of another database whose root lies below this root.

    >>> is_inner_manifest("wal/" + manifest_name(1)), is_inner_manifest(manifest_name(1))
    (True, False)
    """
    return manifest_number(name) is None and _FIRST_MANIFESTS.fullmatch(name) is not None


def _number(name: str, prefix: str, suffix: str) -> int | None:
    digits = name[len(prefix) : -len(suffix)]
    if len(digits) != _DIGITS or not (digits.isascii() and digits.isdecimal()):
        return None
    return int(digits) if name.startswith(prefix) and name.endswith(suffix) else None
