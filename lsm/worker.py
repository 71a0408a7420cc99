"""The worker process: `python -m lsm.worker [NICENESS]`, started and fed by `placement`."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys

from lsm.placement import serve


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; the pipe's end stops this process.
    if len(sys.argv) > 1 and hasattr(os, "nice"):
        os.nice(int(sys.argv[1]))
    # Jobs make rows by the hundred thousand and no cycles: looking for some at the default rate costs a tenth of a job.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    # A parent that was killed does not take the answer: then this process has nothing left to do.
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(sys.stdout.fileno()), "wb") as channel:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Whatever prints must not get between the messages.
        serve(sys.stdin.buffer, channel)


if __name__ == "__main__":
    main()
