"""`python -m lsm`: what can be done with a database from a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lsm.care_commands import add_commands
from lsm.compactor_command import add_command
from lsm.errors import Error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. 2: it could not be done."""
    parser = argparse.ArgumentParser(prog="python -m lsm", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_commands(commands)
    add_command(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except Error as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
