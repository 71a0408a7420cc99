"""The worker process: makes the calls it is sent through one pipe, and answers through another. `channel` starts it.

Both pipes are its own. Whatever prints, or reads standard input, does so elsewhere.
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
    """Serve until the parent is gone, or has no more work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle.
    os.set_inheritable(reading, False)
    os.set_inheritable(writing, False)
    if start["niceness"]:
        os.nice(start["niceness"])
    answers = _Answers(writing)
    try:
        answers.send(HELLO, start["nonce"] + fingerprint())
        threading.Thread(target=_beat, args=(answers, start["parent"], start["interval"]), daemon=True).start()
        # Jobs make rows by the hundred thousand and no cycles: looking for some at the default rate costs a tenth of a job.
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        _serve(reading, answers)
    except OSError:
        pass  # A parent that was killed does not take the answer: then this process has nothing left to do.
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
    """Tell the parent of progress, and end with the parent: a child that it forked may hold the pipe open for ever."""
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
    """One call after the other. An empty request, or the end of the pipe, is the end."""
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
    """`size` bytes; nothing where the pipe ends before."""
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
    except Exception:  # An exception of somebody else's that does not survive pickling is told in words.
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return reply
