"""A disk that loses its power: watches what the local store asks of the system, and lays out what may be left of it.

`WatchedDisk` stands where `lsm.object_store.local` and `descriptors` have the module `os`. It passes every call on, and
remembers which bytes and which directory entries were synced. `outage` makes a directory as it may be found afterwards:
what was synced is there, and of the rest any subset that POSIX allows: a file's unsynced bytes whole, torn, zeroed or gone,
an entry there or not, and nothing under a directory whose own entry is gone.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class PowerLoss(BaseException):
    """The machine is off. Not an Exception, so that no error handling goes on after it."""


class _File:
    """A file's bytes, by whichever name."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.synced: bytes | None = None


class _Directory:
    """Entries that are on the disk, and the changes since: (name, what it became), None: removed."""

    def __init__(self) -> None:
        self.synced: dict[str, _File | _Directory] = {}
        self.entries: dict[str, _File | _Directory] = {}
        self.changes: list[tuple[str, _File | _Directory | None]] = []

    def change(self, name: str, entry: _File | _Directory | None) -> None:
        self.changes.append((name, entry))
        if entry is None:
            del self.entries[name]
        else:
            self.entries[name] = entry


class WatchedDisk:
    """Everything under `root`, which is on the disk already. `calls_left`: after so many changes and syncs the power fails."""

    def __init__(self, root: Path, chance: random.Random, *, calls_left: int | None = None) -> None:
        self.calls_left = calls_left
        self.calls = 0
        self._root = str(root)
        self._chance = chance
        self._top = _Directory()
        self._open: dict[int, _File | _Directory] = {}
        self._at: dict[int, int] = {}
        self._paths: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    # -- what the store calls -----------------------------------------------------------------------------------------

    def _step(self) -> None:
        self.calls += 1
        if self.calls_left is not None and self.calls > self.calls_left:
            raise PowerLoss

    def _resolved(self, path: str, directory: int | None) -> str:
        return path if directory is None else os.path.normpath(os.path.join(self._paths[directory], path))

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            self._step()
        descriptor = os.open(path, flags, mode, dir_fd=dir_fd)
        path = self._resolved(path, dir_fd)
        self._paths[descriptor] = path
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            self._open[descriptor] = _File()
        elif flags & os.O_CREAT:
            made = self._open[descriptor] = _File()
            self._directory(os.path.dirname(path)).change(os.path.basename(path), made)
        elif flags & os.O_DIRECTORY and self._is_ours(path):
            self._open[descriptor] = self._directory(path)
        self._at[descriptor] = 0
        return descriptor

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        self._paths.pop(descriptor, None)
        os.close(descriptor)

    def writev(self, descriptor: int, parts: Sequence[Any]) -> int:
        """Some of it: the kernel may always take less."""
        self._step()
        data = b"".join(parts)
        if len(data) > 1 and self._chance.random() < 0.3:
            data = data[: self._chance.randrange(1, len(data))]
        count = os.write(descriptor, data)
        file, at = self._open[descriptor], self._at[descriptor]
        assert isinstance(file, _File)
        file.written[at : at + count] = data[:count]
        self._at[descriptor] = at + count
        return count

    def lseek(self, descriptor: int, position: int, how: int) -> int:
        self._at[descriptor] = found = os.lseek(descriptor, position, how)
        return found

    def fdatasync(self, descriptor: int) -> None:
        self.fsync(descriptor)

    def fsync(self, descriptor: int) -> None:
        self._step()
        found = self._open.get(descriptor)
        if isinstance(found, _File):
            found.synced = bytes(found.written)
        elif found is not None:
            found.synced, found.changes = dict(found.entries), []

    def link(self, source: str, target: str, **options: Any) -> None:
        self._step()
        os.link(source, target, **options)
        target = self._resolved(target, options.get("dst_dir_fd"))
        if source.startswith("/proc/self/fd/"):
            file = self._open[int(source.rpartition("/")[2])]
        else:
            source = self._resolved(source, options.get("src_dir_fd"))
            file = self._directory(os.path.dirname(source)).entries[os.path.basename(source)]
        self._directory(os.path.dirname(target)).change(os.path.basename(target), file)

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        self._step()
        os.unlink(path, dir_fd=dir_fd)
        path = self._resolved(path, dir_fd)
        self._directory(os.path.dirname(path)).change(os.path.basename(path), None)

    def mkdir(self, path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._step()
        os.mkdir(path, mode, dir_fd=dir_fd)
        path = self._resolved(path, dir_fd)
        if self._is_ours(path):
            self._directory(os.path.dirname(path)).change(os.path.basename(path), _Directory())

    def _is_ours(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root + "/")

    def _directory(self, path: str) -> _Directory:
        found = self._top
        for name in filter(None, os.path.relpath(path, self._root).split("/")):
            if name != ".":
                below = found.entries[name]
                assert isinstance(below, _Directory)
                found = below
        return found

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def outage(self, target: Path, chance: random.Random) -> Path:
        """What somebody finds who switches it on again, as a directory of its own."""
        self._lay_out(self._top, target, chance)
        return target

    def _lay_out(self, directory: _Directory, target: Path, chance: random.Random) -> None:
        target.mkdir()
        for name, entry in self._entries_left(directory, chance):
            if isinstance(entry, _Directory):
                self._lay_out(entry, target / name, chance)
            else:
                (target / name).write_bytes(self._bytes_left(entry, chance))

    @staticmethod
    def _entries_left(directory: _Directory, chance: random.Random) -> Iterator[tuple[str, _File | _Directory]]:
        """Of each name, the state synced last or that of any change since."""
        for name in sorted({*directory.synced, *(name for name, _ in directory.changes)}):
            states = [directory.synced.get(name), *(entry for changed, entry in directory.changes if changed == name)]
            entry = chance.choice(states)
            if entry is not None:
                yield name, entry

    @staticmethod
    def _bytes_left(file: _File, chance: random.Random) -> bytes:
        written = bytes(file.written)
        if file.synced == written or not written:
            return written
        cut = chance.randrange(len(written))
        return chance.choice((b"", written[:cut], written[:cut] + bytes(len(written) - cut), written))
