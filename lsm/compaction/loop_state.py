"""The state that the compactor's thread shares with threads that wake it, wait for it and close it."""

from __future__ import annotations

from lsm.runtime import Runtime


class LoopState:
    """When the compactor's thread works. The condition `changed` guards every field, and the lists of jobs and requests.

    `is_due`: a step may have work to do. `is_closing`: the thread ends, or has ended.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.changed = runtime.condition()
        self.is_due = True
        self.is_stepping = False
        self.is_closing = False

    def wake(self, _done: object = None) -> None:
        """Make a step due. Takes an argument because futures call it."""
        with self.changed:
            self.is_due = True
            self.changed.notify_all()

    def begin_step(self, seconds: float | None) -> bool:
        """Wait until a step is due, at most `seconds`. False: the thread must end."""
        with self.changed:
            if not (self.is_due or self.is_closing):
                self.changed.wait(seconds)
            if self.is_closing:
                return False
            self.is_due = False
            self.is_stepping = True
        return True

    def end_step(self) -> None:
        with self.changed:
            self.is_stepping = False
            self.changed.notify_all()

    def close(self) -> None:
        """Make the thread end after its current step. Idempotent."""
        with self.changed:
            self.is_closing = True
            self.changed.notify_all()

    def wait_closed(self) -> None:
        with self.changed:
            while not self.is_closing:
                self.changed.wait()
