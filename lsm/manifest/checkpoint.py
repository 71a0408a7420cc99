"""The manifest's records of checkpoints, and of the databases that a clone reads from. Pure."""

from __future__ import annotations

import msgspec


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """A version of the database that stays readable: manifest `manifest_id`, the tables it names, and the log objects
    `wal_first` to `wal_last` after them (none if `wal_first` is the greater one).

    `id` is 32 hexadecimal digits. Times are wall-clock milliseconds. `expire_ms` and `lifetime_ms` are None if the checkpoint
    never expires. `refreshes` counts refreshes, so that a refreshed record differs from the one before.
    """

    id: str
    manifest_id: int
    wal_first: int
    wal_last: int
    created_ms: int
    lifetime_ms: int | None = None
    expire_ms: int | None = None
    name: str = ""
    refreshes: int = 0

    def needs_log(self, number: int) -> bool:
        """Whether log object `number` holds rows of the checkpoint."""
        return self.wal_first <= number <= self.wal_last


class Parent(msgspec.Struct, frozen=True, array_like=True):
    """A database whose tables a clone reads in place: its URL, the tables, and the checkpoint there that keeps them.

    `tables` ascends. A clone's own tables have greater numbers than any table of a parent.
    """

    database: bytes
    url: str
    checkpoint_id: str
    tables: tuple[int, ...]
