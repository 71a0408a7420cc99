"""One worker process, seen from its parent: how it is started, what goes through its pipes, and how it ends.

It is started so that nothing but this package can get into it. The interpreter is isolated and leaves `site` out: no variable
of the environment, no sitecustomize, no .pth file and no current directory has a say. It does not import the user's main
module, as multiprocessing's spawn would.
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
from typing import Any, Final

from lsm.concurrency.forks import tell_in_child

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
"""What the interpreter is started with. The standard library comes first on the path, then the parent's own directories."""

TICK_SECONDS: Final = 0.1
BEAT_SECONDS: Final = 1.0
"""How often a worker that makes progress says so, and looks for its parent, at the least."""
GOODBYE_SECONDS: Final = 2.0
_MALLOC: Final = {"MALLOC_MMAP_THRESHOLD_": str(64 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}
"""For glibc: a worker keeps what it freed for the next job, instead of faulting every page in again."""
_PYTHONS: Final = ("python", "pypy", "graalpy")
ID_KEPT_SECONDS: Final = 60.0
_unreaped: list[tuple[int, float]] = []
"""Process ids of killed workers that nobody waits for, and since when.

The kernel ends a process in a frozen cgroup, or in a system call that hangs, only afterwards. The id of one that somebody
had stopped must not be given to another process at once: that somebody may act on it.
"""


def fingerprint() -> bytes:
    """What parent and worker must agree on: the interpreter and this package, whose classes go through the pipes."""
    package = sys.modules["lsm"]
    return f"{sys.implementation.cache_tag} {sys.hexversion:x} lsm {package.__version__}".encode()


class WorkerLostError(BrokenExecutor):
    """A worker process cannot be started, or is of no use any more. The text names no content."""


class NoInterpreterError(WorkerLostError):
    """There is no Python interpreter that could be started."""


def interpreter() -> str:
    """The path of the interpreter to start. Raises: NoInterpreterError.

    Programs that embed Python (application servers, frozen applications) name themselves here. Starting one of these again
    would run the program a second time.
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
    """Where a worker finds what this process has imported: this package first, the current directory last."""
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:
        here = ""  # It was deleted: nothing relative to it can be found.
    found = [os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))]
    last: list[str] = []
    for entry in list(sys.path):
        if not isinstance(entry, str) or not entry or "\0" in entry:
            continue  # An entry of another type counts for nothing in an import, and the empty one is the current directory.
        if not os.path.isabs(entry):
            if not here:
                continue
            entry = os.path.join(here, entry)
        (last if os.path.realpath(entry) == here else found).append(entry)
    return [*found, *last]


class Worker:
    """A process and its pipes. One thread calls; another may kill.

    `silence_max`: how many seconds a worker may make no progress before it is taken for dead.
    Raises, from all methods: WorkerLostError: the worker is of no use, and will not answer any more.
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
        except Exception as error:  # Descriptors, processes, memory: whatever the system refuses.
            self._close_pipes()
            raise WorkerLostError(f"a worker process could not be started: {error!r}") from error
        tell_in_child(self)

    def _start(self, niceness: int) -> None:
        command = [interpreter(), "-I", "-S", f"-Xutf8={sys.flags.utf8_mode}"]
        if sys.dont_write_bytecode:
            command.append("-B")
        if sys.pycache_prefix is not None:
            command.append(f"-Xpycache_prefix={sys.pycache_prefix}")
        # One after the other: what was opened is closed if the next one is refused.
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
        """Its two ends, above the standard descriptors, which are free in a process that has closed its own."""
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

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
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
        if is_ok:
            return result
        raise result

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
        """Wait a moment; for how long it has been silent then.

        That is counted, not timed: tests stop clocks, and a clock goes on while this process is stopped.
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
        """From any thread."""
        is_first, self._is_killed = not self._is_killed, True
        if self._process is not None and is_first:
            self._was_stopped = _is_stopped(self._process)
            with contextlib.suppress(OSError):
                self._process.kill()

    def stop(self) -> None:
        """End it: politely where it is idle. Requires: nobody calls."""
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
        """The worker is the parent's. The child must neither keep its pipes open nor wait for it."""
        self._is_killed = True
        self._close_pipes()
        if self._process is not None:
            self._process.returncode = 0


def _is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether somebody has sent it SIGSTOP."""
    if not hasattr(os, "waitid"):
        return False
    try:
        return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except OSError:
        return False


def _is_reaped(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process ends in a moment."""
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
