"""Shared parts of the commands of both packages: arguments, output and exit status.

Exit status: 0 done, or sound; 1 failed; 2 wrong command line; 3 `fsck` found damage. Output that cannot be written, because
its reader left, the disk is full or a character has no encoding, does not change the status.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Final, TextIO

from lsm.audit.report import FsckReport
from lsm.checks import age_seconds, wait_seconds
from lsm.errors import Error, InvalidError

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
DAMAGED: Final = 3


# -- arguments --------------------------------------------------------------------------------------------------------


def add_place(command: argparse.ArgumentParser, what: str = "the database") -> None:
    """Add the arguments that locate a database."""
    command.add_argument("url", metavar="URL", help=f"where {what} is: an fsspec URL or a path")
    command.add_argument(
        "--storage-options", type=options_object, default={}, metavar="JSON", help="options for fsspec"
    )
    command.add_argument(
        "--storage-option", action="append", default=[], metavar="K=V", help="one such option; repeatable"
    )
    command.add_argument(
        "--parent-storage-options",
        type=options_by_url,
        default={},
        metavar="JSON",
        help="for a clone: fsspec options of its parents, by URL; default: its own",
    )
    command.add_argument("--wal-url", metavar="URL", help="URL of its write-ahead log, if that has its own store")


def storage_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `--storage-options` and of each `--storage-option`. A value of the latter is JSON or plain text."""
    found = dict(options.storage_options)
    for each in options.storage_option:
        name, equals, text = each.partition("=")
        if not equals:
            raise InvalidError(f"--storage-option needs NAME=VALUE, got {each!r}")
        try:
            found[name] = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            found[name] = text
    return found


def options_object(text: str) -> dict[str, Any]:
    """Parse an argument that is a JSON object. Raises: ArgumentTypeError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {type(found).__name__}")
    return found


def options_by_url(text: str) -> dict[str, dict[str, Any]]:
    """Parse an argument that is a JSON object of JSON objects. Raises: ArgumentTypeError."""
    found = options_object(text)
    if not all(isinstance(each, dict) for each in found.values()):
        raise argparse.ArgumentTypeError("must give a JSON object for each URL")
    return found


def wait_argument(text: str) -> float:
    """Parse an argument that is a duration to wait. Raises: ArgumentTypeError."""
    return _seconds(text, wait_seconds)


def age_argument(text: str) -> float:
    """Parse an argument that is an age. Raises: ArgumentTypeError."""
    return _seconds(text, age_seconds)


def _seconds(text: str, check: Callable[[object, str], float]) -> float:
    try:
        return check(float(text), "the value")
    except (ValueError, Error) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# -- output -----------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print a line to stdout. Characters outside its encoding are escaped. If the line cannot be written, print the reason to
    stderr, and discard all later output."""
    problem = _write(sys.stdout, text)
    if problem is not None:
        complain(f"the output could not be written: {problem}")


def complain(text: str) -> None:
    """Print a line to stderr, if it can be written."""
    _write(sys.stderr, text)


def _write(stream: TextIO | None, text: str) -> BaseException | None:
    if stream is None:  # The process was started without it.
        return None
    try:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
        print(text, file=stream, flush=True)
    except (OSError, ValueError) as error:
        _abandon(stream)
        return error
    return None


def _abandon(stream: TextIO) -> None:
    """Redirect the stream to the null device. Otherwise the flush at exit would fail and change the exit status."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def progress_line() -> Callable[[int, int], None] | None:
    """Return a function that shows a verification's progress on stderr; None if stderr is not a terminal."""
    try:
        return _show_progress if sys.stderr is not None and sys.stderr.isatty() else None
    except ValueError:  # stderr is closed.
        return None


def _show_progress(done: int, total: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"\r{done >> 20} of {total >> 20} MiB verified", end="", file=sys.stderr, flush=True)


def tell_report(report: FsckReport, *, as_json: bool, after_progress: bool) -> int:
    """Print a verification's report. Return the exit status."""
    if after_progress:
        complain("")
    say(report.to_json() if as_json else report.to_text())
    return DONE if report.is_sound else DAMAGED


def failed(error: BaseException) -> int:
    """Print why a command failed. Return the exit status."""
    complain(f"{type(error).__name__}: {error}")
    return FAILED
