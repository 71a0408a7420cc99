"""`python -m opendata_log`: what can be done with a log from a terminal."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import lsm
from opendata_log.compactor import add_command
from opendata_log.errors import Error
from opendata_log.fsck import fsck


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. 1: damage was found. 2: it could not be done."""
    parser = argparse.ArgumentParser(prog="python -m opendata_log", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    what = "verify every byte and reference; exit status 1 on damage"
    check = commands.add_parser("fsck", help=what, description=what)
    check.add_argument("url", metavar="URL", help="where the log is: an fsspec URL or a path")
    check.add_argument("--storage-options", type=json.loads, default={}, metavar="JSON", help="for fsspec")
    check.add_argument("--wal-url", metavar="URL", help="where its write-ahead log is, if elsewhere")
    check.add_argument("--json", action="store_true", help="the whole report on stdout")
    check.set_defaults(run=_fsck)
    add_command(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except (Error, lsm.Error) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


def _fsck(options: argparse.Namespace) -> int:
    with_line = sys.stderr.isatty()
    report = fsck(
        options.url,
        storage_options=options.storage_options,
        wal_url=options.wal_url,
        progress=_show_progress if with_line else None,
    )
    if with_line:
        print(file=sys.stderr)
    print(report.to_json() if options.json else report.to_text())
    return 0 if report.is_sound else 1


def _show_progress(done: int, total: int) -> None:
    print(f"\r{done >> 20} of {total >> 20} MiB verified", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
