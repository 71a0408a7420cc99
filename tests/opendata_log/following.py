"""What tests of following share: a thread that iterates over a follower."""

from __future__ import annotations

import threading

from opendata_log import LogDb, LogEntry, LogFollower

LONG = 30.0
"""Seconds after which a test has failed; nothing waits that long."""


class Listener(threading.Thread):
    """Collects what a follower yields, and how it ended."""

    def __init__(self, follower: LogFollower) -> None:
        super().__init__(daemon=True)
        self.follower = follower
        self.entries: list[LogEntry] = []
        self.error: BaseException | None = None
        self._came = threading.Condition()
        self.start()

    def run(self) -> None:
        try:
            for entry in self.follower:
                with self._came:
                    self.entries.append(entry)
                    self._came.notify_all()
        except BaseException as error:
            self.error = error

    def wait_for(self, count: int) -> list[bytes]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.entries) >= count, LONG), f"{len(self.entries)} of {count}"
            return [entry.value for entry in self.entries]

    def ended(self) -> bool:
        self.join(LONG)
        return not self.is_alive()


def append(log: LogDb, *pairs: tuple[bytes, bytes]) -> int:
    return log.try_append(list(pairs)).start_sequence
