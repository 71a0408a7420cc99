"""The rules by which every table of a database is made, in every process."""

from __future__ import annotations

import msgspec

from lsm.rows.chunk import PrefixExtractor, SeriesLayout
from lsm.sst.builder import TableFormat


class Rules(msgspec.Struct, frozen=True):
    """The rules for a database's tables. Picklable if extractor and layout are."""

    database: bytes
    table_format: TableFormat
    extractor: PrefixExtractor | None = None
    layout: SeriesLayout | None = None
    owners: dict[int, bytes] = {}
    """In a clone: the databases of tables that are not its own, by number."""

    def prefix_of(self, key: bytes) -> bytes:
        return self.extractor.prefix(key) if self.extractor is not None else b""
