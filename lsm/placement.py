"""Where background work runs: an executor of worker processes, and the jobs as functions a worker can be sent.

Workers are started as `python -m lsm.worker` and fed pickles through a pipe. That does not import the user's main
module, as multiprocessing's spawn would, and it ends with the pipe: a worker never outlives the process that started it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock, local
from typing import IO, Any, Final, ParamSpec, TypeVar

from lsm.object_store.contract import StoreSpec
from lsm.object_store.open import open_store
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime

P = ParamSpec("P")
T = TypeVar("T")

_LENGTH: Final = 8
_MALLOC: Final = {"MALLOC_MMAP_THRESHOLD_": str(64 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}
"""For glibc: a worker keeps what it freed for the next job, instead of faulting every page in again."""


class WorkerProcesses(Executor):
    """Runs calls in `count` processes, each started when it is first needed. Functions and arguments are pickled.

    `niceness`: how much the processes stand back for others on the same machine, as in nice(1).
    """

    def __init__(self, count: int, *, niceness: int = 0) -> None:
        self._niceness = niceness
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="lsm-worker")
        self._mine = local()
        self._lock = Lock()
        self._workers: list[_Worker] = []

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._threads.submit(self._run, fn, args, kwargs)

    def _run(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        worker: _Worker | None = getattr(self._mine, "worker", None)
        if worker is None:
            worker = _Worker(self._niceness)
            with self._lock:
                self._workers.append(worker)
            self._mine.worker = worker
        try:
            return worker.call(fn, args, kwargs)  # type: ignore[no-any-return]
        except BrokenExecutor:
            self._mine.worker = None
            with self._lock:
                self._workers.remove(worker)
            worker.stop()
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop the workers. Without `wait`, running calls are cut off: their outputs are garbage nobody refers to."""
        with self._lock:
            workers = list(self._workers)
        if not wait:
            for worker in workers:
                worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=cancel_futures)
        for worker in workers:
            worker.stop()


class _Worker:
    """One process and its pipe."""

    def __init__(self, niceness: int) -> None:
        root = str(Path(__file__).parent.parent)
        path = [root, *(entry for entry in sys.path if entry)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lsm.worker", str(niceness)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**_MALLOC, **os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        request = pickle.dumps((fn, args, kwargs))
        try:
            _send(stdin, request)
            reply = _receive(stdout)
        except (OSError, EOFError, ValueError) as error:
            raise BrokenExecutor(f"worker process {self._process.pid} is gone: {error}") from error
        is_ok, result = pickle.loads(reply)
        if is_ok:
            return result
        raise result

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # The worker is gone, and with it what was still in the pipe.
                    continue
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _send(pipe: IO[bytes], payload: bytes) -> None:
    pipe.write(len(payload).to_bytes(_LENGTH, "little") + payload)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    length = pipe.read(_LENGTH)
    if len(length) < _LENGTH:
        raise EOFError("the pipe was closed")
    payload = pipe.read(int.from_bytes(length, "little"))
    if len(payload) < int.from_bytes(length, "little"):
        raise EOFError("the pipe was closed in the middle of a message")
    return payload


def serve(stdin: IO[bytes], stdout: IO[bytes]) -> None:
    """The worker's loop: one call after the other until the pipe closes."""
    while True:
        try:
            request = _receive(stdin)
        except EOFError:
            return
        try:
            fn, args, kwargs = pickle.loads(request)
            reply = pickle.dumps((True, fn(*args, **kwargs)))
        except Exception as error:
            reply = _pickled_error(error)
        _send(stdout, reply)


def _pickled_error(error: Exception) -> bytes:
    try:
        reply = pickle.dumps((False, error))
        pickle.loads(reply)
    except Exception:  # An exception of somebody else's that does not survive pickling is told in words.
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return reply


# -- stores, in whatever process the job runs -------------------------------------------------------------------------


class StoreAddress:
    """What a job needs to reach a store from another process. Picklable."""

    def __init__(self, spec: StoreSpec, *, op_timeout: float, request_timeout: float, single_writer: bool) -> None:
        self.spec = spec
        self.op_timeout = op_timeout
        self.request_timeout = request_timeout
        self.single_writer = single_writer

    def open(self) -> ReliableStore:
        """The store, opened once per process and address."""
        key = pickle.dumps((self.spec.url, dict(self.spec.storage_options), self.op_timeout, self.request_timeout))
        if key not in _opened:
            store = open_store(
                self.spec.url,
                self.spec.storage_options,
                assume_single_writer=self.single_writer,
                request_timeout=self.request_timeout,
            )
            _opened[key] = ReliableStore(
                store, process_runtime(), op_timeout=self.op_timeout, request_timeout=self.request_timeout
            )
        return _opened[key]


_opened: dict[bytes, ReliableStore] = {}
_runtime: list[Runtime] = []


class _WorkerRuntime(Runtime):
    """Nobody waits for the interpreter of a worker process, and asking whether somebody does is a system call."""

    def hand_over(self) -> None:
        pass


def process_runtime() -> Runtime:
    """The runtime of a worker process."""
    if not _runtime:
        _runtime.append(_WorkerRuntime())
    return _runtime[0]


def shares_process(executor: Executor) -> bool:
    """Whether what it runs runs in this process, so that nothing has to be pickled."""
    return isinstance(executor, ThreadPoolExecutor)


def can_pickle(thing: object) -> bool:
    """Whether a worker process could be handed this (a class of the user's main module could not)."""
    try:
        data = pickle.dumps(thing)
    except Exception:  # pickle raises whatever the object's own reduction raises.
        return False
    return b"__main__" not in data
