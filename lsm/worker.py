"""The worker process: `python -m lsm.worker`, started and fed by `placement`."""

from __future__ import annotations

import os
import signal
import sys

from lsm.placement import serve


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; the pipe's end stops this process.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as channel:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Whatever prints must not get between the messages.
        serve(sys.stdin.buffer, channel)


if __name__ == "__main__":
    main()
