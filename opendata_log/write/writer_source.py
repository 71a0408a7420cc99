"""Read walk, after `read/reads`, before `lsm`: the source of reads in the process that writes the log."""

from __future__ import annotations

import lsm
from opendata_log.model.errors import ClosedError, translate
from opendata_log.model.record import Sequence
from opendata_log.model.segment import SegmentTable
from opendata_log.model.time_track import TimeTrack
from opendata_log.waiting.wakeups import Wakeups
from opendata_log.write.writer import LogWriter


class OpenState:
    """Whether a log accepts records, and whether its reads must check for a failure first."""

    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups = wakeups
        self.is_closed = False
        self.may_not_read = False
        """The log is closed, or the engine has failed."""

    def check(self) -> None:
        """Raises: ClosedError."""
        if self.is_closed:
            raise ClosedError("the log is closed: open it again")

    def stop_reads(self) -> None:
        """Make the next read raise that the log is closed or the engine has failed, and wake the followers."""
        self.may_not_read = True
        self._wakeups.tell_all()

    def close(self) -> None:
        """Take no more records, and stop reads."""
        self.is_closed = True
        self.stop_reads()

    def abandon(self) -> None:
        """As `close`, in a forked process. It takes no lock: threads that exist only in the parent may hold them."""
        self.is_closed = self.may_not_read = True


class WriterSource:
    """The `Source` (`read/source`) of the writer's handle. No method makes a request or holds a lock for long."""

    def __init__(
        self,
        db: lsm.Db,
        runtime: lsm.Runtime,
        writer: LogWriter,
        wakeups: Wakeups,
        state: OpenState,
        *,
        shows_undurable: bool,
    ) -> None:
        self.runtime = runtime
        self.wakeups = wakeups
        self._db = db
        self._writer = writer
        self._state = state
        self._shows_undurable = shows_undurable
        self.was_read = False
        """Set by every read, and cleared by the appending thread when it has let reading threads run."""

    def engine(self) -> lsm.Db:
        if self._state.may_not_read:
            self._state.check()
            try:
                self._db.check()
            except lsm.Error as error:
                raise translate(error) from error
        return self._db

    def view(self) -> tuple[SegmentTable, Sequence]:
        self.was_read = True
        # The frontier first: a table taken later has the segments of every record below it.
        writer = self._writer
        frontier = writer.next_sequence if self._shows_undurable else writer.durable.advance()
        return writer.segments.table, frontier

    def time_track(self) -> TimeTrack:
        return self._writer.clock.track

    view_nowait = view
    time_track_nowait = time_track
