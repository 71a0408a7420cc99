"""Handles that are open when the program ends: what was appended is made durable, or its loss is told.

`atexit` calls what was registered last first, so whatever an application registers after the import comes before this: a log
that it closes there is closed. Only afterwards the interpreter stops its background threads, and a finalizer that closes then
finds nobody to wait for.
"""

from __future__ import annotations

import atexit
import warnings
from typing import Final, Protocol
from weakref import WeakSet

from lsm.runtime import Runtime

SECONDS: Final = 2.0
"""How long the end of a program waits for all open handles together."""


class Ending(Protocol):
    """A handle."""

    def be_ended(self, seconds: float) -> str | None:
        """The program ends: take nothing more, and wait for so many seconds until what was taken is durable. What of it is
        not, for people; None where all is. Must not raise."""


_handles: WeakSet[Ending] = WeakSet()


def tell_at_exit(handle: Ending, runtime: Runtime, *, instead_of: Ending | None = None) -> None:
    """Call `handle.be_ended` when the program ends, as long as anybody holds it; `instead_of`: and no more of that one."""
    if instead_of is not None:
        _handles.discard(instead_of)
    if not runtime.is_simulated:
        _handles.add(handle)


def _at_exit() -> None:
    clock = Runtime()
    deadline = clock.monotonic() + SECONDS
    told = [handle.be_ended(max(0.0, deadline - clock.monotonic())) for handle in list(_handles)]
    for loss in filter(None, told):
        warnings.warn(loss, ResourceWarning, stacklevel=1)


atexit.register(_at_exit)
