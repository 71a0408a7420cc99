"""Reads of one version's tables, without the log behind it and without memtables: for decisions about tables."""

from __future__ import annotations

from collections.abc import Callable

from lsm.errors import Error, TableMissingError
from lsm.manifest.model import Manifest
from lsm.read.iterator import DurabilityLevel
from lsm.read.reads import Reads
from lsm.rows.chunk import SeriesLayout
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime
from lsm.sst.table import TableReader
from lsm.view import Bounds, View


class TableReads(Reads):
    """Reads of the tables that `manifest` names. `explained` returns the error raised for a missing table."""

    def __init__(
        self,
        runtime: Runtime,
        manifest: Manifest,
        tables: TableReader,
        layout: SeriesLayout | None,
        explained: Callable[[TableMissingError], Error],
    ) -> None:
        self.manifest = manifest
        self._tables = tables
        self._layout = layout
        self._explain = explained
        self._seen = View((Memtable(runtime),), manifest), Bounds(manifest.last_seq, manifest.series_ends())

    def _see(self, durability: DurabilityLevel) -> tuple[View, Bounds]:
        return self._seen

    def _explained(self, error: TableMissingError) -> Error:
        return self._explain(error)
