"""Handles that are open when the program ends: what was appended is made durable, or its loss is told.

`atexit` calls what was registered last first, so whatever an application registers after the import comes before this: a log
that it closes there is closed. Only afterwards the interpreter stops its background threads, and a finalizer that closes then
finds nobody to wait for.
"""

from __future__ import annotations

import atexit
import warnings
from typing import Final, Protocol
from weakref import WeakKeyDictionary

SECONDS: Final = 2.0
"""How long the end of a program waits for all open handles together."""


class Ending(Protocol):
    """A handle."""

    def be_ended(self, seconds: float) -> str | None:
        """The program ends: take nothing more, and wait for so many seconds until what was taken is durable. What of it is
        not, for people; None where all is. Must not raise."""


class Clock(Protocol):
    """The runtime of a handle."""

    @property
    def is_simulated(self) -> bool: ...

    def monotonic(self) -> float: ...


_clocks: WeakKeyDictionary[Ending, Clock] = WeakKeyDictionary()
"""Of every handle to be ended."""


def tell_at_exit(handle: Ending, runtime: Clock, *, instead_of: Ending | None = None) -> None:
    """Call `handle.be_ended` when the program ends, as long as anybody holds it; `instead_of`: and no more of that one."""
    if instead_of is not None:
        _clocks.pop(instead_of, None)
    if not runtime.is_simulated:
        _clocks[handle] = runtime


def _at_exit() -> None:
    handles = list(_clocks.items())
    deadline = handles[0][1].monotonic() + SECONDS if handles else 0.0
    told = [handle.be_ended(max(0.0, deadline - clock.monotonic())) for handle, clock in handles]
    for loss in filter(None, told):
        warnings.warn(loss, ResourceWarning, stacklevel=1)


atexit.register(_at_exit)
