"""Handles that are open when the program exits: their appends are made durable, or a warning names the loss.

`atexit` runs the latest registration first. So an application's own exit functions, registered after the import, run before
this module's, and handles that they close are already closed. Only after `atexit` does the interpreter stop the background
threads. A finalizer that closes a handle after that has no threads to wait for.

This module also imports the threads of concurrent.futures, which `object_store/io_loop` needs: their import fails once the main
thread has ended, and every program that imports the engine imports this module first.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401
import warnings
from typing import Final, Protocol
from weakref import WeakKeyDictionary

SECONDS: Final = 2.0
"""Maximum seconds that a program's exit waits for all open handles together."""


class Ending(Protocol):
    """A handle that `be_ended` is called on when the program exits."""

    def be_ended(self, seconds: float) -> str | None:
        """Refuse further appends, and wait up to `seconds` until the accepted ones are durable. Return a text that names
        those which are not durable; None: all are. Must not raise."""


class Clock(Protocol):
    """The clock of a handle: its runtime."""

    @property
    def is_simulated(self) -> bool: ...

    def monotonic(self) -> float: ...


_clocks: WeakKeyDictionary[Ending, Clock] = WeakKeyDictionary()
"""The clock of every handle to call at exit."""


def tell_at_exit(handle: Ending, runtime: Clock, *, instead_of: Ending | None = None) -> None:
    """Call `handle.be_ended` at program exit, if `handle` still exists. `instead_of`: cancel the call for that handle."""
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
