"""The handle's surface: options, builder, series checks."""

from __future__ import annotations

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.write.batch import EMPTY_ROWS_MAX
from tests.lsm.support import FAMILIES, Lists, TwoBytes


def test_a_remote_scan_shows_what_is_durable_and_nothing_else() -> None:
    with lsm.Db.open("memory://", lsm.Settings(flush_interval=None)) as db:
        db.put(b"a", b"1").await_durable()
        db.put(b"a", b"2")
        db.put(b"b", b"1")

        remote = lsm.ScanOptions(durability=lsm.DurabilityLevel.REMOTE)

        assert db.scan(options=remote).fetchmany(9) == [(b"a", b"1")]
        assert db.scan_prefix(b"a", options=remote).fetchmany(9) == [(b"a", b"1")]
        assert db.get(b"a", durability=lsm.DurabilityLevel.REMOTE) == b"1"
        assert db.scan(options=lsm.ScanOptions(cache_blocks=False)).fetchmany(9) == [(b"a", b"2"), (b"b", b"1")]


def test_the_builder_opens_with_the_components_it_was_given() -> None:
    class Clock:
        def now_ms(self) -> int:
            return 7

    builder = lsm.DbBuilder("memory://").with_settings(lsm.Settings(flush_interval=None))
    with builder.with_component(clock=Clock(), prefix_extractor=TwoBytes()).build() as db:
        db.put(b"p0a", b"1")

        db.flush(lsm.FlushType.MEMTABLE)

        assert [each.prefix for each in db.status().partitions] == [b"p0"]
    with pytest.raises(lsm.InvalidError, match="nonsense"):
        lsm.DbBuilder("memory://").with_component(nonsense=1).build()


@pytest.mark.parametrize(
    ("family", "names", "first", "values"),
    [
        (b"p0x", [b"a"], 0, [b"1"]),
        (FAMILIES[0], [b"a"], 0, []),
        (FAMILIES[0], [], 0, []),
        (FAMILIES[0], [b"a"], -1, [b"1"]),
        (FAMILIES[0], [b"a"], (1 << 64) - 1, [b"1"]),
    ],
)
def test_a_series_batch_that_cannot_be_stored_is_refused_whole(
    family: bytes, names: list[bytes], first: int, values: list[bytes]
) -> None:
    with lsm.Db.open("memory://", prefix_extractor=TwoBytes(), series_layout=Lists()) as db:
        batch = lsm.WriteBatch().put(b"p0key", b"1").append_series(family, names, first, values)

        with pytest.raises(lsm.InvalidError):
            db.write(batch)

        assert db.get(b"p0key") is None
        db.put(b"p0key", b"2")


@pytest.mark.parametrize("setting", ["flush_placement", "compaction_placement"])
def test_worker_processes_are_refused_where_they_cannot_reach_the_store(setting: str) -> None:
    with pytest.raises(lsm.InvalidError, match="'process'"):
        lsm.Db.open("memory://", lsm.Settings.from_dict({setting: "process"}))


def test_a_batch_of_rows_without_bytes_is_refused_beyond_what_a_reader_believes() -> None:
    class Anything:
        name = "anything"

        def family(self, key: bytes) -> bytes | None:
            return b"f"

        def directory(self, family: bytes) -> bytes | None:
            return None

    store = MemoryStore()
    with lsm.Db.open("memory://", lsm.Settings(), object_store=store, series_layout=Anything()) as db:
        most = [b""] * EMPTY_ROWS_MAX
        db.append_series(b"f", most, 0, most, 0)
        for refused in (
            lambda: db.append_series(b"f", [*most, b""], len(most), [*most, b""], 0),
            lambda: db.write(lsm.WriteBatch().append_series(b"f", [*most, b""], len(most), [*most, b""])),
        ):
            with pytest.raises(lsm.InvalidError, match="that empty"):
                refused()
        db.append_series(b"f", [b"n"] * 40_000, len(most), [b""] * 40_000, 40_000)
        db.flush()
        copy = MemoryStore()
        copy._objects.update(store._objects)
        with lsm.Db.open("memory://", lsm.Settings(), object_store=copy, series_layout=Anything()) as again:
            assert (again.count_series(b"f", b""), again.count_series(b"f", b"n")) == (EMPTY_ROWS_MAX, 40_000)
        db.flush(lsm.FlushType.MEMTABLE)
        assert (db.count_series(b"f", b""), db.count_series(b"f", b"n")) == (EMPTY_ROWS_MAX, 40_000)
