"""One worker process, seen from its parent: its start, the messages through its pipes, and its end.

Only this package's code should run at its start. So the interpreter is isolated and skips `site`: environment variables,
sitecustomize, .pth files and the current directory have no effect. It does not import the user's main module, as
multiprocessing's spawn would.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import Any, Final, TypeVar

from lsm.concurrency.forks import tell_in_child

T = TypeVar("T")

if sys.platform != "win32":
    import fcntl

MAGIC: Final = b"LSMW"
HELLO, BEAT, REPLY, FAILED = b"H", b"B", b"R", b"F"
LENGTH: Final = 8
HEAD: Final = len(MAGIC) + 1 + LENGTH

BOOT: Final = """\
import os, pickle, sys
reading, writing = map(int, sys.argv[1:3])
def read(size):
    data = b""
    while len(data) < size:
        more = os.read(reading, size - len(data))
        if not more:
            os._exit(0)
        data += more
    return data
start = pickle.loads(read(int.from_bytes(read(8), "little")))
sys.path += [entry for entry in start["path"] if entry not in sys.path]
try:
    from lsm.workers.process import main
except BaseException as error:
    told = repr(error).encode("utf-8", "replace")
    os.write(writing, b"LSMWF" + len(told).to_bytes(8, "little") + told)
else:
    main(reading, writing, start)
"""
"""The program that the interpreter is started with. It puts the parent's directories after the standard library on the path."""

TICK_SECONDS: Final = 0.1
BEAT_SECONDS: Final = 1.0
"""Maximum seconds between a worker's checks of its progress and its parent. It sends a beat if it made progress."""
GOODBYE_SECONDS: Final = 2.0
_MALLOC: Final = {"MALLOC_MMAP_THRESHOLD_": str(64 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}
"""Environment for glibc: a worker keeps freed memory for its next job, so that it does not fault every page in again."""
_PYTHONS: Final = ("python", "pypy", "graalpy")
ID_KEPT_SECONDS: Final = 60.0
_unreaped: list[tuple[int, float]] = []
"""Process ids of killed workers that are not reaped yet, and when they were killed.

A killed process in a frozen cgroup, or in a system call that hangs, ends only later. If a process was stopped by a signal,
its id must not be reused at once, because the sender may still signal that id.
"""


def fingerprint() -> bytes:
    """Return the versions of interpreter and package. They must be equal in parent and worker, because classes are pickled."""
    package = sys.modules["lsm"]
    return f"{sys.implementation.cache_tag} {sys.hexversion:x} lsm {package.__version__}".encode()


class WorkerLostError(BrokenExecutor):
    """A worker process cannot be started, or can no longer be used. The message contains no stored data."""


class NoInterpreterError(WorkerLostError):
    """There is no Python interpreter to start."""


def interpreter() -> str:
    """Return the path of the interpreter to start. Raises: NoInterpreterError.

    In a program that embeds Python (an application server, a frozen application), `sys.executable` is that program. Starting
    it would run the program a second time.
    """
    if os.name != "posix":
        raise NoInterpreterError(f"worker processes are not started on {sys.platform}")
    if getattr(sys, "frozen", False):
        raise NoInterpreterError("this is a frozen application: it contains no interpreter to start")
    found = sys.executable
    if not isinstance(found, str) or not os.path.isabs(found):
        raise NoInterpreterError(f"sys.executable is {found!r}, not the path of an interpreter")
    names = (os.path.basename(path).lower() for path in (found, os.path.realpath(found)))
    if not any(name.startswith(_PYTHONS) for name in names):
        raise NoInterpreterError(f"sys.executable is {found!r}, which does not look like a Python interpreter")
    return found


def import_path() -> list[str]:
    """Return the path on which a worker finds this process's imports: this package first, the current directory last."""
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:
        here = ""  # The directory was deleted, so relative entries cannot be found.
    found = [os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))]
    last: list[str] = []
    for entry in list(sys.path):
        if not isinstance(entry, str) or not entry or "\0" in entry:
            continue  # Imports ignore an entry that is not a str; an empty one is the current directory.
        if not os.path.isabs(entry):
            if not here:
                continue
            entry = os.path.join(here, entry)
        (last if os.path.realpath(entry) == here else found).append(entry)
    return [*found, *last]


class Worker:
    """A process and its pipes. One thread calls; other threads may kill.

    `silence_max`: seconds without progress after which the worker counts as dead.
    Raises, from all methods: WorkerLostError: the worker can no longer be used.
    """

    def __init__(self, *, niceness: int, silence_max: float) -> None:
        self._silence_max = silence_max
        self._is_killed = False
        self._was_stopped = False
        self._nonce = os.urandom(16)
        self._process: subprocess.Popen[bytes] | None = None
        self._fds: list[int] = []
        _reap_all()
        try:
            self._start(niceness)
        except WorkerLostError:
            raise
        except Exception as error:  # The system refused descriptors, a process or memory.
            self._close_pipes()
            raise WorkerLostError(f"a worker process could not be started: {error!r}") from error
        tell_in_child(self)

    def _start(self, niceness: int) -> None:
        command = [interpreter(), "-I", "-S", f"-Xutf8={sys.flags.utf8_mode}"]
        if sys.dont_write_bytecode:
            command.append("-B")
        if sys.pycache_prefix is not None:
            command.append(f"-Xpycache_prefix={sys.pycache_prefix}")
        # Opened one after the other, so that the first pipe is closed if the system refuses the second.
        their_reading, writing = self._pipe()
        reading, their_writing = self._pipe()
        self._process = subprocess.Popen(
            [*command, "-c", BOOT, str(their_reading), str(their_writing)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(their_reading, their_writing),
            env={**_MALLOC, **os.environ},
        )
        for fd in (their_reading, their_writing):
            self._fds.remove(fd)
            os.close(fd)
        self._reading, self._writing = reading, writing
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        self._start_message = pickle.dumps(
            {
                "path": import_path(),
                "nonce": self._nonce,
                "niceness": niceness,
                "parent": os.getpid(),
                "interval": min(BEAT_SECONDS, self._silence_max / 4),
            }
        )

    def _pipe(self) -> tuple[int, int]:
        """Open a pipe. Its two ends are not standard descriptors, even in a process that has closed those."""
        ends = os.pipe()
        self._fds += ends
        for at, fd in enumerate(ends):
            if fd <= 2:
                self._fds[at - 2] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
                os.close(fd)
        reading, writing = self._fds[-2:]
        return reading, writing

    def greet(self) -> None:
        """Wait until the worker is ready."""
        self._send(self._start_message)
        kind, payload = self._receive()
        if kind == FAILED:
            raise WorkerLostError(f"a worker process could not begin: {payload.decode(errors='replace')}")
        if kind != HELLO or payload != self._nonce + fingerprint():
            raise WorkerLostError(
                f"a worker process is of another version ({payload[len(self._nonce) :]!r}) than this one "
                f"({fingerprint()!r}): the installation changed while this process ran"
            )

    def call(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        self._send(pickle.dumps((fn, args, kwargs)))
        while True:
            kind, payload = self._receive()
            if kind == REPLY:
                break
            if kind != BEAT:
                raise WorkerLostError(f"a worker process sent a message of kind {kind!r}")
        try:
            is_ok, result = pickle.loads(payload)
        except Exception as error:
            raise WorkerLostError(f"the answer of a worker process cannot be read: {error!r}") from error
        if not is_ok:
            raise result
        found: T = result
        return found

    @property
    def is_alive(self) -> bool:
        return not self._is_killed and self._process is not None and self._process.poll() is None

    # -- the pipes ----------------------------------------------------------------------------------------------------

    def _send(self, payload: bytes) -> None:
        data = memoryview(len(payload).to_bytes(LENGTH, "little") + payload)
        silence = 0.0
        while data:
            try:
                data = data[os.write(self._writing, data) :]
                silence = 0.0
            except BlockingIOError:
                silence = self._wait(self._writing, select.POLLOUT, silence)
            except OSError as error:
                raise self._gone(error) from error

    def _receive(self) -> tuple[bytes, bytes]:
        head = self._read(HEAD)
        if head[: len(MAGIC)] != MAGIC:
            raise WorkerLostError(f"something else wrote into the pipe of a worker process: {head!r}")
        return head[len(MAGIC) : len(MAGIC) + 1], self._read(int.from_bytes(head[-LENGTH:], "little"))

    def _read(self, size: int) -> bytes:
        data = bytearray()
        silence = 0.0
        while len(data) < size:
            try:
                more = os.read(self._reading, min(size - len(data), 1 << 20))
            except BlockingIOError:
                silence = self._wait(self._reading, select.POLLIN, silence)
                continue
            except OSError as error:
                raise self._gone(error) from error
            if not more:
                raise self._gone("it closed its pipe")
            data += more
            silence = 0.0
        return bytes(data)

    def _wait(self, fd: int, event: int, silence: float) -> float:
        """Wait up to a tick, and return the worker's seconds of silence.

        Ticks are counted, not timed: tests stop clocks, and a clock goes on while this process is stopped.
        """
        if self._is_killed:
            raise self._gone("it was stopped")
        if silence >= self._silence_max:
            raise self._gone(f"it made no progress for {self._silence_max:g} s")
        poll = select.poll()
        poll.register(fd, event)
        return 0.0 if poll.poll(1000 * TICK_SECONDS) else silence + TICK_SECONDS

    def _gone(self, why: object) -> WorkerLostError:
        process = self._process
        assert process is not None
        code = process.poll()
        ending = "" if code is None else f" (exit status {code})"
        return WorkerLostError(f"worker process {process.pid} is of no use any more: {why}{ending}")

    # -- the end ------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Kill the process. Any thread may call."""
        is_first, self._is_killed = not self._is_killed, True
        if self._process is not None and is_first:
            self._was_stopped = _is_stopped(self._process)
            with contextlib.suppress(OSError):
                self._process.kill()

    def stop(self) -> None:
        """End the process. An idle worker is asked to end, and killed only if it does not. Requires: no call is running."""
        process = self._process
        if not self._is_killed:
            with contextlib.suppress(OSError):
                os.write(self._writing, bytes(LENGTH))
        self._close_pipes()
        if process is None or (not self._is_killed and _is_reaped(process)):
            return
        self.kill()
        if self._was_stopped or not _is_reaped(process):
            _unreaped.append((process.pid, time.monotonic()))
            process.returncode = -9

    def _close_pipes(self) -> None:
        fds, self._fds = self._fds, []
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)

    def be_forked(self) -> None:
        """Give up the worker, which is the parent's: the child must neither keep its pipes open nor wait for it."""
        self._is_killed = True
        self._close_pipes()
        if self._process is not None:
            self._process.returncode = 0


def _is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process is stopped, as by SIGSTOP."""
    if not hasattr(os, "waitid"):
        return False
    try:
        return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except OSError:
        return False


def _is_reaped(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process ends within GOODBYE_SECONDS."""
    for _ in range(int(GOODBYE_SECONDS / 0.01)):
        if process.poll() is not None:
            return True
        time.sleep(0.01)
    return process.poll() is not None


def _reap_all() -> None:
    for entry in list(_unreaped):
        pid, since = entry
        if time.monotonic() - since >= ID_KEPT_SECONDS:
            try:
                is_gone = os.waitpid(pid, os.WNOHANG)[0] == pid
            except OSError:
                is_gone = True
            if is_gone and entry in _unreaped:
                _unreaped.remove(entry)
