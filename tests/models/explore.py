"""Breadth-first search through all states of a small model, for one that breaks its invariant."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)
STATES_MAX = 400_000


class Found(NamedTuple):
    """The number of states seen, the steps to the first bad state, and its fault; None if no state is bad."""

    states: int
    steps: list[str] | None
    violation: str | None = None


def explore(
    start: S,
    steps: Callable[[S], Iterable[tuple[str, S]]],
    is_bad: Callable[[S], bool | str | None],
    *,
    states_max: int = STATES_MAX,
) -> Found:
    """`is_bad` may return the fault as text."""
    came_from: dict[S, tuple[S, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for label, after in steps(state):
            if after in came_from:
                continue
            came_from[after] = (state, label)
            wrong = is_bad(after)
            if wrong:
                path = []
                at: S = after
                while (link := came_from[at]) is not None:
                    at, step = link
                    path.append(step)
                return Found(len(came_from), path[::-1], str(wrong))
            assert len(came_from) < states_max, "the model has grown: make it smaller"
            queue.append(after)
    return Found(len(came_from), None)
