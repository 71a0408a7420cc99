"""Which batches a view of a plain database must show. Imports nothing of the product.

Every batch writes its own name under one key, so a view of one moment says itself which batches it must show: those up to
that one, each whole. Batches form a tree: each owner goes on where it found the database, and a clone where it began.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MARK = b"mark"
Rows = dict[bytes, bytes]


@dataclass(eq=False)
class Batch:
    """One batch: the one it follows, and what the database holds with it."""

    name: bytes
    parent: Batch | None
    rows: Rows
    depth: int
    durable: int | None = None

    def __str__(self) -> str:
        return f"batch {self.name!r} (depth {self.depth})"

    def follows(self, older: Batch) -> bool:
        at: Batch | None = self
        while at is not None and at.depth > older.depth:
            at = at.parent
        return at is older


class History:
    """The batches of one database. `source`: of a clone, the history of the database it was made from."""

    def __init__(
        self, report: Callable[[str, str], None], now: Callable[[], int], *, source: History | None = None
    ) -> None:
        self._report = report
        self._now = now
        self._source = source
        self.names: dict[bytes, Batch] = {} if source is None else source.names
        """Of the whole family: a name is never given twice."""
        if source is None:
            self.names[b""] = Batch(b"", None, {}, 0)
        self.root: Batch | None = None if source is not None else self.names[b""]
        """What the database began with; None: a clone's first view will tell."""
        self._own: dict[bytes, Batch] = {} if self.root is None else {b"": self.root}

    def add(self, parent: Batch, rows: Rows) -> Batch:
        """A batch that is about to be written on top of another one, whose rows become `rows`, without the mark."""
        name = b"%d" % len(self.names)
        made = self.names[name] = self._own[name] = Batch(name, parent, rows, parent.depth + 1)
        return made

    def begin(self, root: Batch | None) -> None:
        """A clone's first view."""
        if self.root is None:
            self.root = root

    def next_name(self) -> bytes:
        """Of the batch that `add` makes next."""
        return b"%d" % len(self.names)

    def durable(self, batch: Batch | None) -> None:
        now = self._now()
        while batch is not None and batch.durable is None:
            batch.durable = now
            batch = batch.parent

    def check_view(self, who: str, rows: Rows, as_of: int, least: Batch | None = None) -> Batch | None:
        """A view of one moment, of somebody who must see what was durable at `as_of`, and the batch `least`."""
        rows = dict(rows)
        name = rows.pop(MARK, b"")
        batch = self._find(name)
        if batch is None:
            self._report("phantom", f"{who}: nobody wrote batch {name!r}")
            return None
        if rows != batch.rows:
            wrong = {key for key in rows.keys() | batch.rows.keys() if rows.get(key) != batch.rows.get(key)}
            self._report("torn batch", f"{who}: at {batch}, {sorted(wrong)} are not as they were written: {rows}")
        needed = [each for each in self._own.values() if each.durable is not None and each.durable < as_of]
        for each in [*needed, *([least] if least is not None else []), *([self.root] if self.root else [])]:
            if not batch.follows(each):
                self._report("lost", f"{who}: shows {batch}, which does not follow {each}")
                break
        return batch

    def _find(self, name: bytes) -> Batch | None:
        """A batch that may be seen here."""
        if name in self._own:
            return self._own[name]
        batch = self.names.get(name)
        if self._source is None or batch is None:
            return None
        # Of the source a clone shows what it began with, and that never changes.
        if self.root is None:
            return self._source._find(name)
        return self.root if self.root is batch else None
