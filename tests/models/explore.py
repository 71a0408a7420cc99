"""Breadth-first search through all states of a small model, for one that breaks its invariant."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)
STATES_MAX = 400_000


class Found(NamedTuple):
    """How many states were seen, and the steps to the first bad one; None where there is none."""

    states: int
    steps: list[str] | None


def explore(start: S, steps: Callable[[S], Iterable[tuple[str, S]]], is_bad: Callable[[S], bool]) -> Found:
    came_from: dict[S, tuple[S, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for label, after in steps(state):
            if after in came_from:
                continue
            came_from[after] = (state, label)
            if is_bad(after):
                path = []
                at: S = after
                while (link := came_from[at]) is not None:
                    at, step = link
                    path.append(step)
                return Found(len(came_from), path[::-1])
            assert len(came_from) < STATES_MAX, "the model has grown: make it smaller"
            queue.append(after)
    return Found(len(came_from), None)
