"""The command `compactor`: compacts a database until a signal ends it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from lsm.cli.terminal import add_place, storage_options
from lsm.db_compactor import DbCompactor
from lsm.errors import InvalidError
from lsm.observe.logging_observer import on_stderr
from lsm.settings import Settings

WHAT = "compact beside a writer that does not compact; SIGTERM ends it cleanly"


def add_command(commands: Any) -> None:
    """Add the command to the result of `ArgumentParser.add_subparsers`. It sets `run`, which returns the exit status."""
    command = commands.add_parser("compactor", help=WHAT, description=WHAT)
    add_options(command)
    command.add_argument("--settings", metavar="FILE", help="lsm.Settings as TOML or JSON")
    command.add_argument(
        "--rules",
        metavar="MODULE:ATTRIBUTE",
        help="a mapping of what the database is opened with: prefix_extractor, series_layout, scheduler",
    )
    command.set_defaults(run=_run)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of every compactor command, including that of `opendata_log`."""
    add_place(command)
    command.add_argument("--workers", type=int, metavar="N", help="jobs, or parts of a job, that run in parallel")
    command.add_argument("--once", action="store_true", help="end when nothing is due")


def run_compactor(open_compactor: Callable[[], DbCompactor], *, once: bool) -> int:
    """Run a compactor until nothing is due (`once`) or the process gets SIGTERM or SIGINT. Return the exit status."""
    with contextlib.suppress(_Told), _told_by(signal.SIGTERM, signal.SIGINT), open_compactor() as compactor:
        print(f"compacting under epoch {compactor.epoch}", file=sys.stderr, flush=True)
        try:
            with on_stderr():
                if once:
                    compactor.run_once()
                else:
                    compactor.run()
        finally:
            print(f"{compactor.committed} compactions committed", file=sys.stderr, flush=True)
    return 0


class _Told(BaseException):
    """A signal asked the process to end."""


@contextlib.contextmanager
def _told_by(*signals: signal.Signals) -> Iterator[None]:
    def tell(*_: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)  # A second signal must not interrupt the close.
        raise _Told

    for each in signals:
        signal.signal(each, tell)
    yield


def _run(options: argparse.Namespace) -> int:
    settings = Settings.from_file(options.settings) if options.settings else Settings()
    if options.workers is not None:
        settings = replace(settings, compaction_workers=options.workers)
    components = _rules(options.rules) if options.rules else {}
    return run_compactor(
        lambda: DbCompactor.open(
            options.url,
            settings,
            storage_options=storage_options(options),
            wal_url=options.wal_url,
            parent_storage_options=options.parent_storage_options,
            **components,
        ),
        once=options.once,
    )


def _rules(name: str) -> Mapping[str, Any]:
    module, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidError(f"--rules {name!r}: {error}") from error
    if not isinstance(found, Mapping):
        raise InvalidError(f"--rules {name!r} must be a mapping of components, got {type(found).__name__}")
    return found
