"""Which sequences were appended at or after a time, decided purely. A `TimeTrack` is a value: marks that tie sequences to times
of the writer's clock. Young marks are close together, old ones far apart.

A mark states that every entry below its sequence was appended before `before_ms`. The newest mark also states that every
existing entry was appended before its `until_ms` (rule S4). The writer reads its clock with every batch. If that time has
reached `until_ms`, the writer sets a new mark before the batch. So both statements hold whatever the clock does. After the
clock is set back, no mark is set until it has caught up; after a jump forward, a mark is set. Either makes the track coarser,
never wrong. Thinning out marks does the same.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import lsm
from opendata_log.model.errors import InvalidInputError
from opendata_log.model.keys import TIME_MS_MAX, TimeMark
from opendata_log.model.record import Sequence

MARK_EVERY_MS = 5000
"""Milliseconds that a new mark covers: the finest resolution."""
MARKS_MAX = 1024
GONE_MAX = 64
"""Maximum marks below the oldest entry. Only the last of them carries information; above the maximum, the rest is dropped."""
FINENESS = 32
"""Thinning keeps a mark about every (its age / FINENESS). A year takes some 420 marks."""

Time = datetime | timedelta | int
"""A moment: a datetime (a naive one is local time), milliseconds since the epoch, or a timedelta before now."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class TimeTrack:
    """Marks in ascending order of their sequences. Each mark is true independently of the others.

    Their times ascend too, except where an interrupt kept the writer from noting a mark that it had just written.
    """

    __slots__ = ("_marks",)

    def __init__(self, marks: Iterable[TimeMark] = ()) -> None:
        self._marks = tuple(marks)

    def __len__(self) -> int:
        return len(self._marks)

    def __repr__(self) -> str:
        return f"TimeTrack({list(self._marks)})"

    @property
    def due_ms(self) -> int:
        """A batch at this time or later needs a new mark before it."""
        return self._marks[-1].until_ms if self._marks else -TIME_MS_MAX

    def latest_ms(self, now_ms: int) -> int:
        """A time by which every existing entry had been appended: `now_ms`, unless the clock was set back meanwhile."""
        return now_ms if now_ms >= self.due_ms - MARK_EVERY_MS else self.due_ms

    def marking(self, sequence: Sequence, now_ms: int, *, oldest: Sequence = 0) -> Marking:
        """The track with a mark for a batch that starts with `sequence` at `now_ms`. `oldest`: no entry exists below it.

        Requires: now_ms >= `due_ms`, and `sequence` not below the last mark's.
        """
        marks = self._marks
        before = marks[-1].until_ms if marks else now_ms  # Entries older than the track count as appended before it.
        if marks and marks[-1].sequence == sequence:
            before = marks[-1].before_ms  # Nothing was appended since, so the last mark is extended.
            marks = marks[:-1]
        mark = TimeMark(sequence, before, now_ms + MARK_EVERY_MS)
        marks = (*marks, mark)
        gone = bisect_right(marks, oldest, key=_sequence_of) - 1
        if len(marks) > MARKS_MAX:
            kept = _thinned(marks, oldest)
        elif gone > GONE_MAX:
            kept = marks[gone:]
        else:
            return Marking(TimeTrack(marks), mark, [])
        return Marking(
            TimeTrack(kept), mark, sorted({each.sequence for each in marks} - {each.sequence for each in kept})
        )

    def sequence_at(self, time_ms: int, frontier: Sequence) -> Sequence:
        """The least known sequence such that every entry appended at `time_ms` or later has that sequence or a greater one.

        `frontier` is above every existing entry; it is the result if all entries were appended before `time_ms`.
        """
        marks = self._marks
        if marks and marks[-1].until_ms <= time_ms:
            return frontier
        for mark in reversed(marks):
            if mark.before_ms <= time_ms:
                return min(mark.sequence, frontier)
        return 0


class Marking(NamedTuple):
    """A track with a new mark, that mark, and the sequences of the marks that were dropped."""

    track: TimeTrack
    mark: TimeMark
    dropped: list[Sequence]


def _thinned(marks: tuple[TimeMark, ...], oldest: Sequence) -> tuple[TimeMark, ...]:
    """At most half of MARKS_MAX marks, including the newest one; of the marks below `oldest` only the last."""
    newest = marks[-1].until_ms
    fineness = FINENESS
    while True:
        kept = [marks[-1]]
        for mark, older in pairwise(reversed((marks[0], *marks[:-1]))):
            if kept[-1].sequence <= oldest:
                break
            # Keep a mark without which the gap would be too wide, and the oldest mark.
            if mark is older or (kept[-1].before_ms - older.before_ms) * fineness > newest - older.before_ms:
                kept.append(mark)
        if len(kept) <= MARKS_MAX // 2:
            return tuple(reversed(kept))
        fineness //= 2


_sequence_of = operator.attrgetter("sequence")


def moment_ms(time: Time, now_ms: int) -> int:
    """A moment as milliseconds since the epoch, rounded down. Raises: InvalidInputError."""
    if isinstance(time, datetime):
        try:
            return (time.astimezone(UTC) - _EPOCH) // _MS
        except (OverflowError, OSError, ValueError) as error:
            raise InvalidInputError(f"{time!r} is no moment of this system's local time: {error}") from error
    if isinstance(time, timedelta):
        if time < timedelta(0):
            raise InvalidInputError(
                f"a time given as a duration is that long ago; got {time!r}, which is in the future"
            )
        return now_ms - time // _MS - bool(time % _MS)  # -timedelta.max overflows.
    try:
        if isinstance(time, bool):
            raise TypeError
        return operator.index(time)
    except TypeError:
        raise InvalidInputError(
            "a time must be a datetime, a timedelta (that long ago) or an int (milliseconds since the epoch), "
            f"got {lsm.shown(time)}"
        ) from None


def check_clock_ms(now_ms: object) -> int:
    """`now_ms` of the caller's clock, if it is a valid time. Raises: InvalidInputError."""
    if type(now_ms) is not int or not -TIME_MS_MAX <= now_ms <= TIME_MS_MAX - MARK_EVERY_MS:
        raise InvalidInputError(
            f"a clock's now_ms() must give milliseconds as an int of 64 bits, got {lsm.shown(now_ms)}"
        )
    return now_ms
