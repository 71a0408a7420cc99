"""What reaches a stored object is checked before: nobody could open a database that holds what does not decode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

import lsm
from lsm.errors import InternalError
from lsm.manifest.codec import ManifestEncoder
from lsm.manifest.model import Manifest, Partition
from lsm.object_store import MemoryStore
from lsm.sst.builder import TableInfo
from tests.lsm.support import Lists, TwoBytes, abandon, open_db, open_plain, read_rows, tiny

LONE_SURROGATE = "\udcff"


class ClockOf:
    """Gives what it is told to."""

    def __init__(self, now: Any) -> None:
        self.now = now

    def now_ms(self) -> int:
        return self.now  # type: ignore[no-any-return]


def usable(store: MemoryStore, opened: Callable[[MemoryStore], lsm.Db] = open_plain) -> None:
    """The database can be opened, written and read."""
    with opened(store) as db:
        db.put(b"p0after", b"v")
        db.flush(lsm.FlushType.MEMTABLE)
        assert db.get(b"p0after") == b"v"
        db.create_checkpoint()


@pytest.mark.parametrize("name", [7, b"nightly", True, 1.5, ["x"], LONE_SURROGATE, "x" * 5000, "\u00e9" * 2500])
def test_refuses_a_checkpoints_name(name: Any) -> None:
    store = MemoryStore()
    with open_plain(store) as db, pytest.raises(lsm.InvalidError, match="a checkpoint's name"):
        db.create_checkpoint(name=name)
    with (
        lsm.Admin("memory://", object_store=store) as admin,
        pytest.raises(lsm.InvalidError, match="a checkpoint's name"),
    ):
        admin.create_detached_checkpoint(name=name)
    usable(store)


@pytest.mark.parametrize("name", [None, "", "n\u00e4chtlich \U0001f319", "\0", "x" * 4096])
def test_keeps_a_checkpoints_name(name: str | None) -> None:
    store = MemoryStore()
    with open_plain(store) as db:
        db.create_checkpoint(name=name)
    with lsm.Admin("memory://", object_store=store) as admin:
        assert [each.name for each in admin.list_checkpoints()] == [name or ""]


@pytest.mark.parametrize("now", [1.5, float("nan"), float("inf"), True, None, "1", 1 << 63, -(1 << 63), 10**30, 1e300])
def test_refuses_a_clock_that_gives_no_time(now: Any) -> None:
    store = MemoryStore()
    open_plain(store).close()
    clock = ClockOf(0)
    with open_plain(store, tiny(gc_interval=None), clock=clock) as db:
        clock.now = now
        with pytest.raises(lsm.InvalidError, match="now_ms"):
            db.create_checkpoint(lifetime=60)
    usable(store)


@pytest.mark.parametrize("now", [0, -5, (1 << 62), -(1 << 62)])
def test_takes_a_clock_that_is_wrong(now: int) -> None:
    store = MemoryStore()
    with open_plain(store, clock=ClockOf(now)) as db:
        made = db.create_checkpoint(lifetime=1e9)
        assert made.created_ms == now
    usable(store)


class Extractor:
    """Gives whatever prefix it is told to, for any key."""

    def __init__(self, give: Callable[[bytes], Any], name: Any = "made up") -> None:
        self.name = name
        self._give = give

    def prefix(self, key: bytes) -> bytes:
        return self._give(key)  # type: ignore[no-any-return]


@pytest.mark.parametrize("prefix", ["k", None, b"", b"zz", 1, bytearray(b"k"), [b"k"]])
def test_refuses_what_an_extractor_gives_that_is_no_prefix(prefix: Any) -> None:
    store = MemoryStore()
    with open_plain(store, prefix_extractor=Extractor(lambda key: prefix)) as db:
        with pytest.raises(lsm.InvalidError, match="gives"):
            db.put(b"key", b"v")
        db.flush(lsm.FlushType.MEMTABLE)


def test_refuses_prefixes_that_begin_with_one_another_before_they_are_durable() -> None:
    lengths = {b"a1": 1, b"ab": 2, b"b1": 2, b"b": 1}

    def give(key: bytes) -> bytes:
        return key[: lengths[key]]

    store = MemoryStore()
    db = open_plain(store, prefix_extractor=Extractor(give))
    db.put(b"a1", b"v")
    with pytest.raises(lsm.InvalidError, match="no prefix may begin with another one"):
        db.put(b"ab", b"v")
    db.put(b"b1", b"v", await_durable=True)
    abandon(db)

    with open_plain(store, prefix_extractor=Extractor(give)) as db:  # What the log holds counts, and what tables hold.
        for key in (b"ab", b"b"):
            with pytest.raises(lsm.InvalidError, match="no prefix may begin with another one"):
                db.put(key, b"v")
        db.flush(lsm.FlushType.MEMTABLE)
        with pytest.raises(lsm.InvalidError, match="no prefix may begin with another one"):
            db.put(b"ab", b"v")
        assert read_rows(db) == [(b"a1", b"v"), (b"b1", b"v")]
    with (
        open_plain(store, prefix_extractor=Extractor(give)) as db,
        pytest.raises(lsm.InvalidError, match="no prefix may begin with another one"),
    ):
        db.put(b"b", b"v")


class Misplaced(Lists):
    """Lists its families under whatever it is told to."""

    def __init__(self, directory: Any) -> None:
        self._directory = directory

    def directory(self, family: bytes) -> bytes | None:
        return self._directory  # type: ignore[no-any-return]


@pytest.mark.parametrize("directory", ["p0D", 1, b"", b"p0L", b"p"])
def test_refuses_a_layout_that_lists_its_families_where_they_cannot_be_listed(directory: Any) -> None:
    store = MemoryStore()
    with lsm.Db.open(
        "memory://", tiny(), object_store=store, prefix_extractor=TwoBytes(), series_layout=Misplaced(directory)
    ) as db:
        db.put(b"p0k", b"v")
        if directory == b"p":  # The name makes it two bytes: a place of its own.
            return
        with pytest.raises(lsm.InvalidError):
            db.write(lsm.WriteBatch().append_series(b"p0L", [b"s"], 0, [b"v"]))
        db.flush(lsm.FlushType.MEMTABLE)
    usable(store, open_db)


@pytest.mark.parametrize("column", [["s"], [None], [bytearray(b"s")]])
def test_refuses_series_that_are_no_bytes(column: Any) -> None:
    with open_db(MemoryStore()) as db:
        for names, values in ((column, [b"v"]), ([b"s"], column)):
            with pytest.raises(lsm.InvalidError, match="lists of bytes"):
                db.write(lsm.WriteBatch().append_series(b"p0L", names, 0, values))


@pytest.mark.parametrize("name", [7, b"x", LONE_SURROGATE, "x" * 5000])
def test_refuses_the_name_of_an_extractor_or_layout(name: Any) -> None:
    layout = Lists()
    layout.name = name
    for components in ({"prefix_extractor": Extractor(bytes, name)}, {"series_layout": layout}):
        store = MemoryStore()
        with pytest.raises(lsm.InvalidError, match="name"):
            lsm.Db.open("memory://", tiny(), object_store=store, **components)
        assert not store._objects
        usable(store)


class Proposing:
    """Proposes the same once."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def propose(self, manifest: Manifest, busy: frozenset[int]) -> Sequence[lsm.CompactionSpec]:
        found, self.found = self.found, []
        return found(manifest) if callable(found) else found  # type: ignore[no-any-return]


def with_all(**changes: Any) -> Callable[[Manifest], list[Any]]:
    def propose(manifest: Manifest) -> list[Any]:
        numbers = tuple(table.number for partition in manifest.partitions for table in partition.l0)
        return [lsm.CompactionSpec(**{"prefix": b"", "l0": numbers, "tables": (), "target": 1, **changes})]

    return propose


PROPOSALS: dict[str, Any] = {
    "no specs": [1, None, "x", {}],
    "a str for the prefix": with_all(prefix=""),
    "a list": lambda manifest: with_all(l0=[1])(manifest),
    "no numbers": with_all(l0=("1",)),
    "a number that is none": with_all(l0=(True,)),
    "no tuple": with_all(tables=None),
    "a float for a level": with_all(target=1.0),
    "a bool for a level": with_all(target=True),
    "a level beyond 64 bits": with_all(target=1 << 70),
    "a drain that is none": with_all(is_drain=1),
    "a table twice": with_all(l0=(1, 1)),
}


@pytest.mark.parametrize("what", PROPOSALS)
def test_refuses_what_a_scheduler_proposes(what: str) -> None:
    store = MemoryStore()
    scheduler = Proposing([])
    with open_plain(store, scheduler=scheduler) as db:
        for at in range(2):
            db.put(b"k%d" % at, b"v")
            db.flush(lsm.FlushType.MEMTABLE)
        db.wait_idle(30)
        scheduler.found = PROPOSALS[what]
        db.wake_compactor()
        db.wait_idle(30)
        assert db._engine.compactor is not None
        assert db._engine.compactor.refused
        assert [each.l0 and len(each.l0) for each in db.manifest.partitions] == [2]
        scheduler.found = with_all()
        db.wake_compactor()
        db.wait_idle(30)
        assert [len(each.runs) for each in db.manifest.partitions] == [1]
    usable(store)


TABLE = TableInfo(1, 100, 1, b"a", b"b", 0, 0, 50)


@pytest.mark.parametrize(
    "changes",
    [
        {"wal_url": LONE_SURROGATE},
        {"wal_url": b"url"},
        {"last_seq": 1 << 70},
        {"last_seq": None},
        {"writer_epoch": True},
        {"fences": (1, "2")},
        {"settled": ((1, 2, 3),)},
        {"checkpoints": ("x",)},
        {"checkpoints": (lsm.Checkpoint("0f" * 16, 1, 1, 0, 1.5),)},  # type: ignore[arg-type]
        {"partitions": (Partition("p", (TABLE,)),)},  # type: ignore[arg-type]
        {"partitions": (Partition(b"", (msgspec.structs.replace(TABLE, first_key="a"),)),)},
        {"partitions": (Partition(b"", (msgspec.structs.replace(TABLE, rows=object()),)),)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_no_manifest_is_written_that_would_not_decode(changes: dict[str, Any]) -> None:
    manifest = msgspec.structs.replace(Manifest(1, b"d" * 16), **changes)
    encoder = ManifestEncoder()

    with pytest.raises((InternalError, TypeError)) as caught:
        encoder.encode(manifest, epoch=1, nonce=b"n" * 16)
    assert "partitions" in changes or caught.type is InternalError
    assert encoder.encode(Manifest(1, b"d" * 16), epoch=1, nonce=b"n" * 16)
