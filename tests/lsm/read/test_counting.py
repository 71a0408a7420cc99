"""Counting where a view is between two states, which a scan gets over by itself."""

from __future__ import annotations

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.view import LiveViews
from tests.lsm.support import FAMILIES, append, open_db, tiny


def test_rows_that_are_in_a_table_and_still_in_memory_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compaction may publish a manifest that names a flush's tables before the flush lets go of its memtable."""
    family = FAMILIES[0]
    with open_db(MemoryStore(), tiny(compaction_enabled=False, l0_sst_size_bytes=1 << 20)) as db:
        append(db, family, [(b"a", b"0"), (b"b", b"1"), (b"a", b"2")], 0)
        with monkeypatch.context() as patch:
            patch.setattr(LiveViews, "publish_flush", lambda views, _, manifest: views.replace(manifest=manifest))
            db.flush(lsm.FlushType.MEMTABLE)
        append(db, family, [(b"a", b"3")], 3)

        assert [list(numbers) for numbers, _ in db.scan_series(family, b"a")] == [[0, 2], [3]]
        assert db.count_series(family, b"a") == 3
        found = db.inspect_series(family, b"a")
        assert (found.l0.records, found.memory, found.total) == (2, 1, 3)
