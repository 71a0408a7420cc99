"""The end of a handle: a close by its owner, or the end of the program."""

from __future__ import annotations

import contextlib

from lsm.errors import ClosedError, Error, FencedError, UnavailableError, kept
from lsm.gc.collector import RegularCollection
from lsm.observe import events
from lsm.opening.engine import Engine
from lsm.write.durability import Durability
from lsm.write.handle_state import HandleState


class Closing:
    """Stops a handle in steps. Each step can be repeated, because an earlier call may have been interrupted."""

    def __init__(
        self, engine: Engine, state: HandleState, durability: Durability, collection: RegularCollection | None
    ) -> None:
        self._engine = engine
        self._state = state
        self._durability = durability
        self._collection = collection
        self._lock = engine.runtime.long_lock()

    def close(self) -> None:
        """See `Db.close`."""
        if self._state.is_shut:
            return
        self._engine.runtime.check_outside()
        with self._lock:
            if self._state.is_shut:
                return
            try:
                # If `closed` is set, an earlier call was interrupted, and only the threads are left to stop.
                if self._state.closed is None:
                    self._stop_writing()
            except UnavailableError:
                raise
            except BaseException:
                self._shut_down()
                raise
            self._shut_down()

    def _stop_writing(self) -> None:
        writer = self._engine.writer
        writer.stop(ClosedError("the database is being closed: open it again"))
        failure = writer.poison
        if failure is None:
            with contextlib.suppress(FencedError):
                self._durability.finish_all()
        elif not isinstance(failure, FencedError):
            raise kept(failure)

    def _shut_down(self) -> None:
        closed = self._state.closed = ClosedError("the database is closed: open it again")
        self._engine.writer.fail(closed)
        if self._collection is not None:
            self._collection.wake()
        self._engine.shut_down()
        if self._collection is not None:
            self._collection.join()
        self._state.is_shut = True
        self._tell()

    def be_ended(self, seconds: float) -> str | None:
        """End the handle with the program: refuse new batches, and wait until accepted batches are durable. Return a report of
        batches that are not durable; `None` if there are none."""
        if self._state.closed is not None:
            return None
        engine, url = self._engine, self._engine.stores.main.url
        engine.writer.stop(ClosedError("the program has ended: the database takes no more batches"))
        why = f"not stored within {seconds:.1f} s"
        try:
            self._durability.wait(engine.writer.last_seq, seconds)
        except TimeoutError:
            pass
        except Error as error:
            why = events.reason(error)
        durable, last = engine.wal.durable_seq, engine.writer.last_seq
        self._state.closed = ClosedError("the program has ended: open the database again")
        self._state.is_shut = True
        if durable >= last:
            return None
        self._tell()
        return (
            f"{url} was not closed before the program ended: batches {durable + 1} to {last} are not durable "
            f"({why}) and may be lost; call close(), or open it in a `with` block"
        )

    def _tell(self) -> None:
        url, durable, last = self._engine.stores.main.url, self._engine.wal.durable_seq, self._engine.writer.last_seq
        if durable < last:
            events.tell(events.CLOSED_EARLY, url=url, first=durable + 1, last=last)
        else:
            events.tell(events.CLOSED, url=url, last=last)
