"""`python -m opendata_log`: commands for a log, from a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import lsm
from opendata_log.fsck import fsck
from opendata_log.maintain.compactor import add_command
from opendata_log.model.errors import Error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done, or sound. 1: the command failed. 2: the command line is wrong. 3: `fsck` found damage. `arguments` `None`: those
    of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m opendata_log", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    what = "verify every byte and reference; exit status 3 on damage"
    check = commands.add_parser("fsck", help=what, description=what)
    lsm.add_place(check, "the log")
    check.add_argument("--json", action="store_true", help="the whole report on stdout")
    check.set_defaults(run=_fsck)
    add_command(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except (Error, lsm.Error) as error:
        return lsm.failed(error)


def _fsck(options: argparse.Namespace) -> int:
    progress = lsm.progress_line()
    found = fsck(
        options.url,
        storage_options=lsm.compactor_storage_options(options),
        wal_url=options.wal_url,
        parent_storage_options=options.parent_storage_options,
        progress=progress,
    )
    return lsm.tell_report(found, as_json=options.json, after_progress=progress is not None)


if __name__ == "__main__":
    sys.exit(main())
