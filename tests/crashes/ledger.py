"""The ledger of a writer's accepted batches, kept outside the writer: what the log must hold after the writer died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opendata_log import LogDb
from tests.crashes.child import Pair, batches

ROOT = Path(__file__).resolve().parents[2]
Row = tuple[int, bytes, bytes]
"""A sequence, a key and a value."""


@dataclass
class Child:
    """A child process and its output so far."""

    spec: dict[str, Any]
    first: int | None = None
    durable: int = 0
    lines: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.crashes.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self.tell(json.dumps(self.spec))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def listen(self) -> list[str]:
        """The words of the next line; none if the child has ended."""
        assert self.process.stdout is not None
        words = self.process.stdout.readline().decode().split()
        if words:
            self.lines.append(words)
        if words[:1] == ["accepted"]:
            self.first = int(words[1])
        elif words[:1] == ["durable"]:
            self.durable = int(words[1])
        return words

    def listen_for(self, *wanted: str) -> list[str]:
        """Read until a line starts with one of these words. The child must not end before."""
        while words := self.listen():
            if words[0] in wanted:
                return words
        raise AssertionError(f"the child ended with {self.process.wait()} and never said {wanted}: {self.lines[-5:]}")

    def listen_to_the_end(self) -> None:
        while self.listen():
            pass

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, then read the output up to it."""
        self.signal(signal.SIGKILL)
        self.end()

    def end(self) -> None:
        """Read the output until the child has ended."""
        self.listen_to_the_end()
        self.process.wait(timeout=60)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    @property
    def last(self) -> list[str]:
        return self.lines[-1]


def rows_of(log: LogDb) -> list[Row]:
    """All rows of a log, in sequence order, by scans of its keys."""
    names = [found.key for found in log.list_keys()]
    assert names == sorted(set(names))
    rows = []
    for name in names:
        entries = log.scan(name).fetchall()
        assert log.count(name) == len(entries) > 0
        rows += [(entry.sequence, entry.key, entry.value) for entry in entries]
    return sorted(rows)


class Ledger:
    """The rows known to be in a log, round by round."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def check(self, log: LogDb, child: Child) -> None:
        """Assert that the log holds the rows of earlier rounds, then whole batches from the start of the child's stream, in
        order, and all rows that were acknowledged to the child as durable. From now on, the log must keep its rows."""
        found = rows_of(log)
        known = len(self.rows)
        assert found[:known] == self.rows
        new = found[known:]
        if new:
            assert child.first is None or new[0][0] == child.first
            assert not known or new[0][0] > self.rows[-1][0]
            assert new == _prefix(child.spec["seed"], new[0][0], len(new))
        end = found[-1][0] + 1 if found else 0
        if child.first is not None:
            assert end >= child.durable or child.durable <= child.first, f"lost: up to {end}, told {child.durable}"
        self.rows = found


def _prefix(seed: int, first: int, count: int) -> list[Row]:
    """Whole batches of a child's stream, `count` rows in all."""
    rows: list[Row] = []
    stream = batches(seed)
    while len(rows) < count:
        batch: list[Pair] = next(stream)
        rows += [(first + len(rows) + at, key, value) for at, (key, value) in enumerate(batch)]
    return rows
