"""Progress on stderr: a moving bar on a terminal where rich is installed, otherwise one line per phase."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO


class Progress(Protocol):
    """Shows the phases of a run. `total` has the unit of `done`."""

    def phase(self, title: str, total: int) -> Any:
        """A context manager around one phase."""

    def advance(self, done: int) -> None:
        """Show how far the current phase is. Call it outside timed blocks."""


@contextmanager
def open_progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """The best progress display for `stream`; None: stderr. A dumb terminal and NO_COLOR are respected."""
    out = stream if stream is not None else sys.stderr
    if out.isatty() and os.environ.get("TERM") != "dumb" and importlib.util.find_spec("rich") is not None:
        with _rich_progress(out) as progress:
            yield progress
    else:
        yield _PlainProgress(out)


class _PlainProgress:
    """One line per phase, for logs and pipes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    @contextmanager
    def phase(self, title: str, total: int) -> Iterator[None]:
        print(f"{title} ...", file=self._out, end="", flush=True)
        start = time.monotonic()
        finished = False
        try:
            yield
            finished = True
        finally:
            print(f" {time.monotonic() - start:.1f} s" if finished else " failed", file=self._out, flush=True)

    def advance(self, done: int) -> None:
        pass


class _RichProgress:
    """A bar for the current phase, removed when the phase ends."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._task: Any = None

    @contextmanager
    def phase(self, title: str, total: int) -> Iterator[None]:
        self._task = self._display.add_task(title, total=total)
        try:
            yield
        finally:
            self._display.remove_task(self._task)

    def advance(self, done: int) -> None:
        self._display.update(self._task, completed=done)


@contextmanager
def _rich_progress(out: TextIO) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Display

    columns = (TextColumn("{task.description:<20}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Display(*columns, TimeElapsedColumn(), console=Console(file=out), transient=True) as display:
        yield _RichProgress(display)
