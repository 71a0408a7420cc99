"""What every table of a database is made by, wherever it is made."""

from __future__ import annotations

import msgspec

from lsm.rows.chunk import PrefixExtractor, SeriesLayout
from lsm.sst.builder import TableFormat


class Rules(msgspec.Struct, frozen=True):
    """What a database's tables are made by. Picklable where extractor and layout are."""

    database: bytes
    table_format: TableFormat
    extractor: PrefixExtractor | None = None
    layout: SeriesLayout | None = None
    owners: dict[int, bytes] = {}
    """Of a clone: the databases of tables that are not its own."""

    def prefix_of(self, key: bytes) -> bytes:
        return self.extractor.prefix(key) if self.extractor is not None else b""
