"""Calls that cannot be carried out: each says what is wrong, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.rows import bytes_in as content
from tests.lsm.support import FAMILIES, Lists, TwoBytes, append, open_db, open_plain, tiny


class Backwards:
    """Gives prefixes that are none."""

    name = "backwards"

    def prefix(self, key: bytes) -> bytes:
        return key[::-1]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda db: db.write(lsm.WriteBatch()), "an empty batch"),
        (lambda db: db.put(FAMILIES[0] + b"x", b"v"), "belongs to a series"),
        (lambda db: db.append_series(FAMILIES[0], [b"s"], 3, [b"v"], 2), "was given before"),
        (lambda db: db.write(lsm.WriteBatch().append_series(FAMILIES[0], [b"s"], 3, [b"v"])), "was given before"),
        (lambda db: db.scan(b"b", b"a"), "start"),
        (lambda db: db.scan().fetchmany(-1), "at least 0, got -1"),
        (lambda db: db.scan(order=lsm.IterationOrder.DESCENDING).seek(b"p0b"), "ascending scans only"),
        (lambda db: db.scan(b"p0", b"p1").seek(b"p2"), "outside the scan's range"),
    ],
)
def test_it_is_refused_and_nothing_changes(call: Callable[[lsm.Db], object], sentence: str) -> None:
    with open_db(MemoryStore()) as db:
        db.put(b"p0a", b"1")
        append(db, FAMILIES[0], [(b"s", b"v")], 4)
        seq = db.status().last_seq

        with pytest.raises(lsm.InvalidError, match=sentence):
            call(db)

        assert db.status().last_seq == seq
        db.put(b"p0b", b"2")
        assert db.get_key_value(b"p0b") == (b"p0b", b"2")
        assert db.get_key_value(b"p0c") is None


def test_components_and_settings_that_are_none() -> None:
    store = MemoryStore()
    with open_plain(store) as db:
        with pytest.raises(lsm.InvalidError, match="without a series layout"):
            db.write(lsm.WriteBatch().append_series(FAMILIES[0], [b"s"], 0, [b"v"]))
        with pytest.raises(lsm.InvalidError, match="keeps no directory"):
            db.series_names(b"p0x")
        assert repr(db).startswith("<lsm.Db memory://")
    assert repr(db).endswith("closed>")
    for refused, sentence in (
        (lambda: lsm.Db.open("memory://", 5), "settings must be an lsm.Settings, got int"),  # type: ignore[arg-type]
        (lambda: lsm.DbReader.open("memory://", nonsense=1), "nonsense"),
        (lambda: lsm.Admin("memory://", nonsense=1), "nonsense"),
        (lambda: lsm.fsck("memory://", nonsense=1), "nonsense"),
        (lambda: lsm.DbReader.open("memory://", object_store=store, prefix_extractor=TwoBytes()), "was created with"),
        (lambda: lsm.Admin("memory://", object_store=store, wal_url="memory://other").list_checkpoints(), "wal_url"),
    ):
        with pytest.raises(lsm.InvalidError, match=sentence):
            refused()
    with (
        lsm.Db.open("memory://", prefix_extractor=Backwards()) as db,
        pytest.raises(lsm.InvalidError, match="prefix extractor 'backwards' gives"),
    ):
        db.put(b"key", b"v")
    with (
        open_plain(MemoryStore(), tiny(wal_enabled=False)) as db,
        pytest.raises(lsm.InvalidError, match="switched off"),
    ):
        db.flush(lsm.FlushType.WAL)


def test_a_value_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "VALUE_BYTES_MAX", 10)
    with lsm.Db.open("memory://") as db:
        with pytest.raises(lsm.InvalidError, match="a value of 11 bytes is too long"):
            db.put(b"a", b"v" * 11)
        assert db.get(b"a") is None


def test_a_snapshot_that_is_closed_and_a_scan_that_failed_say_so_every_time() -> None:
    store = MemoryStore()
    with open_plain(store, tiny(block_cache_bytes=0, compaction_enabled=False)) as db:
        db.put(b"a", b"1")
        db.flush(lsm.FlushType.MEMTABLE)
        snapshot = db.snapshot()
        assert snapshot.seqnum == db.status().last_seq
        rows = db.scan()
        (name,) = [name for name in store._objects if name.startswith("sst/")]
        del store._objects[name]
        for _ in range(2):
            with pytest.raises(lsm.CorruptionError, match="missing"):
                next(rows)
            with pytest.raises(lsm.CorruptionError, match="missing"):
                rows.fetchmany(1)
        snapshot.close()
        snapshot.close()
        with pytest.raises(lsm.ClosedError, match="the snapshot is closed"):
            snapshot.get(b"a")


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [({"LSM_NONSENSE": "1"}, "LSM_NONSENSE names no setting"), ({"LSM_SST_BLOCK_SIZE": "many"}, "sst_block_size")],
)
def test_settings_from_the_environment_that_are_none(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sentence: str
) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)

    with pytest.raises(lsm.InvalidError, match=sentence):
        lsm.Settings.from_env()


def test_settings_from_the_environment_may_be_bare_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSM_COMPACTION_PLACEMENT", "thread")

    assert lsm.Settings.from_env().compaction_placement == "thread"


def test_a_read_of_one_row_of_a_series_by_its_key(tmp_path: Any) -> None:
    key = FAMILIES[0] + b"s\x00" + (7).to_bytes(8, "big")
    with open_db(MemoryStore(), tiny(compaction_enabled=False)) as db:
        append(db, FAMILIES[0], [(b"s", b"seven"), (b"s", b"eight")], 7)
        for _ in range(2):
            assert db.get(key) == b"seven"
            for none in (key[:-1], FAMILIES[0] + b"no terminator", FAMILIES[0] + b"s\x00" + bytes(8), key + b"x"):
                assert db.get(none) is None
            db.flush(lsm.FlushType.MEMTABLE)


def test_old_versions_of_a_key_are_read_from_tables_by_whoever_holds_a_snapshot() -> None:
    with open_plain(MemoryStore(), tiny(compaction_enabled=False, sst_block_size=64, l0_sst_size_bytes=1 << 20)) as db:
        snapshots = []
        for version in range(20):
            for key in (b"a", b"b", b"c"):
                db.put(key, b"version %02d" % version)
            snapshots.append(db.snapshot())
        db.flush(lsm.FlushType.MEMTABLE)

        for version, snapshot in enumerate(snapshots):
            with snapshot:
                assert [snapshot.get(key) for key in (b"a", b"b", b"c", b"bb")] == [b"version %02d" % version] * 3 + [
                    None
                ]


def test_a_layout_that_differs_is_refused_by_a_reader_too() -> None:
    store = MemoryStore()
    open_db(store).close()

    with pytest.raises(lsm.InvalidError, match="was created with"):
        lsm.DbReader.open("memory://", object_store=store, series_layout=Lists())
