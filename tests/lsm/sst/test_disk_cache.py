"""Parts of tables in a directory: found again, verified, bounded, shared, and never a reason for a read to fail."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsm
from lsm.object_store import MemoryStore
from lsm.runtime import Runtime
from lsm.sst import disk_cache
from lsm.sst.disk_cache import HEADER, ROOT, DiskCache, decode_part, encode_part
from tests.doubles import CountingStore
from tests.lsm.support import open_plain, tiny

DATABASE = bytes(range(16))
NAME = "sst/1.sst"
DATA = random.Random(1).randbytes(1000)
RUNTIME = Runtime()


class Object:
    """An object in a store that remembers what was asked for."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def fetch(self, start: int, end: int) -> bytes:
        self.asked.append((start, end))
        return self.data[start:end]


def cache_in(folder: Path, capacity: int = 1 << 20, *, part_bytes: int = 100, runtime: Runtime = RUNTIME) -> DiskCache:
    return DiskCache(str(folder), capacity, runtime, part_bytes=part_bytes)


def read(cache: DiskCache, stored: Object, start: int, end: int, *, keep: bool = True) -> bytes:
    return cache.read(DATABASE, NAME, len(DATA), start, end, stored.fetch, keep=keep)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# -- reading ----------------------------------------------------------------------------------------------------------


def test_fetches_whole_parts_once_and_only_what_is_missing(tmp_path: Path) -> None:
    stored = Object()
    cache = cache_in(tmp_path)

    assert read(cache, stored, 250, 260) == DATA[250:260]
    assert read(cache, stored, 201, 299) == DATA[201:299]
    assert read(cache, stored, 150, 620) == DATA[150:620]
    assert read(cache, stored, 950, 1000) == DATA[950:]
    assert read(cache_in(tmp_path), stored, 100, 700) == DATA[100:700]

    assert stored.asked == [(200, 300), (100, 700), (900, 1000)]
    assert (cache.status().hits, cache.status().misses) == (2, 7)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(1, 500), st.booleans()), max_size=12))
def test_any_sequence_of_reads_gives_the_objects_bytes(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[int, int, bool]]
) -> None:
    stored = Object()
    cache = cache_in(tmp_path_factory.mktemp("parts"))

    for start, length, keep in wanted:
        end = min(1000, start + length)
        before = len(stored.asked)
        assert read(cache, stored, start, end, keep=keep) == DATA[start:end]
        assert len(stored.asked) - before <= 1


def test_reads_that_are_not_to_be_kept_ask_for_no_more_than_they_need(tmp_path: Path) -> None:
    stored = Object()

    assert read(cache_in(tmp_path), stored, 250, 310, keep=False) == DATA[250:310]

    assert stored.asked == [(250, 310)]
    assert files(tmp_path) == []


def test_an_object_that_is_too_short_shows_as_it_is(tmp_path: Path) -> None:
    stored = Object(DATA[:230])

    assert read(cache_in(tmp_path), stored, 210, 220) == DATA[210:220]
    assert read(cache_in(tmp_path), stored, 210, 260) == DATA[210:230]
    assert files(tmp_path) == []


# -- verification -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, HEADER.size, HEADER.size + 50, HEADER.size + 101])
def test_a_file_of_another_length_is_never_served(tmp_path: Path, size: int) -> None:
    stored, cache = Object(), cache_in(tmp_path)
    read(cache, stored, 0, 100)
    [file] = files(tmp_path)
    file.write_bytes((file.read_bytes() + b"more")[:size])

    assert read(cache, stored, 0, 100) == DATA[:100]
    assert read(cache, stored, 0, 100) == DATA[:100]

    assert len(stored.asked) == 2
    assert cache.status().damaged == 1


def test_no_changed_bit_is_ever_served() -> None:
    part = DATA[:100]
    whole = encode_part(DATABASE, NAME, 0, part) + part
    assert decode_part(DATABASE, NAME, 0, 100, whole) == part

    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        assert decode_part(DATABASE, NAME, 0, 100, bytes(changed)) is None
    assert decode_part(bytes(16), NAME, 0, 100, whole) is None
    assert decode_part(DATABASE, "sst/2.sst", 0, 100, whole) is None
    assert decode_part(DATABASE, NAME, 100, 100, whole) is None


def test_what_was_damaged_on_its_way_from_the_store_is_asked_for_again(tmp_path: Path) -> None:
    """The neighbours of a block that was read are in the cache unverified: a flipped bit there must not stay."""
    store, changes = MemoryStore(), tiny(disk_cache_dir=str(tmp_path))
    with open_plain(store, tiny(compaction_enabled=False, l0_sst_size_bytes=1 << 20, max_sst_size=1 << 20)) as db:
        for at in range(40):
            db.put(b"key%02d" % at, b"%d" % at * 10)
        db.flush(lsm.FlushType.MEMTABLE)
    [name] = [name for name in store._objects if name.startswith("sst/")]
    whole = store._objects[name]
    store._objects[name] = whole[:150] + bytes((whole[150] ^ 1,)) + whole[151:]
    with lsm.DbReader.open("memory://", changes, object_store=store, refresh_interval=None) as reader:
        assert reader.get(b"key39") == b"39" * 10
        assert len(files(tmp_path)) == 1
        store._objects[name] = whole
        assert [reader.get(b"key%02d" % at) for at in range(40)] == [b"%d" % at * 10 for at in range(40)]
        disk = reader.status().caches.disk
        assert disk is not None
        assert disk.damaged == 1


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_stays_within_its_size_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    capacity = 64 * 4096
    cache = DiskCache(str(tmp_path), capacity, RUNTIME, part_bytes=4000)
    stored = Object(bytes(4000 * 300))
    for at in range(300):
        cache.read(DATABASE, NAME, len(stored.data), at * 4000, at * 4000 + 10, stored.fetch)
        assert cache.read(DATABASE, NAME, len(stored.data), 0, 10, stored.fetch) == bytes(10)
        assert sum(4096 for _ in files(tmp_path)) <= capacity

    assert stored.asked.count((0, 4000)) == 1
    assert len(files(tmp_path)) > 50
    assert cache.status().evictions == 300 - len(files(tmp_path))
    assert cache.status().size == 4096 * len(files(tmp_path))


def test_two_processes_share_one_bound(tmp_path: Path) -> None:
    capacity = 64 * 4096
    caches = [DiskCache(str(tmp_path), capacity, RUNTIME, part_bytes=4000) for _ in range(2)]
    stored = Object(bytes(4000 * 400))

    for at in range(400):
        caches[at % 2].read(DATABASE, NAME, len(stored.data), at * 4000, at * 4000 + 10, stored.fetch)
        assert 4096 * len(files(tmp_path)) <= capacity + 2 * capacity // 16


def test_deletes_only_what_is_its_own(tmp_path: Path) -> None:
    strangers = [
        tmp_path / "precious.txt",
        tmp_path / ROOT / "precious-1",
        tmp_path / ROOT / DATABASE.hex() / "precious-1",
        tmp_path / ROOT / DATABASE.hex() / "notes" / "precious-1",
        tmp_path / ROOT / DATABASE.hex() / "00" / "precious.txt",
    ]
    for path in strangers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100_000))
    cache = DiskCache(str(tmp_path), 8 * 4096, RUNTIME, part_bytes=4000)
    stored = Object(bytes(4000 * 40))

    for at in range(40):
        cache.read(DATABASE, NAME, len(stored.data), at * 4000, at * 4000 + 10, stored.fetch)

    assert cache.status().evictions > 20
    assert all(path.exists() for path in strangers)


def test_a_file_that_a_crash_left_unfinished_goes_like_any_other(tmp_path: Path) -> None:
    cache = DiskCache(str(tmp_path), 8 * 4096, RUNTIME, part_bytes=4000)
    stored = Object(bytes(4000 * 40))
    cache.read(DATABASE, NAME, len(stored.data), 0, 10, stored.fetch)
    left = files(tmp_path)[0].parent / ".tmp-0123abcd"
    left.write_bytes(b"half of a pa")
    os.utime(left, (1, 1))

    for at in range(40):
        cache.read(DATABASE, NAME, len(stored.data), at * 4000, at * 4000 + 10, stored.fetch)

    assert not left.exists()


# -- sharing ----------------------------------------------------------------------------------------------------------


def test_eviction_and_writing_by_others_disturb_no_read(tmp_path: Path) -> None:
    """Eight caches of eight parts each on one directory, all reading everything: files come and go under every one."""
    stored = Object(random.Random(2).randbytes(4000 * 20))
    wrong: list[object] = []

    def work(seed: int) -> None:
        cache = DiskCache(str(tmp_path), 8 * 4096, Runtime(), part_bytes=4000)
        chance = random.Random(seed)
        for _ in range(60):
            start = chance.randrange(len(stored.data) - 9000)
            found = cache.read(DATABASE, NAME, len(stored.data), start, start + 9000, stored.fetch)
            if found != stored.data[start : start + 9000]:
                wrong.append(start)
        if cache.status().failure is not None:
            wrong.append(cache.status().failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_directories_are_for_their_user_alone(tmp_path: Path) -> None:
    read(cache_in(tmp_path / "new"), Object(), 0, 100)

    [file] = files(tmp_path)
    assert file.stat().st_mode & 0o077 == 0
    assert (tmp_path / "new" / ROOT).stat().st_mode & 0o077 == 0


# -- trouble ----------------------------------------------------------------------------------------------------------


class ManualRuntime(Runtime):
    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


def refusing(number: int) -> Callable[..., int]:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("call", ["writev", "replace", "makedirs"])
def test_a_disk_that_takes_nothing_fails_no_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    runtime, stored = ManualRuntime(), Object()
    cache = cache_in(tmp_path, runtime=runtime)
    with monkeypatch.context() as broken:
        broken.setattr(disk_cache.os, call, refusing(number))
        assert read(cache, stored, 0, 300) == DATA[:300]
        assert os.strerror(number) in (cache.status().failure or "")
    assert files(tmp_path) == []

    assert read(cache, stored, 0, 300) == DATA[:300]
    assert files(tmp_path) == []  # Not tried again at once, ...
    runtime.seconds = 61.0
    assert read(cache, stored, 0, 300) == DATA[:300]
    assert len(files(tmp_path)) == 3  # ... but later.
    assert cache.status().failure is None


def test_a_write_that_was_cut_short_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_in(tmp_path)
    monkeypatch.setattr(disk_cache.os, "writev", lambda descriptor, parts: os.write(descriptor, parts[0]))

    assert read(cache, Object(), 0, 100) == DATA[:100]

    assert files(tmp_path) == []
    assert "full" in (cache.status().failure or "")


def test_files_that_cannot_be_read_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, cache = Object(), cache_in(tmp_path)
    read(cache, stored, 0, 100)
    monkeypatch.setattr(disk_cache.os, "read", refusing(errno.EIO))

    assert read(cache, stored, 0, 100) == DATA[:100]

    assert len(stored.asked) == 2
    assert os.strerror(errno.EIO) in (cache.status().failure or "")


def test_a_directory_that_is_a_file_fails_no_read(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    cache = cache_in(tmp_path / "taken")

    assert read(cache, Object(), 0, 100) == DATA[:100]
    assert os.strerror(errno.ENOTDIR) in (cache.status().failure or "")


def test_a_read_only_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Object()
    read(cache_in(tmp_path), stored, 0, 100)
    for call in ("utime", "makedirs", "replace", "unlink"):
        monkeypatch.setattr(disk_cache.os, call, refusing(errno.EROFS))
    cache = cache_in(tmp_path)

    assert read(cache, stored, 0, 150) == DATA[:150]

    assert stored.asked == [(0, 100), (100, 200)]
    assert (cache.status().hits, cache.status().misses) == (1, 1)
    assert cache.status().failure is not None


# -- a database on it -------------------------------------------------------------------------------------------------


def test_a_reader_that_starts_again_is_warm(tmp_path: Path) -> None:
    store = CountingStore(MemoryStore())
    with open_plain(store, tiny(compaction_enabled=False)) as db:
        for at in range(300):
            db.put(b"key%03d" % at, b"%d" % at)
        db.flush(lsm.FlushType.MEMTABLE)
    expected = [(b"key%03d" % at, b"%d" % at) for at in range(300)]

    def everything() -> tuple[list[tuple[bytes, bytes]], lsm.CachesStatus, int]:
        store.reset()
        with lsm.DbReader.open(
            "memory://", tiny(disk_cache_dir=str(tmp_path)), object_store=store, refresh_interval=None
        ) as reader:
            found = [(row.key, row.value) for row in reader.scan()]
            return found, reader.status().caches, sum(name.startswith("sst/") for _, name in store.log)

    cold, warm = everything(), everything()

    assert cold[0] == warm[0] == expected
    assert cold[2] > 0
    assert warm[2] == 0
    assert warm[1].disk is not None
    assert warm[1].disk.misses == 0


def test_a_collected_table_is_readable_while_it_is_cached_and_missing_where_it_is_not(tmp_path: Path) -> None:
    store = MemoryStore()
    with open_plain(store, tiny(compaction_enabled=False)) as db:
        db.put(b"key", b"value")
        db.flush(lsm.FlushType.MEMTABLE)

    def get(directory: Path) -> bytes | None:
        with lsm.DbReader.open(
            "memory://", tiny(disk_cache_dir=str(directory)), object_store=store, refresh_interval=None
        ) as reader:
            return reader.get(b"key")

    assert get(tmp_path / "one") == b"value"
    for name in [name for name in store._objects if name.startswith("sst/")]:
        del store._objects[name]

    assert get(tmp_path / "one") == b"value"
    with pytest.raises(lsm.CorruptionError, match="missing"):
        get(tmp_path / "two")


def test_nothing_is_kept_on_disk_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiskCache, "__init__", None)

    with lsm.Db.open(f"file://{tmp_path}/db") as db:
        db.put(b"key", b"value")
        db.flush(lsm.FlushType.MEMTABLE)
        assert db.get(b"key") == b"value"
        assert db.status().caches.disk is None


@pytest.mark.parametrize("wrong", [{"disk_cache_dir": ""}, {"disk_cache_bytes": 1000}, {"disk_cache_dir": 5}])
def test_wrong_settings_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(lsm.InvalidError, match=next(iter(wrong))):
        lsm.Settings(**wrong)  # type: ignore[arg-type]
