"""Write walk: whether a handle still takes work, and which error it raises if not."""

from __future__ import annotations

from lsm.errors import ClosedError, Error, kept
from lsm.write.writer import Writer


class HandleState:
    """Whether a handle is open, failed or closed.

    `closed`: the error of every call on a closed handle; `None` before that. `is_shut`: its threads have ended, too.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.closed: Error | None = None
        self.is_shut = False

    def check(self) -> None:
        """Raise the error that stops the handle, if any: ClosedError, FencedError, or the failure of a background thread."""
        if self.closed is not None:
            raise kept(self.closed)
        poison = self._writer.poison
        if poison is not None:
            raise kept(poison)

    @property
    def reason(self) -> Error | None:
        """The error that `check` raises; `None` while the handle works."""
        return self.closed or self._writer.poison

    def be_forked(self) -> None:
        self.closed = ClosedError("this database was opened before a fork: open it again in the child process")
        self.is_shut = True
