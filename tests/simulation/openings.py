"""Which processes had what open when: nobody may be told that another one took over where there is no other one."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class _Opening(NamedTuple):
    kind: str
    place: str
    since: int


class Openings:
    """Time is a counter of events. A name opens one place, as one kind of process."""

    def __init__(self) -> None:
        self._events = 0
        self._opened: dict[str, _Opening] = {}
        self._ended: dict[str, int] = {}

    def now(self) -> int:
        self._events += 1
        return self._events

    def begin(self, name: str, kind: str, place: str = "") -> int:
        """It is about to open `place`; the moment."""
        self._opened[name] = _Opening(kind, place, self.now())
        return self._opened[name].since

    def end(self, name: str) -> None:
        """It has closed, failed to open, or died."""
        self._ended.setdefault(name, self.now())

    def kind(self, name: str) -> str:
        return self._opened[name].kind

    def has_rival(self, name: str, kinds: Collection[str]) -> bool:
        """Whether some other process of these kinds had the same place open, or was opening it, since `name` began."""
        own = self._opened[name]
        return any(
            other != name
            and each.kind in kinds
            and each.place == own.place
            and self._ended.get(other, own.since + 1) > own.since
            for other, each in self._opened.items()
        )
