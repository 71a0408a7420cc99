"""Files and directories by descriptor: create files whole, name them last, sync them to the drive.

No function returns descriptor 0, 1 or 2.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from types import ModuleType

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl = None

_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)
_UNNAMED = getattr(os, "O_TMPFILE", 0) | os.O_WRONLY | _CLOSE_ON_EXEC
_NAMED = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOSE_ON_EXEC
WHOLE_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _CLOSE_ON_EXEC
HELD = WHOLE_DIRECTORY | getattr(os, "O_PATH", 0)
"""Flags that hold a directory open. `O_PATH` needs no permission to read the directory."""
READ = os.O_RDONLY | _CLOSE_ON_EXEC
_FULL_SYNC: int | None = getattr(_fcntl, "F_FULLFSYNC", None)
_BUFFERS_MAX = os.sysconf("SC_IOV_MAX") if hasattr(os, "sysconf") else 16
_STANDARD_LAST = 2
"""The greatest standard descriptor. C libraries and child processes print to descriptors 0 to 2, whatever file they are."""
_OPEN_ATTEMPTS = 64

_NO_FULL_SYNC = {errno.EINVAL, errno.ENOTTY, errno.ENOTSUP, errno.EOPNOTSUPP}


def open_beyond_standard(path: str, flags: int, mode: int = 0o644, *, within: int | None = None) -> int:
    """Like `os.open`, but never return descriptor 0, 1 or 2.

    If standard input, output or error is closed, the next opened file gets its number, and output printed to that number
    would be mixed with stored bytes.
    """
    descriptor = os.open(path, flags, mode, dir_fd=within)
    if descriptor > _STANDARD_LAST:
        return descriptor
    # Output may have been printed into the file already, so it is discarded, not moved to another descriptor.
    os.close(descriptor)
    if flags & os.O_CREAT:
        os.unlink(path, dir_fd=within)
    for _ in range(_OPEN_ATTEMPTS):
        fillers: list[int] = []
        try:
            while not fillers or fillers[-1] <= _STANDARD_LAST:
                fillers.append(os.open(os.devnull, READ))
            descriptor = os.open(path, flags, mode, dir_fd=within)
            if descriptor > _STANDARD_LAST:
                return descriptor
            # Another thread closed a low descriptor in the meantime.
            os.close(descriptor)
            if flags & os.O_CREAT:
                os.unlink(path, dir_fd=within)
        finally:
            for filler in fillers:
                os.close(filler)
    raise OSError(errno.EBADF, "standard input, output and error keep being closed: leave them open, on /dev/null")


def link_unnamed(folder: int, name: str, parts: Sequence[bytes], size: int) -> None:
    descriptor = open_beyond_standard(".", _UNNAMED, within=folder)
    try:
        _write_all(descriptor, parts, size)
        _sync_bytes(descriptor)
        # src_dir_fd makes CPython call linkat with AT_SYMLINK_FOLLOW; plain link() would try to link procfs (EXDEV).
        source = f"/proc/self/fd/{descriptor}"
        os.link(source, name, src_dir_fd=descriptor, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(descriptor)


def link_named(folder: int, name: str, temporary: str, parts: Sequence[bytes], size: int) -> None:
    descriptor = open_beyond_standard(temporary, _NAMED, within=folder)
    try:
        _write_all(descriptor, parts, size)
        _sync_bytes(descriptor)
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)


def _write_all(descriptor: int, parts: Sequence[bytes], size: int) -> None:
    """Write every byte: the kernel limits the parts per call and may accept only some of the bytes."""
    if 0 < len(parts) <= _BUFFERS_MAX and os.writev(descriptor, parts) == size:
        return
    os.lseek(descriptor, 0, os.SEEK_SET)
    left = [memoryview(part) for part in parts if len(part)]
    at = 0
    while at < len(left):
        written = os.writev(descriptor, left[at : at + _BUFFERS_MAX])
        while at < len(left) and written >= len(left[at]):
            written -= len(left[at])
            at += 1
        if written:
            left[at] = left[at][written:]


def _sync_bytes(descriptor: int) -> None:
    """Make a file's bytes and size durable."""
    if _FULL_SYNC is None and hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        sync(descriptor)


def sync(descriptor: int) -> None:
    """Make a file or directory durable, metadata included. On macOS, fsync alone does not do that."""
    if _fcntl is not None and _FULL_SYNC is not None:
        try:
            _fcntl.fcntl(descriptor, _FULL_SYNC)
        except OSError as error:
            if error.errno not in _NO_FULL_SYNC:
                raise
        else:
            return
    os.fsync(descriptor)


def sync_directory(path: str, *, within: int | None = None) -> None:
    descriptor = open_beyond_standard(path, WHOLE_DIRECTORY, within=within)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)
