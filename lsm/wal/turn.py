"""What is passed between the threads at the log: a sealed buffer, and what one thread does with it."""

from __future__ import annotations

from typing import Final

JOIN_SECONDS: Final = 0.002
"""A waiter starts another object beside one under way only this long after that was started: most join the next one."""

RETRY_SECONDS: Final = 0.1
"""From one attempt that failed in the background to the next."""

GATHER_SECONDS_MAX: Final = 0.001
GATHER_SHARE: Final = 0.5
"""How long a first waiter waits for the other members of the last group: at most this share of an upload."""


class WalObject:
    """A sealed buffer. Its number is given when its upload starts, and kept through every retry."""

    __slots__ = ("attempt", "first_seq", "frames", "is_done", "last_seq", "number", "parts", "size")

    def __init__(self, frames: list[bytes], first_seq: int, last_seq: int) -> None:
        self.frames = frames
        self.first_seq = first_seq
        self.last_seq = last_seq
        self.size = sum(map(len, frames))
        self.number = 0
        self.parts: list[bytes] = []
        self.is_done = False
        self.attempt = 0
        """Which of the log's attempts to upload something this object's last one was."""


class Turn:
    """What one thread does at the log. `is_moving`: an interrupt now would leave objects that nobody knows of; one that
    breaks off a wait or a request does no harm."""

    __slots__ = ("attempts", "is_moving", "upload")

    def __init__(self, attempts: int, upload: WalObject | None = None) -> None:
        self.attempts = attempts
        """Attempts before this turn: where one of those fails, another is made."""
        self.upload = upload
        self.is_moving = False
