"""A clone needs its parents: one that is gone is named, one on another server is opened with options of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import lsm
from lsm.__main__ import main
from lsm.components import Components, Stores
from lsm.object_store import MemoryStore
from lsm.runtime import Runtime
from opendata_log import InvalidInputError, LogDb, LogDbReader, StorageConfig
from opendata_log.fsck import fsck
from opendata_log.model.errors import CorruptionError, StorageError


def cloned(root: Path) -> tuple[Path, Path]:
    parent, clone = root / "parent", root / "clone"
    with LogDb.open(storage=parent) as log:
        log.try_append([(b"k", b"v")])
    with lsm.Admin(parent) as admin:
        admin.create_clone(clone)
    return parent, clone


def test_a_parent_that_is_gone_is_named(tmp_path: Path) -> None:
    parent, clone = cloned(tmp_path)
    shutil.rmtree(parent)

    with pytest.raises((CorruptionError, StorageError)) as caught, LogDbReader.open(storage=clone) as reader:
        reader.scan(b"k").fetchall()
    assert str(parent) in str(caught.value)


def test_a_table_that_the_parent_lost_is_looked_for_there(tmp_path: Path) -> None:
    parent, clone = cloned(tmp_path)
    for table in (parent / "sst").iterdir():
        table.unlink()

    with LogDbReader.open(storage=clone) as reader, pytest.raises(CorruptionError) as caught:
        reader.scan(b"k").fetchall()
    assert f"{parent}, which this clone reads in place" in str(caught.value)
    assert all(str(parent) in problem.message for problem in fsck(str(clone)).problems)
    assert fsck(str(clone)).problems


def test_a_parent_is_opened_with_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Mapping[str, Any]] = {}

    def opened(url: str, options: Mapping[str, Any], **_: Any) -> MemoryStore:
        asked[url] = options
        return MemoryStore()

    monkeypatch.setattr("lsm.components.open_store", opened)
    own, other = {"endpoint_url": "http://here"}, {"endpoint_url": "http://there"}
    runtime = Runtime()
    parts = Components(storage_options=own, parent_storage_options={"s3://there/log": other})
    stores = Stores("s3://here/log", lsm.Settings(), parts, runtime)
    for url in ("s3://there/log", "s3://here/parent", "file:///parent"):
        stores.parent(url)
    stores.close()
    runtime.close()

    assert asked == {"s3://here/log": own, "s3://there/log": other, "s3://here/parent": own, "file:///parent": {}}


def test_every_way_to_open_a_log_takes_the_parents_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, clone = cloned(tmp_path)
    url = f"file://{parent}"
    told: list[Any] = []
    monkeypatch.setattr(Stores, "parent", lambda self, each: told.append(self._parts.parent_storage_options[each]))
    given = {url: {"key": "secret"}}
    for open_it in (LogDb.open, LogDbReader.open):
        with pytest.raises(AttributeError):  # What stands in for the parent's store is none.
            open_it(storage=StorageConfig(url=clone, parent_storage_options=given))
    with pytest.raises(AttributeError):
        fsck(str(clone), parent_storage_options=given)
    assert told == [{"key": "secret"}] * 3
    assert "secret" not in repr(StorageConfig(url=clone, parent_storage_options=given))
    for manifest in (clone / "manifest").iterdir():
        assert b"secret" not in manifest.read_bytes()


@pytest.mark.parametrize("options", [None, [], "x", {"url": 1}, {"url": ["x"]}])
def test_refuses_options_that_are_none(options: Any) -> None:
    with pytest.raises(InvalidInputError, match="parent_storage_options"):
        StorageConfig(url="memory://", parent_storage_options=options)


def test_the_commands_take_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, clone = cloned(tmp_path)
    assert main(["fsck", str(clone), "--parent-storage-options", "{}"]) == 0
    assert main(["clone", str(clone), str(tmp_path / "third"), "--destination-storage-options", "{}"]) == 0
    for bad in ("[]", '{"s3://x": 1}', "{"):
        with pytest.raises(SystemExit):
            main(["fsck", str(clone), "--parent-storage-options", bad])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["clone", "--help"])
    assert "no copy" in capsys.readouterr().out
