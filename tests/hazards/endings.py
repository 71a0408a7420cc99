"""Rounds in which the same thread comes back, or the interpreter ends, at a random moment. One process each.

`python -m tests.hazards.endings FOLDER FIRST COUNT` makes rounds FIRST, FIRST + 1, … and prints what went wrong in which, and
how long the slowest one took, with the look at what it left.
A round is a forked child that has imported everything and started no thread; a second child looks at what it left.

A round fails if it takes longer than SECONDS, if a call raises anything but the library's own errors, if a record whose flush
or close returned is missing, if something is stored that nobody appended, or if a record is lost and nothing told of it.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opendata_log import Error, LogDb, LogDbReader, ReentrantError
from tests.opendata_log.support import tiny

SECONDS = 20.0
"""A round takes less than two on an idle machine; a hanging round hangs for ever."""
KEYS = (b"a", b"b", b"c")
INTERRUPTIONS = ("signals", "raising signals", "finalizers", "weak references", "nothing")
ENDINGS = (
    "with",
    "nothing",
    "sys.exit",
    "os._exit",
    "atexit",
    "__del__",
    "a thread goes on",
    "daemon threads",
    "a fork",
)


class Stop(BaseException):
    """The exception that a signal handler raises."""


class Ledger:
    """What became of each batch, one line each, written at once. Any thread, and whatever interrupts it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *line: Any) -> None:
        os.write(self._file, (json.dumps(line) + "\n").encode())

    def seen(self) -> int:
        return os.fstat(self._file).st_size


class Round:
    """The life of one process."""

    def __init__(self, root: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.interruption = self.random.choice(INTERRUPTIONS)
        self.ending = self.random.choice(ENDINGS)
        self.ledger = Ledger(root / "ledger")
        self.root = root
        self.pid = os.getpid()
        self.may_raise = self.is_over = self.has_failed = False
        self.numbers = iter(range(1 << 30))
        settings = tiny(
            flush_interval=self.random.choice((0.001, 0.02, None)),
            l0_sst_size_bytes=self.random.choice((2048, 1 << 20)),
            gc_interval=self.random.choice((0.01, None)),
            op_timeout=3.0,
        )
        self.log = LogDb.open(storage=str(root / "log"), engine=settings)
        self.reader: LogDbReader | None = None
        if self.random.random() < 0.3:
            self.log.flush()
            self.reader = LogDbReader.open(storage=str(root / "log"), refresh_interval=0.01)

    # -- calls --------------------------------------------------------------------------------------------------------

    def append(self) -> None:
        number = next(self.numbers)
        count = 1 + number % 5
        batch = [(KEYS[at % 3], b"%d-%d-%d" % (os.getpid(), number, at)) for at in range(count)]
        self.ledger.write("trying", [value.decode() for _, value in batch])
        made = self.log.try_append(batch)
        self.ledger.write("accepted", made.start_sequence, [value.decode() for _, value in batch])

    def flush(self) -> None:
        before = self.ledger.seen()
        self.log.flush()
        self.ledger.write("durable", before)

    def close(self) -> None:
        before = self.ledger.seen()
        try:
            self.log.close()
        except ReentrantError:
            raise
        except Error:
            self.has_failed = True  # The next call says nothing any more, as all was said.
            raise
        if not self.has_failed and os.getpid() == self.pid:  # A forked child closes nothing: the parent owns the log.
            self.ledger.write("durable", before)

    def read(self) -> None:
        for key in KEYS:
            found = self.log.scan(key).fetchall()
            assert [entry.sequence for entry in found] == sorted({entry.sequence for entry in found})
            if self.reader is not None:
                self.reader.count(key)

    def follow(self) -> None:
        list(self.log.follow(KEYS[0], timeout=0.001))

    def call(self, name: str) -> None:
        """Raises nothing but what no call may raise, and Stop."""
        calls: dict[str, Callable[[], Any]] = {
            "append": self.append,
            "flush": self.flush,
            "close": self.close,
            "read": self.read,
            "follow": self.follow,
            "seal": self.log.seal_segment,
            "count": lambda: self.log.count(KEYS[0]),
            "list": lambda: list(self.log.list_keys()) + self.log.list_segments(),
            "watch": lambda: self.log.subscribe_durable().wait(-1, timeout=0.001),
            "checkpoint": lambda: self.log.create_checkpoint(lifetime=1.0),
            "idle": lambda: self.log.wait_idle(0.001),
            "refresh": lambda: self.reader is not None and self.reader.refresh(),
            "quick": lambda: self.log.appends.append_nowait([]),
        }
        try:
            calls[name]()
        except ReentrantError as error:
            assert not error.retryable, "a handler that calls again until it succeeds would never end"
        except Error as error:
            self.ledger.write("error", name, repr(error))
        except TimeoutError:
            pass

    # -- what interrupts ----------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """What a signal handler or a finalizer does."""
        names = ("append", "flush", "read", "follow", "seal", "count", "list", "watch", "checkpoint", "idle", "refresh")
        for name in self.random.choices(names, k=self.random.randrange(1, 3)):
            self.call(name)
        if self.random.random() < 0.02:
            self.call("close")

    def begin_interrupting(self) -> None:
        if self.interruption.endswith("signals"):
            signal.signal(signal.SIGALRM, self._handle)
            signal.setitimer(signal.ITIMER_REAL, 0.001)
        elif self.interruption != "nothing":
            gc.set_threshold(self.random.randrange(1, 60))

    def _handle(self, *_: object) -> None:
        self.interrupt()
        if not self.is_over:
            signal.setitimer(signal.ITIMER_REAL, self.random.choice((0.0003, 0.002, 0.01)))
        if self.interruption == "raising signals" and self.may_raise and self.random.random() < 0.2:
            raise Stop

    def end_interrupting(self) -> None:
        self.is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.set_threshold(700)

    def make_garbage(self) -> None:
        if self.interruption == "finalizers":
            Session(self)
        elif self.interruption == "weak references":
            session = Session(None)
            weakref.finalize(session, self.interrupt)
            session.itself = session

    def work(self, count: int) -> None:
        for _ in range(count):
            self.make_garbage()
            name = self.random.choices(("append", "flush", "read", "follow", "seal", "count"), (12, 3, 1, 1, 1, 1))[0]
            try:
                self.may_raise = True
                self.call(name)
                self.may_raise = False
            except Stop:
                self.may_raise = False
                self.ledger.write("stopped")

    # -- the end ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """End like a program, or raise SystemExit."""
        ending = self.ending
        if ending == "atexit":
            atexit.register(self.call, "close")
        self.begin_interrupting()
        try:
            self.work(self.random.randrange(20, 60))
        finally:
            self.end_interrupting()
        if ending == "with":
            self.call("close")
            self.call("close")
        elif ending == "sys.exit":
            self.call("append")
            sys.exit(0)
        elif ending == "os._exit":
            self.ledger.write("told")  # As a crash does: what was not flushed is gone.
            os._exit(0)
        elif ending == "__del__":
            sys.modules["__main__"].kept = Closer(self)  # type: ignore[attr-defined]
        elif ending == "a thread goes on":
            threading.Thread(target=self._go_on).start()
        elif ending == "daemon threads":
            for _ in range(2):
                threading.Thread(target=self._go_on_for_ever, daemon=True).start()
            time.sleep(self.random.random() * 0.01)
        elif ending == "a fork":
            self._fork()

    def _go_on(self) -> None:
        time.sleep(0.01)
        for _ in range(20):
            self.call("append")
        self.call("flush")
        self.call("close")

    def _go_on_for_ever(self) -> None:
        while True:
            self.call("append")
            self.call("count")

    def _fork(self) -> None:
        child = os.fork()
        if child:
            self.work(10)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the forked child failed"
            self.call("close")
            return
        for name in ("append", "flush", "seal", "read", "list", "idle", "close"):
            try:
                self.log.try_append([(b"a", b"from a child")])
            except Error:
                self.call(name)
            else:
                raise AssertionError("a forked child appended")


class Session:
    """Garbage in a cycle, which calls the log when the collector finds it."""

    def __init__(self, owner: Round | None) -> None:
        self.owner = owner
        self.itself = self

    def __del__(self) -> None:
        if self.owner is not None:
            self.owner.interrupt()


class Closer:
    """Closes when the modules are taken down."""

    def __init__(self, owner: Round) -> None:
        self.owner = owner

    def __del__(self) -> None:
        self.owner.call("close")


# -- around a round ---------------------------------------------------------------------------------------------------


def play(root: Path, seed: int) -> None:
    """In a child process: run the round, with its output in files."""
    errors = os.open(root / "stderr", os.O_WRONLY | os.O_CREAT)
    os.dup2(errors, 2)
    faulthandler.enable(2)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    warnings.simplefilter("always", ResourceWarning)
    Round(root, seed).run()


def look(root: Path) -> None:
    """In a child process: assert that the stored rows match the ledger. Raises AssertionError."""
    lines = [json.loads(line) for line in (root / "ledger").read_text().splitlines()]
    tried: set[tuple[str, ...]] = set()
    accepted: dict[int, list[str]] = {}
    durable: dict[int, list[str]] = {}
    is_told = "may be lost" in (root / "stderr").read_text()
    ends: list[tuple[int, int, list[str]]] = []
    at = 0
    for line, text in zip(lines, (root / "ledger").read_text().splitlines(), strict=True):
        at += len(text) + 1
        if line[0] == "trying":
            tried.add(tuple(line[1]))
        elif line[0] == "accepted":
            assert line[1] not in accepted, f"sequence {line[1]} was given twice"
            accepted[line[1]] = line[2]
            ends.append((at, line[1], line[2]))
        elif line[0] == "durable":
            durable.update({first: batch for end, first, batch in ends if end <= line[1]})
        elif line[0] in ("told", "error", "stopped"):
            is_told = True
    with LogDb.open(storage=str(root / "log")) as log:
        found = {entry.sequence: entry.value.decode() for key in KEYS for entry in log.scan(key)}
    wanted = durable if is_told else accepted
    for first, batch in wanted.items():
        here = [found.get(first + at) for at in range(len(batch))]
        assert here == batch, f"batch {first}: {here} is stored, {batch} was appended; durable: {first in durable}"
    for first, batch in accepted.items():
        here = [found.pop(first + at, None) for at in range(len(batch))]
        assert here in (batch, [None] * len(batch)), f"part of batch {first}: {here}"
    values = set(found.values())
    for batch in tried:
        assert values.isdisjoint(batch) or values.issuperset(batch), f"part of {batch}"
        values.difference_update(batch)
    assert not values, f"nobody appended {values}"


def in_a_child(root: Path, call: Callable[[], None]) -> str:
    """Return the failure; empty if there is none."""
    child = os.fork()
    if not child:
        # From here the child lives the whole life of a program: it returns to the end of the main module.
        raise Child(call)
    deadline = time.monotonic() + SECONDS
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "" if status == 0 else f"ended with {os.waitstatus_to_exitcode(status)}"
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGUSR1)
            time.sleep(0.5)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"hangs after {SECONDS} s"
        time.sleep(0.002)


class Child(BaseException):
    """Unwinds a forked child to the main module."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self.call = call


def make_round(folder: Path, seed: int) -> str:
    """Play one round and look at what it left; what went wrong, if anything."""
    root = folder / str(seed)
    root.mkdir(parents=True)
    failure = in_a_child(root, lambda: play(root, seed))
    stderr = (root / "stderr").read_text() if (root / "stderr").exists() else ""
    if not failure and "Traceback" in stderr:
        failure = "complained"
    if not failure:
        failure = in_a_child(root, lambda: looked(root))
        looking = root / "wrong"
        if looking.exists():
            failure = looking.read_text()
    return f"{failure}\n{stderr}" if failure else ""


def looked(root: Path) -> None:
    try:
        look(root)
    except BaseException:
        (root / "wrong").write_text(traceback.format_exc())
        raise


def main() -> None:
    folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    slowest = (0.0, first)
    for seed in range(first, first + count):
        began = time.monotonic()
        failure = make_round(folder, seed)
        slowest = max(slowest, (time.monotonic() - began, seed))
        if failure:
            dice = random.Random(seed)
            print(f"round {seed} ({dice.choice(INTERRUPTIONS)}, {dice.choice(ENDINGS)}): {failure}", flush=True)
    print(f"slowest: round {slowest[1]}, {slowest[0]:.1f} s", file=sys.stderr)
    print("done", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Child as found:
        found.call()
