"""Which sequences are younger than a time, decided purely. A `TimeTrack` is a value: marks at which the writer's clock was
looked at, close together where they are young and far apart where they are old.

A mark says that every entry below its sequence was appended before `before_ms`, and the newest one also that every entry
there is was appended before its `until_ms` (rule S4). The writer reads its clock with every batch, and sets a mark before
the first one whose time is not before that. So both hold whatever the clock does: set back, it sets no marks until it has
caught up, and a jump forward is a mark that says so. Either makes the track coarser and never untrue, and so does a mark
that is thinned out.
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
"""The finest resolution: a mark is good for this long."""
MARKS_MAX = 1024
GONE_MAX = 64
"""Marks of entries that are gone, all but the last of which say nothing any more, before they are dropped."""
FINENESS = 32
"""Thinning keeps marks about this part of their age apart. A year takes some 420 of them."""

Time = datetime | timedelta | int
"""A moment: a datetime (naive means local time), milliseconds since the epoch, or how long ago."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class TimeTrack:
    """Marks in ascending order of their sequences, each true by itself. Their times do not go back either, except where an
    interrupt kept the writer from noting a mark it had just written."""

    __slots__ = ("_marks",)

    def __init__(self, marks: Iterable[TimeMark] = ()) -> None:
        self._marks = tuple(marks)

    def __len__(self) -> int:
        return len(self._marks)

    def __repr__(self) -> str:
        return f"TimeTrack({list(self._marks)})"

    @property
    def due_ms(self) -> int:
        """A batch at this time or later needs a mark first."""
        return self._marks[-1].until_ms if self._marks else -TIME_MS_MAX

    def latest_ms(self, now_ms: int) -> int:
        """A time by which everything that is there had been appended: now, unless the clock was set back meanwhile."""
        return now_ms if now_ms >= self.due_ms - MARK_EVERY_MS else self.due_ms

    def marking(self, sequence: Sequence, now_ms: int, *, oldest: Sequence = 0) -> Marking:
        """The track with a mark for a batch that starts with `sequence` at `now_ms`; `oldest`: what is below is gone.

        Requires: now_ms >= `due_ms`, and `sequence` not below the last mark's.
        """
        marks = self._marks
        before = marks[-1].until_ms if marks else now_ms  # What is older than the track counts as appended before it.
        if marks and marks[-1].sequence == sequence:
            before = marks[-1].before_ms  # Nothing was appended since: what the last mark says is true for longer.
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
        """The least sequence this track knows of such that every entry appended at `time_ms` or later has it or a greater
        one; `frontier`, which covers every entry there is, if all of them were appended before."""
        marks = self._marks
        if marks and marks[-1].until_ms <= time_ms:
            return frontier
        for mark in reversed(marks):
            if mark.before_ms <= time_ms:
                return min(mark.sequence, frontier)
        return 0


class Marking(NamedTuple):
    """A track with a new mark, the mark, and the sequences of those it does without from now on."""

    track: TimeTrack
    mark: TimeMark
    dropped: list[Sequence]


def _thinned(marks: tuple[TimeMark, ...], oldest: Sequence) -> tuple[TimeMark, ...]:
    """At most half of MARKS_MAX of them, the newest one included; of those below `oldest` only the last."""
    newest = marks[-1].until_ms
    fineness = FINENESS
    while True:
        kept = [marks[-1]]
        for mark, older in pairwise(reversed((marks[0], *marks[:-1]))):
            if kept[-1].sequence <= oldest:
                break
            # Without this mark the gap would be too wide, or there is nothing before it.
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
        return now_ms - time // _MS - bool(time % _MS)  # The negative of the longest timedelta is none.
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
    """What a clock that somebody handed in gave, if it is a time. Raises: InvalidInputError."""
    if type(now_ms) is not int or not -TIME_MS_MAX <= now_ms <= TIME_MS_MAX - MARK_EVERY_MS:
        raise InvalidInputError(
            f"a clock's now_ms() must give milliseconds as an int of 64 bits, got {lsm.shown(now_ms)}"
        )
    return now_ms
