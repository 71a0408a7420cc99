"""Caches as a user of the log sets them: sizes, memory shared between handles, and a directory that keeps a reader warm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opendata_log import (
    Caches,
    ClosedError,
    Config,
    InvalidInputError,
    LogDb,
    LogDbBuilder,
    LogDbReader,
    ReaderConfig,
    StorageConfig,
)
from tests.opendata_log.support import tiny, values

SIZES: dict[str, Any] = {"block_cache_bytes": 5_000_000, "meta_cache_bytes": 3_000_000}


def write(url: str, value: bytes, **storage: Any) -> None:
    with LogDb.open(storage=StorageConfig(url=url, **storage), engine=tiny()) as log:
        log.try_append([(b"key", value)])


def test_sizes_reach_the_engine(tmp_path: Path) -> None:
    url, folder = str(tmp_path / "log"), tmp_path / "parts"
    storage = StorageConfig(url=url, **SIZES, disk_cache_dir=folder, disk_cache_bytes=2 << 20)  # type: ignore[arg-type]
    with (
        LogDb.open(storage=storage) as log,
        LogDbReader.open(storage=storage) as reader,
        LogDbReader.open(storage=url, **SIZES, disk_cache_dir=str(folder), disk_cache_bytes=2 << 20) as other,
    ):
        for handle in (log, reader, other):
            status = handle.status().caches
            assert (status.blocks.capacity, status.meta.capacity) == (5_000_000, 3_000_000)
            assert status.disk is not None
            assert (status.disk.directory, status.disk.capacity) == (str(folder), 2 << 20)


def test_logs_and_readers_share_caches_and_nothing_else() -> None:
    caches = Caches(block_bytes=1 << 20, meta_bytes=1 << 20)
    for name in ("one", "two"):
        write(f"memory://{name}-of-shared", name.encode(), caches=caches)

    one = LogDbBuilder(storage="memory://one-of-shared", engine=tiny()).with_caches(caches).build()
    two = LogDbReader.open(storage="memory://two-of-shared", caches=caches)
    assert [values(one, b"key"), values(two, b"key")] == [[b"one"], [b"two"]]
    assert one.status().caches == two.status().caches == caches.status()
    before = caches.status().blocks.items

    one.drop_cached()
    assert 0 < caches.status().blocks.items < before
    assert values(one, b"key") == [b"one"]
    one.close()
    with pytest.raises(ClosedError):
        one.drop_cached()
    assert values(two, b"key") == [b"two"]
    two.close()


def test_a_reader_that_starts_again_is_warm(tmp_path: Path) -> None:
    write("memory://kept-on-disk", b"value")

    def requests() -> int:
        with LogDbReader.open(storage="memory://kept-on-disk", disk_cache_dir=tmp_path) as reader:
            assert values(reader, b"key") == [b"value"]
            disk = reader.status().caches.disk
            assert disk is not None
            return disk.misses

    assert [requests() > 0, requests()] == [True, 0]


def test_a_readers_own_choice_wins() -> None:
    caches, other = Caches(), Caches()
    sized = StorageConfig(url="memory://", **SIZES, disk_cache_dir="a", disk_cache_bytes=5 << 20)
    shared = StorageConfig(url="memory://", caches=caches)

    chosen = ReaderConfig(storage=sized, caches=caches, disk_cache_dir="b").storage_config
    assert (chosen.caches, chosen.block_cache_bytes, chosen.meta_cache_bytes) == (caches, None, None)
    assert (chosen.disk_cache_dir, chosen.disk_cache_bytes) == ("b", 5 << 20)
    chosen = ReaderConfig(storage=shared, block_cache_bytes=1).storage_config
    assert (chosen.caches, chosen.block_cache_bytes) == (None, 1)
    assert ReaderConfig(storage=shared, caches=other).storage_config.caches is other
    assert ReaderConfig(storage=shared).storage_config.caches is caches
    config = Config(storage=sized)
    assert LogDbBuilder(config).with_caches(caches) is not None
    assert config.storage_config.caches is None


@pytest.mark.parametrize("kind", [ReaderConfig, lambda **given: StorageConfig(url="memory://", **given)])
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"caches": 5}, "caches must be a Caches"),
        ({"caches": Caches(), "block_cache_bytes": 1}, "caches or block_cache_bytes"),
        ({"caches": Caches(), "meta_cache_bytes": 1}, "caches or meta_cache_bytes"),
        ({"meta_cache_bytes": -1}, "meta_cache_bytes must be an integer"),
        ({"disk_cache_dir": ""}, "disk_cache_dir must be a path"),
        ({"disk_cache_dir": 5}, "disk_cache_dir must be a path"),
        ({"disk_cache_bytes": 1000}, "disk_cache_bytes must be an integer, at least 1048576"),
    ],
)
def test_wrong_settings_are_refused_by_name(kind: Any, given: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        kind(**given)


def test_a_builder_takes_caches_only(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="caches must be a Caches"):
        LogDbBuilder(storage=str(tmp_path)).with_caches({})  # type: ignore[arg-type]
