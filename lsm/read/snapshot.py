"""Read walk: reads of one moment, until the caller closes the snapshot."""

from __future__ import annotations

from collections.abc import Callable

from lsm.errors import ClosedError, Error, TableMissingError
from lsm.read.iterator import DurabilityLevel
from lsm.read.reads import Reads
from lsm.rows.chunk import SeriesLayout
from lsm.sst.table import TableReader
from lsm.view import Bounds, OpenSnapshots, View


class Snapshot(Reads):
    """Reads of one moment. A context manager; `close` releases old versions. Thread-safe."""

    def __init__(
        self,
        view: View,
        bounds: Bounds,
        tables: TableReader,
        layout: SeriesLayout | None,
        open_snapshots: OpenSnapshots,
        check_open: Callable[[], None],
        *,
        explained: Callable[[TableMissingError], Error],
    ) -> None:
        self._view = view
        self._bounds = bounds
        self._tables = tables
        self._layout = layout
        self._open_snapshots = open_snapshots
        self._check_open = check_open
        self._explain = explained
        self._is_open = True
        open_snapshots.open(bounds.seq)

    @property
    def seqnum(self) -> int:
        """The newest batch this snapshot sees."""
        return self._bounds.seq

    def _see(self, durability: DurabilityLevel) -> tuple[View, Bounds]:
        if not self._is_open:
            raise ClosedError("the snapshot is closed")
        self._check_open()
        return self._view, self._bounds

    def _explained(self, error: TableMissingError) -> Error:
        return self._explain(error)

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
