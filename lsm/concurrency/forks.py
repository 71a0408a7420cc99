"""Handles in a forked child refuse all calls, because the parent's threads and connections do not exist there."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """A handle that `be_forked` is called on in a forked child."""

    def be_forked(self) -> None:
        """Refuse every call from now on. Must not take a lock: its holder may be a thread that does not exist here."""


_handles: WeakSet[Forked] = WeakSet()


def tell_in_child(handle: Forked) -> None:
    """Call `handle.be_forked()` in every child forked from now on, if `handle` still exists."""
    _handles.add(handle)


def _after_fork() -> None:
    for handle in list(_handles):
        handle.be_forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
