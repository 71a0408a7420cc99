"""The report of a verification. Pure."""

from __future__ import annotations

from collections.abc import Callable, Set

import msgspec

from lsm.errors import CorruptionError

PROBLEMS_MAX = 10_000
"""Maximum problems kept in a report. Further ones are only counted."""
PROBLEMS_SHOWN = 50


class Problem(msgspec.Struct, frozen=True):
    """Damage: an object, the byte offset of the damage, and a description. `object` is empty for damage between rows."""

    object: str
    offset: int
    message: str


class Orphan(msgspec.Struct, frozen=True):
    """An object that nothing needs: a crash left it, or the collector has not deleted it yet. No damage."""

    object: str
    size: int


class FsckReport(msgspec.Struct, kw_only=True):
    """What was verified and found. `problems_total` includes problems beyond the 10,000 in `problems`."""

    url: str
    database: str = ""
    manifest_id: int = 0
    manifests: int = 0
    checkpoints: int = 0
    log_objects: int = 0
    tables: int = 0
    blocks: int = 0
    rows: int = 0
    bytes: int = 0
    problems: list[Problem] = []
    problems_total: int = 0
    orphans: list[Orphan] = []
    notes: list[str] = []

    @property
    def is_sound(self) -> bool:
        """Whether no damage was found."""
        return not self.problems_total

    def add(self, message: str, *, object_name: str = "", offset: int = 0) -> None:
        """Add a problem."""
        self.problems_total += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(object_name, offset, message))

    def add_error(self, error: CorruptionError) -> None:
        """Add the problem that a read raised."""
        self.add(error.reason, object_name=error.object_name, offset=error.offset)

    def keep(self, problems: Set[Problem]) -> None:
        """Drop all problems but these."""
        self.problems = [each for each in self.problems if each in problems]
        self.problems_total = len(self.problems)

    def to_text(self) -> str:
        """Return a summary, as lines for a terminal."""
        lines = [
            f"{self.url}: manifest {self.manifest_id}, {self.tables} tables, {self.blocks} blocks, {self.rows} rows, "
            f"{self.log_objects} log objects, {self.checkpoints} checkpoints, {self.bytes} bytes"
        ]
        lines += [f"note: {note}" for note in self.notes]
        if self.orphans:
            size = sum(each.size for each in self.orphans)
            lines.append(f"{len(self.orphans)} orphans, {size} bytes: no damage, the collector takes them")
        shown = self.problems[:PROBLEMS_SHOWN]
        lines += [f"DAMAGE {each.object or 'rows'} at byte {each.offset}: {each.message}" for each in shown]
        if self.problems_total > len(shown):
            lines.append(f"... {self.problems_total - len(shown)} more: see the JSON report")
        lines.append("sound" if self.is_sound else f"damaged, problems: {self.problems_total}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the whole report as one JSON object."""
        found = {**msgspec.structs.asdict(self), "is_sound": self.is_sound}
        return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


Progress = Callable[[int, int], None]
"""Called with the bytes verified so far, and the total."""
