"""What the tests of the reader share: a store with a hook, log objects made by hand, and a writer that keeps moving things."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import lsm
from lsm.coding import KIND_WAL_DATA, KIND_WAL_FENCE, seal_envelope
from lsm.object_store import MemoryStore, StoreFault
from lsm.object_store.names import wal_name
from lsm.rows.kind import VALUE
from lsm.wal.frames import WAL_VERSION, encode_frame, encode_mark
from tests.doubles import WrappedStore
from tests.lsm.support import FAMILIES, Lists, TwoBytes, append, open_db, read_series, tiny

T = TypeVar("T")


def open_reader(store: Any, **components: Any) -> lsm.DbReader:
    return lsm.DbReader.open("memory://", tiny(), object_store=store, refresh_interval=None, **components)


def open_series_reader(store: Any) -> lsm.DbReader:
    return open_reader(store, prefix_extractor=TwoBytes(), series_layout=Lists())


class HookedStore(WrappedStore):
    """Calls `hook` before request number `at` (from 0), once; `is_down` refuses everything."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.at = -1
        self.made = 0
        self.hook: Callable[[], object] = int
        self.is_down = False

    def arm(self, at: int, hook: Callable[[], object]) -> None:
        self.at, self.made, self.hook = at, 0, hook

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        self.made += 1
        if self.made == self.at + 1:
            self.hook()
        if self.is_down:
            raise StoreFault(f"{call} {name}: the store is down", transient=False)
        return request()


class WriterOfObjects:
    """Puts log objects by hand, as a writer of an epoch would have, whenever and wherever it likes."""

    def __init__(self, memory: MemoryStore, database: bytes) -> None:
        self._memory = memory
        self._database = database

    def put(self, number: int, epoch: int, seq: int = 0, key: bytes = b"", *, through: int | None = None) -> None:
        """A data object with one batch, or, without a key, a fence."""
        name = wal_name(number)
        frames = [encode_frame(b"", seq, 0, [1], [key], [VALUE], [b"epoch %d" % epoch])] if key else []
        parts = seal_envelope(
            name,
            KIND_WAL_DATA if key else KIND_WAL_FENCE,
            WAL_VERSION,
            database=self._database,
            number=number,
            epoch=epoch,
            nonce=bytes(16),
            body=[encode_mark(number - 1 if through is None else through), *frames],
        )
        self._memory.put_if_absent(name, parts, timeout=1)


class BusyWriter:
    """One series and one row that grow together, and everything in them moved about."""

    def __init__(self, db: lsm.Db) -> None:
        self.db = db
        self.end = 0

    def write(self) -> None:
        rows = [(b"s", b"%d" % at) for at in range(self.end, self.end + 5)]
        append(self.db, FAMILIES[0], rows, self.end)
        self.db.put(b"p1k", b"%d" % self.end)
        self.db.flush()
        self.end += 5

    def step(self) -> None:
        """Afterwards nothing is where it was."""
        self.write()
        self.db.flush(lsm.FlushType.MEMTABLE)
        self.db.wait_idle(30)
        self.db.collect_garbage(min_age=0)
        self.write()


@contextlib.contextmanager
def busy_writer(memory: MemoryStore) -> Iterator[BusyWriter]:
    """A writer with something in tables and in the log."""
    with open_db(memory, tiny(l0_sst_size_bytes=1 << 20)) as db:
        writer = BusyWriter(db)
        for _ in range(3):
            writer.step()
        for _ in range(3):
            writer.write()
        yield writer


def shown_by(reader: lsm.DbReader) -> int:
    """How many rows of the series are shown, by every way to learn it; read until nobody collected anything meanwhile."""
    while True:
        try:
            rows = read_series(reader, FAMILIES[0], b"s")  # type: ignore[arg-type]
            value = reader.get(b"p1k")
            break
        except lsm.SnapshotExpiredError:
            continue
    assert rows == [(at, b"%d" % at) for at in range(len(rows))]
    assert value == b"%d" % (len(rows) - 5)
    assert reader.series_end(FAMILIES[0]) == len(rows)
    assert reader.count_series(FAMILIES[0], b"s") == len(rows)
    return len(rows)
