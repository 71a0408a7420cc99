"""OpenData Log itself, through its public API, as it ships unless a scenario asks for other engine settings."""

from __future__ import annotations

from benchmarks.stores.contract import Entries
from opendata_log import Config, LogDb, ScanOptions


class OpenDataStore:
    """`append` and `flush` are the product's own bound methods, so that the adapter costs nothing."""

    def __init__(self, path: str, *, durable: bool = False, **engine: object) -> None:
        settings = None
        if engine:
            from lsm import Settings

            settings = Settings.from_dict(engine)
        self.log = LogDb.open(Config(storage=f"file://{path}", engine=settings))
        self.append = self.log.try_append
        self.flush = self.log.flush
        self.follow = self.log.follow
        self.count = self.log.count

    def scan(self, key: bytes, start: int = 0, limit: int | None = None) -> Entries:
        if limit is None:
            return self.log.scan(key, start).fetchall()
        return self.log.scan(key, start, options=ScanOptions(limit=limit)).fetchall()

    def poll(self, key: bytes, cursor: int) -> tuple[Entries, int]:
        found = self.log.scan(key, cursor)
        return found.fetchall(), found.next_sequence

    def settle(self) -> None:
        wait_idle = getattr(self.log, "wait_idle", None)
        if wait_idle is not None:
            wait_idle()

    def close(self) -> None:
        self.log.close()


class UncompactedStore(OpenDataStore):
    """The same, without compaction: what it costs the writer is the difference."""

    def __init__(self, path: str, *, durable: bool = False, **engine: object) -> None:
        super().__init__(path, durable=durable, **{**engine, "compaction_enabled": False})
