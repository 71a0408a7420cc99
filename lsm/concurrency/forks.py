"""Handles in a forked child: the parent's threads and connections do not exist there, so they refuse to be used."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """A handle."""

    def be_forked(self) -> None:
        """This is a child process, and nobody else is in it: refuse every call. Requires no lock: whoever held it is gone."""


_handles: WeakSet[Forked] = WeakSet()


def tell_in_child(handle: Forked) -> None:
    """Call `handle.be_forked()` in every child that is forked from now on, as long as anybody holds the handle."""
    _handles.add(handle)


def _after_fork() -> None:
    for handle in list(_handles):
        handle.be_forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
