"""Copies of one log that went different ways: a backup, a restore, a template of a test. Each shows its own records, through
whatever memory and directories they share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

import lsm
from lsm.coding import ENVELOPE
from lsm.manifest.codec import decode_manifest, encode_manifest
from lsm.object_store.names import manifest_name, manifest_number
from opendata_log import Caches, LogDb, LogDbReader, StorageConfig
from opendata_log.fsck import fsck
from tests.opendata_log.support import tiny, values

COMMON = b"common"
ENGINE: dict[str, Any] = {"compression": None, "compaction_enabled": False}


def write(root: Path, *batches: bytes, **engine: Any) -> None:
    with LogDb.open(storage=str(root), engine=tiny(**{**ENGINE, **engine})) as log:
        for batch in batches:
            log.try_append([(b"key", batch)])
            log.flush()


@pytest.fixture
def forks(tmp_path: Path) -> tuple[Path, Path]:
    """Two copies with the same database id, epochs and table numbers, and values of one length."""
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, COMMON)
    shutil.copytree(one, two)
    write(one, b"fork-1")
    write(two, b"fork-2")
    names = [sorted(path.name for path in (root / "sst").iterdir()) for root in (one, two)]
    assert names[0] == names[1]
    return one, two


def shown(root: Path, **storage: Any) -> list[bytes]:
    with LogDbReader.open(storage=StorageConfig(url=str(root), **storage)) as reader:
        return values(reader, b"key")


def test_readers_of_two_copies_share_memory_and_no_content(forks: tuple[Path, Path]) -> None:
    caches = Caches(block_bytes=1 << 20, meta_bytes=1 << 20)

    for _ in range(2):
        assert [shown(root, caches=caches) for root in forks] == [[COMMON, b"fork-1"], [COMMON, b"fork-2"]]


def test_readers_of_two_copies_share_a_directory_and_no_content(forks: tuple[Path, Path], tmp_path: Path) -> None:
    folder = str(tmp_path / "parts")

    for _ in range(2):
        assert [shown(root, disk_cache_dir=folder) for root in forks] == [[COMMON, b"fork-1"], [COMMON, b"fork-2"]]


def test_what_two_copies_have_in_common_is_loaded_once(forks: tuple[Path, Path]) -> None:
    caches = Caches(block_bytes=1 << 20, meta_bytes=1 << 20)
    shown(forks[0], caches=caches)
    before = caches.status()
    shown(forks[0], caches=caches)
    assert caches.status().blocks.misses == before.blocks.misses
    shown(forks[1], caches=caches)

    tables = {path.name: path.read_bytes() for path in (forks[0] / "sst").iterdir()}
    own = sum(data != (forks[1] / "sst" / name).read_bytes() for name, data in tables.items())
    assert 0 < own < len(tables)
    assert caches.status().meta.misses == before.meta.misses + own


def test_a_restored_log_is_not_read_out_of_the_caches_of_the_one_before(tmp_path: Path) -> None:
    live, backup = tmp_path / "live", tmp_path / "backup"
    write(live, COMMON)
    shutil.copytree(live, backup)
    write(live, b"undone")
    memory = {"caches": Caches(block_bytes=1 << 20, meta_bytes=1 << 20)}
    disk = {"disk_cache_dir": str(tmp_path / "parts")}
    for shared in (memory, disk):
        assert shown(live, **shared) == [COMMON, b"undone"]

    shutil.rmtree(live)
    shutil.copytree(backup, live)
    write(live, b"redone")

    for shared in (memory, disk):
        assert shown(live, **shared) == [COMMON, b"redone"]


def test_a_clone_of_a_copy_reads_the_copys_tables(forks: tuple[Path, Path], tmp_path: Path) -> None:
    caches = Caches(block_bytes=1 << 20, meta_bytes=1 << 20)
    for at, root in enumerate(forks):
        with lsm.Admin(str(root)) as admin:
            admin.create_clone(str(tmp_path / f"clone-{at}"))

    found = [shown(tmp_path / f"clone-{at}", caches=caches) for at in range(2)]
    assert found == [[COMMON, b"fork-1"], [COMMON, b"fork-2"]]


def without_content(root: Path) -> None:
    """As a version wrote it that did not say what tables hold."""
    number = max(
        found
        for path in (root / "manifest").iterdir()
        if (found := manifest_number(f"manifest/{path.name}")) is not None
    )
    path = root / manifest_name(number)
    data = path.read_bytes()
    nonce, epoch = ENVELOPE.unpack_from(data)[6], ENVELOPE.unpack_from(data)[5]
    manifest = decode_manifest(data, number=number, database=None)
    partitions = []
    for each in manifest.partitions:
        l0 = tuple(msgspec.structs.replace(table, content=0) for table in each.l0)
        runs = tuple(
            msgspec.structs.replace(
                run, tables=tuple(msgspec.structs.replace(table, content=0) for table in run.tables)
            )
            for run in each.runs
        )
        partitions.append(msgspec.structs.replace(each, l0=l0, runs=runs))
    old = msgspec.structs.replace(manifest, partitions=tuple(partitions))
    path.write_bytes(b"".join(encode_manifest(old, epoch=epoch, nonce=nonce)))


def test_tables_of_earlier_versions_are_kept_for_their_own_handle_alone(
    forks: tuple[Path, Path], tmp_path: Path
) -> None:
    for root in forks:
        without_content(root)
    caches, folder = Caches(block_bytes=1 << 20, meta_bytes=1 << 20), str(tmp_path / "parts")

    for _ in range(2):
        found = [shown(root, caches=caches, disk_cache_dir=folder) for root in forks]
        assert found == [[COMMON, b"fork-1"], [COMMON, b"fork-2"]]
    with LogDbReader.open(storage=StorageConfig(url=str(forks[0]), caches=caches)) as reader:
        assert values(reader, b"key") == [COMMON, b"fork-1"]
        before = caches.status().blocks.misses
        assert values(reader, b"key") == [COMMON, b"fork-1"]
        assert caches.status().blocks.misses == before
    assert fsck(str(forks[0])).is_sound


def test_fsck_tells_a_table_of_another_copy(forks: tuple[Path, Path]) -> None:
    one, two = forks
    assert fsck(str(one)).is_sound
    for path in (two / "sst").iterdir():
        shutil.copyfile(path, one / "sst" / path.name)

    problems = fsck(str(one)).problems
    assert problems
    assert all("of another copy" in problem.message for problem in problems)
