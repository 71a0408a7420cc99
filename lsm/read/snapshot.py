"""Read walk: reads of one moment, for as long as the caller keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lsm.errors import ClosedError
from lsm.read import lookup
from lsm.read.iterator import IterationOrder, RowIterator, ScanOptions, open_scan, range_under
from lsm.rows.chunk import SeriesLayout
from lsm.rows.content import BytesLike, as_key
from lsm.snapshots import OpenSnapshots
from lsm.sst.table import TableReader
from lsm.view import Bounds, View


class Snapshot:
    """Reads of one moment. A context manager; `close` lets old versions go. Thread-safe."""

    def __init__(
        self,
        view: View,
        bounds: Bounds,
        tables: TableReader,
        layout: SeriesLayout | None,
        open_snapshots: OpenSnapshots,
        check_open: Callable[[], None],
    ) -> None:
        self._view = view
        self._bounds = bounds
        self._tables = tables
        self._layout = layout
        self._open_snapshots = open_snapshots
        self._check_open = check_open
        self._is_open = True
        open_snapshots.open(bounds.seq)

    @property
    def seqnum(self) -> int:
        """The newest batch this snapshot sees."""
        return self._bounds.seq

    def get(self, key: BytesLike) -> bytes | None:
        """The value of a key, or None."""
        self._check()
        return lookup.get(self._view, self._bounds, as_key(key), self._tables, self._layout)

    def get_many(self, keys: Sequence[BytesLike]) -> list[bytes | None]:
        """The values of many keys, in the order of `keys`."""
        self._check()
        wanted = [as_key(key) for key in keys]
        return lookup.get_many(self._view, self._bounds, wanted, self._tables, self._layout)

    def scan(
        self,
        start: BytesLike | None = None,
        end: BytesLike | None = None,
        *,
        order: IterationOrder = IterationOrder.ASCENDING,
        options: ScanOptions | None = None,
    ) -> RowIterator:
        """Rows with start <= key < end."""
        self._check()
        return open_scan(self._view, self._bounds, self._tables, start, end, order=order, options=options)

    def scan_prefix(
        self,
        prefix: BytesLike,
        start: BytesLike | None = None,
        end: BytesLike | None = None,
        *,
        order: IterationOrder = IterationOrder.ASCENDING,
        options: ScanOptions | None = None,
    ) -> RowIterator:
        """Rows whose keys begin with `prefix`; the bounds are relative to it."""
        low, high = range_under(prefix, start, end)
        return self.scan(low, high, order=order, options=options)

    def _check(self) -> None:
        if not self._is_open:
            raise ClosedError("the snapshot is closed")
        self._check_open()

    def close(self) -> None:
        """Idempotent."""
        if self._is_open:
            self._is_open = False
            self._open_snapshots.release(self._bounds.seq)
            self._view = View((), self._view.manifest)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
