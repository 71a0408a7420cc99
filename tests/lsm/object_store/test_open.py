"""open_store: which URL opens what, and what the refusals say."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from lsm.errors import InvalidError
from lsm.object_store import FsspecStore, LocalStore, MemoryStore, ObjectExists, ObjectMissing, S3Store, open_store
from lsm.object_store.s3_store import s3_options


def test_memory_is_private_and_named_memory_is_shared() -> None:
    assert open_store("memory://") is not open_store("memory://")
    assert open_store("memory://shared-by-test-open") is open_store("memory://shared-by-test-open")
    assert open_store("memory://").spec() is None
    MemoryStore.forget("shared-by-test-open")


def test_file_urls_and_paths_name_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    for url in (
        "file://.data/log",
        ".data/log",
        Path(".data/log"),
        f"file://{tmp_path}/.data/log",
        "local://.data/log",
    ):
        store = open_store(url)
        assert isinstance(store, LocalStore)
        assert store.url == f"file://{tmp_path}/.data/log"
        spec = pickle.loads(pickle.dumps(store.spec()))
        assert open_store(spec.url, spec.storage_options).url == store.url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nosuch://x/y", r"unknown URL scheme 'nosuch'.*file://.*memory://.*s3://"),
        ("http://example.com/x", "not known to create objects atomically.*assume_single_writer"),
        ("simplecache::s3://bucket/x", "chained"),
        ("filecache::/data/x", "chained"),
        ("zip://a.csv::s3://bucket/x.zip", "chained"),
        ("memory::b", r"chained.*\./"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("file://", "names no directory"),
        ("", "needs a URL"),
    ],
)
def test_urls_that_cannot_be_used_are_refused_with_the_reason(url: str, says: str) -> None:
    with pytest.raises(InvalidError, match=says):
        open_store(url)


def test_a_path_may_hold_two_colons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    for url, where in (
        ("a::b", f"file://{tmp_path}/a::b"),
        ("./memory::b", f"file://{tmp_path}/memory::b"),
        (f"{tmp_path}/2026::12/log", f"file://{tmp_path}/2026::12/log"),
        (f"file://{tmp_path}/a::b", f"file://{tmp_path}/a::b"),
        ("s3://bucket/a::b", "s3://bucket/a::b"),
    ):
        store = open_store(url)
        assert store.url == where
        store.close()
    local = open_store("a::b")
    local.put_if_absent("wal/1", [b"x"], timeout=1.0)
    assert (tmp_path / "a::b/wal/1").read_bytes() == b"x"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)

    with pytest.raises(InvalidError, match="pip install gcsfs"):
        open_store("gs://bucket/db")


@pytest.mark.parametrize("url", ["memory://", "memory://x", "/tmp/x", "file://x"])
def test_options_that_nobody_reads_are_refused(url: str) -> None:
    with pytest.raises(InvalidError, match="no storage_options"):
        open_store(url, {"key": "x"})


def test_unknown_s3_options_are_refused() -> None:
    with pytest.raises(InvalidError, match="max_concurrency"):
        open_store("s3://bucket/db", {"max_concurrency": 0})


def test_passwords_in_urls_reach_no_message() -> None:
    with pytest.raises(InvalidError) as caught:
        open_store("sftp://user:hunter2@host/db")

    assert "hunter2" not in str(caught.value)


def test_s3_opens_without_a_request_and_keeps_its_options_for_other_processes() -> None:
    options = {"key": "a", "secret": "b", "endpoint_url": "http://127.0.0.1:1"}

    store = open_store("s3://bucket/some/prefix/", options)

    assert isinstance(store, S3Store)
    spec = store.spec()
    assert spec is not None
    assert spec.storage_options == options
    assert "b" not in store.url.split("/")
    store.close()


def test_s3_options_of_the_user_win_key_by_key() -> None:
    theirs = {
        "key": "a",
        "use_listings_cache": True,
        "config_kwargs": {"max_pool_connections": 3, "s3": {"addressing_style": "path"}, "retries": {"mode": "legacy"}},
    }

    ours = s3_options(theirs, request_timeout=7.0)

    assert ours["key"] == "a"
    assert ours["use_listings_cache"] is True
    assert ours["skip_instance_cache"] is True
    assert ours["config_kwargs"] == {
        "max_pool_connections": 3,
        "s3": {"addressing_style": "path"},
        "retries": {"mode": "legacy", "total_max_attempts": 1},
        "connect_timeout": 5.0,
        "read_timeout": 7.0,
    }
    assert theirs["config_kwargs"] == {
        "max_pool_connections": 3,
        "s3": {"addressing_style": "path"},
        "retries": {"mode": "legacy"},
    }
    own_limit = s3_options({"config_kwargs": {"retries": {"max_attempts": 2}}}, request_timeout=7.0)
    assert own_limit["config_kwargs"]["retries"] == {"max_attempts": 2}


def test_a_local_file_system_handed_in_gets_our_durable_create(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/db", fs=LocalFileSystem())

    assert isinstance(store, LocalStore)
    store.put_if_absent("wal/1", [b"x"], timeout=1.0)
    assert (tmp_path / "db/wal/1").read_bytes() == b"x"


def test_a_memory_file_system_handed_in_is_shared_and_has_no_spec() -> None:
    fs = MemoryFileSystem()
    one, two = open_store("memory://t-open/db", fs=fs), open_store("/t-open/db", fs=MemoryFileSystem())

    one.put_if_absent("wal/1", [b"x"], timeout=1.0)

    with pytest.raises(ObjectExists):
        two.put_if_absent("wal/1", [b"y"], timeout=1.0)
    assert fs.cat_file("/t-open/db/wal/1") == b"x"
    assert one.spec() is None
    fs.rm("/t-open", recursive=True)


def test_a_foreign_file_system_needs_the_word_of_a_single_writer(tmp_path: Path) -> None:
    fs = DirFileSystem(str(tmp_path), LocalFileSystem(auto_mkdir=True))
    with pytest.raises(InvalidError, match="DirFileSystem is not known to create objects atomically"):
        open_store("db", fs=fs)

    store = open_store("db", fs=fs, assume_single_writer=True)

    assert isinstance(store, FsspecStore)
    store.put_if_absent("wal/1", [b"0123", b"4"], timeout=1.0)
    with pytest.raises(ObjectExists):
        store.put_if_absent("wal/1", [b"y"], timeout=1.0)
    assert store.get_range("wal/1", 1, 9, timeout=1.0) == b"1234"
    assert [(info.name, info.size) for info in store.list("wal/", timeout=1.0)] == [("wal/1", 5)]
    assert store.list("nothing/", timeout=1.0) == []
    store.delete("wal/1", timeout=1.0)
    store.delete("wal/1", timeout=1.0)
    with pytest.raises(ObjectMissing):
        store.head("wal/1", timeout=1.0)


def test_what_is_not_a_file_system_is_refused() -> None:
    with pytest.raises(InvalidError, match="fsspec file system"):
        open_store("db", fs=object())
    with pytest.raises(InvalidError, match="storage_options go to the file system"):
        open_store("db", {"key": "x"}, fs=MemoryFileSystem())


def test_s3fs_is_imported_for_s3_urls_only(tmp_path: Path) -> None:
    script = (
        "import sys; from lsm.object_store import open_store; open_store('memory://'); open_store(sys.argv[1]); "
        "print([name for name in ('s3fs', 'botocore', 'aiohttp') if name in sys.modules])"
    )

    said = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout == "[]\n"


def test_list_of_a_hundred_thousand_objects_in_memory_is_quick() -> None:
    store = MemoryStore()
    for i in range(100_000):
        store.put_if_absent(f"wal/{i * 7919 % 100_000:020d}", [b""], timeout=1.0)

    found = store.list("wal/", timeout=1.0)

    assert [info.name for info in found[:2]] == [f"wal/{i:020d}" for i in range(2)]
    assert len(found) == 100_000


def test_memory_dates_objects_only_with_a_clock() -> None:
    dated, undated = MemoryStore(now_ms=lambda: 1234), MemoryStore()
    for store in (dated, undated):
        store.put_if_absent("x", [b""], timeout=1.0)

    assert dated.head("x", timeout=1.0).modified_ms == 1234
    assert undated.head("x", timeout=1.0).modified_ms is None
