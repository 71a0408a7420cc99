"""What keeps more than the newest version of a database alive: checkpoints, and the databases a clone reads from. Pure."""

from __future__ import annotations

import msgspec


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """A version of the database that stays readable: manifest `manifest_id`, the tables it names, and the log objects
    `wal_first` to `wal_last` behind them (none where the first is greater).

    `id` is 32 hexadecimal digits. Times are wall-clock milliseconds; `expire_ms` and `lifetime_ms` are None where it
    never expires. `refreshes` tells a refreshed record from the one before.
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
        """Whether that log object holds rows of the checkpoint."""
        return self.wal_first <= number <= self.wal_last


class Parent(msgspec.Struct, frozen=True, array_like=True):
    """A database whose tables a clone reads in place: where it is, which tables, and the checkpoint there that keeps them.

    `tables` ascends. A clone gives its own tables greater numbers than any it took over.
    """

    database: bytes
    url: str
    checkpoint_id: str
    tables: tuple[int, ...]
