"""`python -m lsm`: work with a database from a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lsm.cli.admin import add_commands
from lsm.cli.compactor import add_command
from lsm.cli.terminal import failed
from lsm.errors import Error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return its exit status (see cli/terminal.py)."""
    parser = argparse.ArgumentParser(prog="python -m lsm", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_commands(commands)
    add_command(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except Error as error:
        return failed(error)


if __name__ == "__main__":
    sys.exit(main())
