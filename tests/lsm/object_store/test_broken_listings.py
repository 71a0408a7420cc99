"""A listing that could not be made is an error, never a shorter or an empty one."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem

from lsm.object_store import ObjectStore, S3Store, StoreFault, open_store


class BreakingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Cannot read one of its directories."""

    broken: str = ""
    error: Exception = OSError(errno.EIO, "cannot be read")

    def ls(self, path: str, detail: bool = True, **rest: Any) -> Any:
        if path.strip("/") == self.broken:
            raise self.error
        return super().ls(path, detail=detail, **rest)


@pytest.fixture
def broken_at(request: pytest.FixtureRequest) -> Iterator[tuple[BreakingFileSystem, ObjectStore]]:
    root = f"broken-{id(request)}"
    fs = BreakingFileSystem(skip_instance_cache=True)
    store = open_store(f"/{root}", fs=fs)
    for name in ("sst/1.sst", "sst/deep/2.sst", "wal/1.wal"):
        store.put_if_absent(name, [b"x"], timeout=1.0)
    fs.broken = root
    yield fs, store
    fs.rm(f"/{root}", recursive=True)


@pytest.mark.parametrize("folder", ["", "/sst", "/sst/deep"])
@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "x"), ConnectionResetError(), PermissionError("x"), RuntimeError("x")]
)
def test_a_directory_that_cannot_be_read_fails_the_listing(
    broken_at: tuple[BreakingFileSystem, ObjectStore], folder: str, error: Exception
) -> None:
    fs, store = broken_at
    fs.broken += folder
    fs.error = error

    with pytest.raises(StoreFault):
        store.list("" if not folder else "sst/", timeout=1.0)

    fs.broken = ""
    assert [info.name for info in store.list("", timeout=1.0)] == ["sst/1.sst", "sst/deep/2.sst", "wal/1.wal"]


def test_a_directory_that_vanishes_while_it_is_listed_is_empty_and_hides_no_other(
    broken_at: tuple[BreakingFileSystem, ObjectStore],
) -> None:
    fs, store = broken_at
    fs.broken += "/sst/deep"
    fs.error = FileNotFoundError("deleted meanwhile")

    assert [info.name for info in store.list("", timeout=1.0)] == ["sst/1.sst", "wal/1.wal"]


@pytest.mark.parametrize("answer", [{}, {"ResponseMetadata": {"HTTPStatusCode": 200}}, None])
def test_an_answer_that_is_not_the_services_own_settles_nothing(
    answer: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of some gateway with status 200 decodes to an answer without content."""

    async def call(self: Any, method: str, **fields: Any) -> Any:
        return answer

    fs = s3fs.S3FileSystem(key="a", secret="b", skip_instance_cache=True)
    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)
    store = open_store("s3://bucket/db", fs=fs)
    assert isinstance(store, S3Store)

    for request in (
        lambda: store.list("manifest/", timeout=1.0),
        lambda: store.put_if_absent("wal/1", [b"x"], timeout=1.0),
        lambda: store.head("wal/1", timeout=1.0),
    ):
        with pytest.raises(StoreFault) as caught:
            request()
        assert caught.value.transient
    store.close()
