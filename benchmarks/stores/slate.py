"""SlateDB from its PyPI wheel, driven as synchronous code drives a coroutine API: one loop, one call at a time.

`SlateStore` is the wheel as shipped. `PatchedSlateStore` is the same library with the binding's slow functions
replaced in memory (see `slate_binding`). Neither syncs local files: SlateDB's durable figures are page-cache figures.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from slatedb.uniffi import DbBuilder, DurabilityLevel, KeyRange, ObjectStore, ScanOptions, WriteBatch

from benchmarks.stores import slate_binding
from benchmarks.stores.contract import SEQUENCE, Batch, Entries, GroupSync, SequenceFile

_ROWS_PER_CALL = 4096


def _scan_options() -> ScanOptions:
    """Read ahead, which SlateDB leaves off: a cold scan would otherwise read one 4 KiB block after the other."""
    return ScanOptions(
        durability_filter=DurabilityLevel.MEMORY,
        dirty=False,
        read_ahead_bytes=1 << 20,
        cache_blocks=False,
        max_fetch_tasks=4,
    )


class SlateStore:
    def __init__(self, path: str, *, durable: bool = False) -> None:
        self._sequence_file = SequenceFile(path)
        self._loop = asyncio.new_event_loop()
        self._loop_lock = threading.Lock()
        builder = DbBuilder(f"{path.lstrip('/')}/slate", ObjectStore.resolve("file:///"))
        self._db = self._loop.run_until_complete(builder.build())
        self._next = self._sequence_file.load()
        self._group = GroupSync(lambda: self._wait_for(self._db.flush()))

    def _wait_for(self, coroutine: Any) -> Any:
        with self._loop_lock:
            return self._loop.run_until_complete(coroutine)

    def append(self, batch: Batch) -> None:
        pack = SEQUENCE.pack
        write = WriteBatch()
        put = write.put
        with self._loop_lock:
            sequence = self._next
            for key, value in batch:
                put(key + pack(sequence), value)
                sequence += 1
            self._next = sequence
            self._loop.run_until_complete(self._db.write(write))

    def flush(self) -> None:
        self._group.cover(lambda: self._next)

    def scan(self, key: bytes, start: int = 0, limit: int | None = None) -> Entries:
        return self._wait_for(self._scan(key, start, limit))  # type: ignore[no-any-return]

    async def _scan(self, key: bytes, start: int, limit: int | None) -> Entries:
        size, unpack = len(key), SEQUENCE.unpack_from
        entries: list[tuple[bytes, int, bytes]] = []
        bounds = KeyRange(
            start=key + SEQUENCE.pack(start), start_inclusive=True, end=key + b"\xff" * 9, end_inclusive=False
        )
        rows = await (self._db.scan_with_options(bounds, _scan_options()) if limit is None else self._db.scan(bounds))
        while limit is None or len(entries) < limit:
            wanted = _ROWS_PER_CALL if limit is None else min(_ROWS_PER_CALL, limit - len(entries))
            page = await rows.next_batch(wanted)
            entries += [(key, unpack(row.key, size)[0], row.value) for row in page]
            if len(page) < wanted:
                break
        return entries

    def settle(self) -> None:
        pass

    def close(self) -> None:
        self._sequence_file.save(self._next)
        self._wait_for(self._db.shutdown())
        self._loop.close()


class PatchedSlateStore(SlateStore):
    """The rival a careful binding of the same engine would be."""

    def __init__(self, path: str, *, durable: bool = False) -> None:
        slate_binding.patch()
        super().__init__(path, durable=durable)
