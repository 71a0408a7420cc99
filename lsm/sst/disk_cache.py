"""Parts of table objects in a local directory, so that a restarted process need not fetch them again.

An object is cut into parts of PART_BYTES from its start on. Reads fetch whole parts, so the next read nearby finds them. A part
stays valid for ever: objects never change, and a file's name includes a digest of the table's content, because two copies of
a database may give the same number to different tables.

    <directory>/table-parts-1/<database, hex>/<00 to ff>/<object's name, - for />-<content, hex>-<number of the part, hex>

A part's file, all little-endian:

    0   magic     4s   b"LSMP"
    4   version   u16
    6   reserved  u16  0
    8   database  16s
    24  offset    u64  of the part in the object
    32  length    u32  bytes of the part
    36  checksum  u32  crc32c of the object's name, the 36 bytes above, the part
    40  part      ...

Any number of processes can share the directory. A file gets its name by a rename when it is complete. Nothing is synced: a
file damaged by a power loss fails its checksum, is deleted and fetched again. A writing process deletes the files with the
oldest times of use, and only files at the paths shown above. `status` reports a failure of the directory, which costs
requests to the store but fails no read.

Source: the part files of SlateDB's object store cache, which fetches parts of 4 MiB.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, cast

import msgspec

from lsm.native.checksum import crc32c
from lsm.object_store.file_descriptors import open_beyond_standard
from lsm.runtime import Runtime

HEADER: Final = struct.Struct("<4sHH16sQII")
MAGIC: Final = b"LSMP"
VERSION: Final = 1
PART_BYTES: Final = (128 << 10) - HEADER.size
"""With the header, a file fills whole disk blocks."""

ROOT: Final = "table-parts-1"
RETRY_SECONDS: Final = 60.0
_DISK_BLOCK: Final = 4096
_AS_IT_IS: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_OURS: Final = (re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{2}"), re.compile(r"\.tmp-[0-9a-f]+|.+-[0-9a-f]+"))


class DiskCacheStatus(msgspec.Struct, frozen=True):
    """`size`: bytes at the last sweep, and those this handle wrote since. `hits` and `misses` count parts; `damaged`, parts
    deleted because they did not verify; `evictions`, parts that this handle deleted to make room. `failure`: the reason why
    nothing is written at the moment; None if there is none."""

    directory: str
    capacity: int
    size: int
    hits: int
    misses: int
    damaged: int
    evictions: int
    failure: str | None


def encode_part(database: bytes, name: str, offset: int, data: bytes | memoryview) -> bytes:
    """The header of a part's file, which `data` follows."""
    head = HEADER.pack(MAGIC, VERSION, 0, database, offset, len(data), 0)[:-4]
    return head + crc32c(data, crc32c(head, crc32c(name.encode()))).to_bytes(4, "little")


def decode_part(database: bytes, name: str, offset: int, length: int, found: bytes) -> memoryview | None:
    """The part in a file; None unless the file holds exactly this part, undamaged."""
    data = memoryview(found)[HEADER.size :]
    if len(data) != length or found[: HEADER.size] != encode_part(database, name, offset, data):
        return None
    return data


class DiskCache:
    """A cache directory, as one handle uses it. Thread-safe; holds no open files."""

    def __init__(self, directory: str, capacity: int, runtime: Runtime, *, part_bytes: int = PART_BYTES) -> None:
        self._root = os.path.join(os.path.abspath(os.path.expanduser(directory)), ROOT)
        self._directory = directory
        self._capacity = capacity
        self._runtime = runtime
        self._part_bytes = part_bytes
        self._lock = runtime.lock()
        self._is_sweeping = False
        self._size = 0
        self._until_sweep = 0
        """Bytes that may be written before the next sweep of the directory."""
        self._hits = self._misses = self._damaged = self._evictions = 0
        self._failure: str | None = None
        self._retry_at = 0.0

    def read(
        self,
        database: bytes,
        name: str,
        size: int,
        start: int,
        end: int,
        fetch: Callable[[int, int], bytes],
        *,
        keep: bool = True,
    ) -> bytes:
        """Bytes [start, end) of a database's object of `size` bytes; `fetch` reads a range from the store. A clone reads its
        parents' tables under the parents' ids, so clones and parents share parts.

        Without `keep`, nothing is written. Cost: at most one `fetch`, from the first part that is missing to the last.
        Raises: the errors of `fetch`.
        """
        width = self._part_bytes
        first, stop = start // width, -(-end // width)
        parts: list[bytes | memoryview | None] = [self._load(database, name, size, at) for at in range(first, stop)]
        if None in parts:
            low = first + parts.index(None)
            high = stop - parts[::-1].index(None)
            begin, until = (low * width, min(size, high * width)) if keep else (start, end)
            data = fetch(begin, until)
            if not keep:
                return data
            if len(data) != until - begin:  # The object is shorter than expected: return the bytes it has.
                return fetch(start, end)
            for at in range(low, high):
                part = data[at * width - begin : (at + 1) * width - begin]
                if parts[at - first] is None:
                    self._save(database, name, at, part)
                parts[at - first] = part
        base = first * width
        whole = b"".join(cast("list[bytes | memoryview]", parts))  # No part is missing now.
        return whole[start - base : end - base]

    def drop(self, database: bytes, name: str, start: int, end: int) -> None:
        """Delete the parts that hold these bytes, which did not verify."""
        for at in range(start // self._part_bytes, -(-end // self._part_bytes)):
            with contextlib.suppress(OSError):
                os.unlink(self._path(database, name, at))
                self._count(damaged=1)

    def _path(self, database: bytes, name: str, at: int) -> str:
        stem = f"{name.replace('/', '-')}-{at:x}"
        return os.path.join(self._root, database.hex(), f"{crc32c(stem.encode()) & 0xFF:02x}", stem)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _load(self, database: bytes, name: str, size: int, at: int) -> memoryview | None:
        path = self._path(database, name, at)
        offset = at * self._part_bytes
        length = min(self._part_bytes, size - offset)
        try:
            found = _read_used(path, HEADER.size + length + 1)
        except FileNotFoundError:
            self._count(misses=1)
            return None
        except OSError as error:
            self._fail("read", error)
            self._count(misses=1)
            return None
        part = decode_part(database, name, offset, length, found)
        if part is None:
            with contextlib.suppress(OSError):
                os.unlink(path)
            self._count(misses=1, damaged=1)
            return None
        self._count(hits=1)
        return part

    # -- writing ------------------------------------------------------------------------------------------------------

    def _save(self, database: bytes, name: str, at: int, data: bytes) -> None:
        if self._failure is not None and self._runtime.monotonic() < self._retry_at:
            return
        weight = _on_disk(HEADER.size + len(data))
        if weight > self._capacity:
            return
        try:
            self._make_room(weight)
            path = self._path(database, name, at)
            temporary = os.path.join(os.path.dirname(path), f".tmp-{self._runtime.random_bytes(8).hex()}")
            head = encode_part(database, name, at * self._part_bytes, data)
            if not _write(self._root, temporary, path, head, data):
                return
        except OSError as error:
            self._fail("write to", error)
            return
        self._failure = None
        with self._lock:
            self._size += weight
            self._until_sweep -= weight

    def _make_room(self, weight: int) -> None:
        """Measure the files of all processes, once per sixteenth of the budget written, and delete the excess."""
        with self._lock:
            if self._is_sweeping or (self._until_sweep >= weight and self._size + weight <= self._capacity):
                return
            self._is_sweeping = True
        try:
            files = sorted(_files(self._root))
            size = sum(file.size for file in files)
            goal = self._capacity - max(weight, self._capacity // 16)
            count = 0
            if size + weight > self._capacity:
                for count, file in enumerate(files, 1):  # noqa: B007 -- counted also where the loop ends by itself
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(file.path)
                    size -= file.size
                    if size <= goal:
                        break
            with self._lock:
                self._size = size
                self._until_sweep = max(weight, self._capacity // 16)
                self._evictions += count
        finally:
            self._is_sweeping = False

    # -- what happened ------------------------------------------------------------------------------------------------

    def _fail(self, action: str, error: OSError) -> None:
        """Stop writing for RETRY_SECONDS: the disk may be full, or the directory not writable."""
        why = error.strerror or repr(error)
        self._failure = f"cannot {action} the cache directory {self._directory!r}: {why}; reads go to the store"
        self._retry_at = self._runtime.monotonic() + RETRY_SECONDS

    def _count(self, *, hits: int = 0, misses: int = 0, damaged: int = 0) -> None:
        with self._lock:
            self._hits += hits
            self._misses += misses
            self._damaged += damaged

    def status(self) -> DiskCacheStatus:
        with self._lock:
            return DiskCacheStatus(
                self._directory,
                self._capacity,
                self._size,
                self._hits,
                self._misses,
                self._damaged,
                self._evictions,
                self._failure,
            )


# -- files ------------------------------------------------------------------------------------------------------------


class _File(NamedTuple):
    used_ns: int
    size: int
    path: str


def _on_disk(size: int) -> int:
    return -(-size // _DISK_BLOCK) * _DISK_BLOCK


def _read_used(path: str, limit: int) -> bytes:
    """Read up to `limit` bytes of a file and mark it as used now. Raises: OSError."""
    descriptor = open_beyond_standard(path, os.O_RDONLY | _AS_IT_IS)
    try:
        found = os.read(descriptor, limit)
        with contextlib.suppress(OSError):  # The directory may be read-only: then nothing is evicted either.
            os.utime(path)
        return found
    finally:
        os.close(descriptor)


def _write(root: str, temporary: str, path: str, head: bytes, data: bytes) -> bool:
    """Create a complete file. Return False if another process evicted it before it got its name. Raises: OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _AS_IT_IS
    try:
        descriptor = open_beyond_standard(temporary, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(root, 0o700, exist_ok=True)  # Two steps, because the mode applies to the last directory only.
        os.makedirs(os.path.dirname(temporary), 0o700, exist_ok=True)
        descriptor = open_beyond_standard(temporary, flags, 0o600)
    try:
        try:
            if hasattr(os, "writev"):
                written = os.writev(descriptor, (head, data))
            else:  # Windows
                written = os.write(descriptor, b"".join((head, data)))
            if written != len(head) + len(data):
                raise OSError(errno.ENOSPC, "a file was cut short: the disk may be full")
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except FileNotFoundError:
        return False
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return True


def _files(root: str) -> Iterator[_File]:
    """Every cache file below `root`, including unfinished files of a crash. Links are not followed."""
    for database in _entries(root, 0):
        for folder in _entries(database.path, 1):
            for file in _entries(folder.path, 2):
                with contextlib.suppress(FileNotFoundError):
                    found = file.stat(follow_symlinks=False)
                    yield _File(found.st_mtime_ns, _on_disk(found.st_size), file.path)


def _entries(path: str, level: int) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
        for entry in entries:
            is_right_kind = entry.is_file(follow_symlinks=False) if level == 2 else entry.is_dir(follow_symlinks=False)
            if is_right_kind and _OURS[level].fullmatch(entry.name):
                yield entry
