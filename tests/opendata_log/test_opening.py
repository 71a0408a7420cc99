"""Opening: the kinds of storage, the builder, the engine's settings, and what cannot be opened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem

import lsm
from opendata_log import (
    Config,
    InvalidInputError,
    LogDb,
    LogDbBuilder,
    LogDbReader,
    StorageConfig,
    StorageError,
)
from tests.opendata_log.support import ManualClock, tiny, values
from tests.servers.s3 import Ministack, Seaweed, close_file_system


def write_and_read_again(open_log: Any) -> None:
    """Two opens of the same place: the second one sees what the first one wrote."""
    with open_log() as log:
        before = log.count(b"k")
        first = log.try_append([(b"k", b"1")]).start_sequence
    with open_log() as log:
        assert log.count(b"k") == before + 1
        assert log.try_append([(b"k", b"2")]).start_sequence == first + 1
        assert values(log, b"k", first) == [b"1", b"2"]


# -- storage ----------------------------------------------------------------------------------------------------------


def test_a_path_and_a_file_url_it_is_the_same_directory(tmp_path: Path) -> None:
    place = tmp_path / "a" / "log"

    write_and_read_again(lambda: LogDb.open(storage=str(place)))
    write_and_read_again(lambda: LogDb.open(storage=place))
    write_and_read_again(lambda: LogDb.open(storage=f"file://{place}"))
    write_and_read_again(lambda: LogDb.open(Config(storage=StorageConfig(url=f"file://{place}"))))

    with LogDb.open(storage=str(place)) as log:
        assert log.count(b"k") == 8


def test_a_relative_url_it_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    write_and_read_again(LogDb.open)

    assert (tmp_path / ".data" / "log" / "manifest").is_dir()


def test_memory_without_a_name_it_is_private() -> None:
    with LogDb.open(storage="memory://") as one, LogDb.open(storage="memory://") as other:
        one.try_append([(b"k", b"1")])
        one.flush()

        assert other.count(b"k") == 0


def test_memory_with_a_name_it_is_shared_in_the_process() -> None:
    write_and_read_again(lambda: LogDb.open(storage="memory://opening-shared"))

    with LogDb.open(storage="memory://opening-other") as log:
        assert log.count(b"k") == 0


def test_the_write_ahead_log_on_another_store_it_is_there(tmp_path: Path) -> None:
    storage = StorageConfig(url=str(tmp_path / "main"), wal_url=str(tmp_path / "wal"))
    write_and_read_again(lambda: LogDb.open(storage=storage))

    assert os.listdir(tmp_path / "wal" / "wal")
    assert not (tmp_path / "main" / "wal").exists()
    with pytest.raises(InvalidInputError, match="pass wal_url="):
        LogDb.open(storage=str(tmp_path / "main"))


@pytest.mark.s3
@pytest.mark.parametrize("wal_is_local", [True, False])
def test_the_write_ahead_log_on_a_store_of_another_kind_it_takes_no_options(
    ministack: Ministack, tmp_path: Path, wal_is_local: bool
) -> None:
    places = (ministack.url(f"mixed-{wal_is_local}"), str(tmp_path))
    main, wal = places if wal_is_local else places[::-1]

    storage = StorageConfig(url=main, wal_url=wal, storage_options=ministack.storage_options)

    write_and_read_again(lambda: LogDb.open(storage=storage))


@pytest.mark.s3
def test_an_s3_bucket_and_prefix_it_is_a_log(ministack: Ministack) -> None:
    storage = StorageConfig(url=ministack.url("opening"), storage_options=ministack.storage_options)

    write_and_read_again(lambda: LogDb.open(storage=storage, engine=tiny()))


# -- the builder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [None, "memory://", "memory://opening-fs", "some/where", "/rooted"])
def test_a_memory_file_system_handed_in_it_keeps_the_log(url: str | None) -> None:
    fs = MemoryFileSystem()
    config = Config() if url is None else Config(storage=url)

    try:
        write_and_read_again(lambda: LogDbBuilder(config).with_object_store(fs).build())
    finally:
        fs.store.clear()
        fs.pseudo_dirs[:] = [""]


def test_a_local_file_system_handed_in_it_keeps_the_log(tmp_path: Path) -> None:
    fs = fsspec.filesystem("file")

    write_and_read_again(lambda: LogDbBuilder(Config(storage=str(tmp_path))).with_object_store(fs).build())
    write_and_read_again(lambda: LogDb.open(storage=str(tmp_path)))


@pytest.mark.s3
def test_an_s3_file_system_handed_in_it_stays_open(ministack: Ministack) -> None:
    fs = ministack.file_system()
    try:
        config = Config(storage=ministack.url("handed-in"))
        write_and_read_again(lambda: LogDbBuilder(config).with_object_store(fs).build())
        assert fs.ls(ministack.url("handed-in"))
    finally:
        close_file_system(fs)


def test_a_builder_it_takes_a_clock_and_a_block_size() -> None:
    builder = LogDbBuilder(Config(storage="memory://"), engine=tiny())

    with builder.with_clock(ManualClock(1234)).with_sst_block_size(4096).build() as log:
        log.try_append([(b"k", b"v")])
        assert log.list_segments()[0].start_time_ms == 1234


@pytest.mark.parametrize("time", ["x", 1.5, None, 1 << 70])
def test_a_clock_that_gives_no_milliseconds_it_is_refused_and_nothing_is_written(time: Any) -> None:
    clock = ManualClock(time)
    with LogDbBuilder(Config(storage="memory://")).with_clock(clock).build() as log:
        with pytest.raises(InvalidInputError, match=r"now_ms\(\) must give milliseconds"):
            log.try_append([(b"k", b"v")])
        clock.ms = 5

        assert log.try_append([(b"k", b"v")]).start_sequence == 0


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: LogDbBuilder().with_clock(1), "a clock needs a method now_ms"),
        (lambda: LogDbBuilder().with_object_store("s3").build(), "fs must be an fsspec file system, got str"),
        (lambda: LogDbBuilder().with_sst_block_size(1), "sst_block_size must be an integer, from 64"),
        (lambda: LogDbBuilder(b"memory://"), "config must be a Config, a URL or a path, got bytes"),
        (lambda: LogDb.open({"storage": "memory://"}), "config must be a Config, a URL or a path, got dict"),
        (lambda: LogDb.open(storge="memory://"), "unknown name 'storge'; known names are"),
        (lambda: LogDb.open(storage="memory://", engine={"l0_size": 1}), "unknown name 'l0_size'"),
        (
            lambda: LogDb.open(storage="memory://", engine={"l0_sst_size_bytes": 100, "max_unflushed_bytes": 10}),
            r"max_unflushed_bytes \(10\) must be at least l0_sst_size_bytes \(100\)",
        ),
        (
            lambda: LogDb.open(storage="memory://", engine={"l0_max_ssts": 2, "l0_compaction_min": 2}),
            r"l0_compaction_min \(2\) must be below l0_max_ssts \(2\)",
        ),
        (lambda: LogDb.open(storage="memory://", read_visibility="all"), "'memory' or 'remote', got 'all'"),
        (lambda: LogDb.open(storage="ftpx://host/p"), "unknown URL scheme 'ftpx'; use a path or one of file://"),
        (lambda: LogDb.open(storage="s3://"), "names no bucket; write s3://bucket/prefix"),
        (lambda: LogDb.open(storage="file://"), "names no directory"),
        (lambda: LogDb.open(storage="/tmp/a\0b"), "holds a zero byte"),
        (lambda: LogDb.open(storage="http://host/path"), "http is not known to create objects atomically"),
        (
            lambda: LogDb.open(storage=StorageConfig(url="memory://", wal_url="ftpx://host")),
            "unknown URL scheme 'ftpx'",
        ),
        (
            lambda: LogDb.open(storage=StorageConfig(url="memory://", storage_options={"key": "x"})),
            r"take no storage_options, got \['key'\]",
        ),
    ],
)
def test_what_cannot_be_opened_it_is_refused_in_one_sentence(build: Any, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence) as refused:
        build()

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("size", "tables"), [(1 << 20, range(1, 4)), (2000, range(6, 100))])
def test_settings_of_the_engine_they_reach_it(tmp_path: Path, size: int, tables: range) -> None:
    with LogDb.open(storage=str(tmp_path), engine={"l0_sst_size_bytes": size, "gc_interval": None}) as log:
        for _ in range(20):
            log.try_append([(b"k", b"v" * 500)])

    assert len(list((tmp_path / "sst").iterdir())) in tables


# -- places that are no good ------------------------------------------------------------------------------------------


def test_a_path_that_is_a_regular_file_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")

    for place in (file, file / "below"):
        with pytest.raises(InvalidInputError, match="is a file, not a directory"):
            LogDb.open(storage=str(place))

    assert file.read_bytes() == b"mine"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_directory_without_write_permission_it_says_so(tmp_path: Path) -> None:
    script = """
import os, sys
from opendata_log import LogDb, StorageError
if os.getuid() == 0:
    os.setuid(65534)
try:
    LogDb.open(storage=sys.argv[1])
except StorageError as error:
    print(error)
"""
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)

    found = subprocess.run([sys.executable, "-c", script, str(closed)], capture_output=True, text=True, check=True)

    assert "permission denied; give this user read and write access to the directory" in found.stdout
    assert os.listdir(closed) == []


def test_a_reader_where_nobody_wrote_it_says_so_and_makes_nothing(tmp_path: Path) -> None:
    for place in ("memory://", str(tmp_path / "none")):
        with pytest.raises(StorageError, match="nobody has written one yet"):
            LogDbReader.open(storage=place)

    assert os.listdir(tmp_path) == []


@pytest.mark.s3
def test_a_missing_bucket_it_says_so(seaweed: Seaweed, ministack: Ministack) -> None:
    for server in (seaweed, ministack):
        storage = StorageConfig(url="s3://no-such-bucket/log", storage_options=server.storage_options)
        with pytest.raises(StorageError, match="the bucket of s3://no-such-bucket/log does not exist; create it first"):
            LogDb.open(storage=storage)


@pytest.mark.s3
def test_wrong_credentials_it_says_so_at_once(seaweed: Seaweed) -> None:
    for wrong in ({"key": "nobody"}, {"secret": "wrong"}):
        storage = StorageConfig(url=seaweed.url("w"), storage_options={**seaweed.storage_options, **wrong})
        for open_log in (LogDb.open, LogDbReader.open):
            with pytest.raises(StorageError, match="credentials refused; check key, secret and policy") as refused:
                open_log(storage=storage)
            assert "wrong" not in str(refused.value)
            assert seaweed.storage_options["secret"] not in str(refused.value)


class CarelessS3(s3fs.S3FileSystem):
    """As against a server that does not know conditional writes."""

    async def _call_s3(self, method: Any, *arguments: Any, **options: Any) -> Any:
        options.pop("IfNoneMatch", None)
        return await super()._call_s3(method, *arguments, **options)


@pytest.mark.s3
def test_a_store_without_conditional_writes_it_is_refused_and_left_empty(ministack: Ministack) -> None:
    fs = CarelessS3(**ministack.storage_options, skip_instance_cache=True, use_listings_cache=False)
    try:
        builder = LogDbBuilder(Config(storage=ministack.url("careless"))).with_object_store(fs)
        with pytest.raises(InvalidInputError, match="ignores conditional writes"):
            builder.build()
        assert fs.find(ministack.url("careless")) == []
    finally:
        close_file_system(fs)


def test_a_file_system_that_is_not_known_it_is_refused_unless_there_is_one_writer(tmp_path: Path) -> None:
    fs = fsspec.filesystem("dir", path=str(tmp_path), fs=fsspec.filesystem("file"))
    config = Config(storage="log")

    with pytest.raises(InvalidInputError, match="DirFileSystem is not known to create objects atomically"):
        LogDbBuilder(config).with_object_store(fs).build()

    alone = Config(storage="log", engine=lsm.Settings(assume_single_writer=True))
    write_and_read_again(lambda: LogDbBuilder(alone).with_object_store(fs).build())
