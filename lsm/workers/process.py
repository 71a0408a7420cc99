"""The worker process: gets calls through one pipe, and answers through another. `channel` starts it.

The pipes are not standard input and output, so code that prints or reads input does not disturb them.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time
from typing import Any

from lsm.workers.channel import BEAT, HELLO, LENGTH, MAGIC, REPLY, fingerprint
from lsm.workers.pool import process_runtime


def main(reading: int, writing: int, start: dict[str, Any]) -> None:
    """Serve until the parent ends, or has no more work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent handles Ctrl-C.
    os.set_inheritable(reading, False)
    os.set_inheritable(writing, False)
    if start["niceness"]:
        os.nice(start["niceness"])
    answers = _Answers(writing)
    try:
        answers.send(HELLO, start["nonce"] + fingerprint())
        threading.Thread(target=_beat, args=(answers, start["parent"], start["interval"]), daemon=True).start()
        # Jobs make many rows and no cycles. At its default rate, the cyclic garbage collector takes a tenth of a job.
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        _serve(reading, answers)
    except OSError:
        pass  # The parent was killed and does not read the answer, so this process has nothing left to do.
    os._exit(0)


class _Answers:
    """The pipe to the parent. Thread-safe."""

    def __init__(self, writing: int) -> None:
        self._writing = writing
        self._lock = threading.Lock()

    def send(self, kind: bytes, payload: bytes) -> None:
        data = memoryview(MAGIC + kind + len(payload).to_bytes(LENGTH, "little") + payload)
        with self._lock:
            while data:
                data = data[os.write(self._writing, data) :]


def _beat(answers: _Answers, parent: int, interval: float) -> None:
    """Report progress to the parent, and exit when the parent ends. The pipe alone does not show that end: a child forked by
    the parent may hold it open for ever."""
    mine = os.getppid()
    is_orphan = mine == 1 != parent
    seen = 0
    while not is_orphan:
        time.sleep(interval)
        is_orphan = os.getppid() != mine
        steps = process_runtime().steps
        if steps != seen:
            seen = steps
            try:
                answers.send(BEAT, b"")
            except OSError:
                break
    os._exit(0)


def _serve(reading: int, answers: _Answers) -> None:
    """Make one call after the other, until an empty request or the end of the pipe."""
    while True:
        length = int.from_bytes(_read(reading, LENGTH), "little")
        request = _read(reading, length)
        if not request:
            return
        process_runtime().steps += 1
        try:
            fn, args, kwargs = pickle.loads(request)
            reply = pickle.dumps((True, fn(*args, **kwargs)))
        except BaseException as error:
            reply = _pickled_error(error)
        del request
        answers.send(REPLY, reply)


def _read(reading: int, size: int) -> bytes:
    """Read `size` bytes; return none if the pipe ends first."""
    data = bytearray()
    while len(data) < size:
        more = os.read(reading, size - len(data))
        if not more:
            return b""
        data += more
    return bytes(data)


def _pickled_error(error: BaseException) -> bytes:
    try:
        reply = pickle.dumps((False, error))
        pickle.loads(reply)
    except Exception:  # An exception class from other code may not survive pickling, so its text is sent.
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return reply
