"""Write walk, after `write/writer`: the segments of an open log, when the next one begins, and how old ones are retired.

docs/protocol.md, rules S2, S3, S5 and S7.
"""

from __future__ import annotations

import lsm
from opendata_log.maintain.policy import LiveSegments
from opendata_log.model.config import SegmentConfig
from opendata_log.model.keys import (
    LAST_RETIRED_KEY,
    SEAL_MARK_KEY,
    SEGMENT_META_PREFIX,
    SegmentMeta,
    decode_seal_mark,
    encode_seal_mark,
    entry_family,
    segment_meta_key,
)
from opendata_log.model.record import Segment, SegmentId, Sequence
from opendata_log.model.segment import SealPolicy, SegmentTable, last_retired, successor
from opendata_log.write.clock import LogClock


class LogSegments:
    """The active segment and those before it. Requires: the log's write lock around every call but `announce_retired`."""

    def __init__(
        self, db: lsm.Db, runtime: lsm.Runtime, clock: LogClock, config: SegmentConfig, live: LiveSegments
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._clock = clock
        self._policy = SealPolicy(config)
        self._may_seal_by_itself = config.seal_interval is not None or config.seal_byte_limit is not None
        self._live = live
        self._retired: tuple[lsm.WriteHandle, SegmentId] | None = None
        self.table = SegmentTable.stored(db.scan_prefix(SEGMENT_META_PREFIX))
        """A value that is replaced, so reads take it without a lock."""
        self._last_retired = last_retired(db)
        live.load(self.table, self._last_retired)
        self._sealed_by_hand = self._stored_seal_mark()
        self.family = b""
        """The family of the active segment; empty where the next append begins a segment."""
        self.start: Sequence = 0
        """The first sequence of the active segment."""
        self._adopt(self.table.latest)
        self.active_bytes = 0
        """Bytes of keys and values that this handle has appended to the active segment."""
        self._active_since = runtime.monotonic()

    def _stored_seal_mark(self) -> SegmentId:
        """The latest segment's id if it was sealed by hand, else 0. A stored mark of an older segment has no effect."""
        value = self._db.get(SEAL_MARK_KEY)
        latest = self.table.latest
        marked = decode_seal_mark(value) if value is not None else 0
        return marked if latest is not None and latest.id == marked else 0

    def _adopt(self, segment: Segment | None) -> None:
        if segment is not None:
            self.family = entry_family(segment.id)
            self.start = segment.start_seq

    def needs_new(self, now_ms: int) -> bool:
        """Whether the next batch begins a segment."""
        if not self.family:
            return True
        if self._sealed_by_hand:
            return True
        if not self._may_seal_by_itself:
            return False
        return self._policy.is_due(
            self.table.latest,
            now_ms=now_ms,
            active_bytes=self.active_bytes,
            held_ms=0 if self._clock.is_driven else int(1000 * (self._runtime.monotonic() - self._active_since)),
        )

    def begin(self, first: Sequence, keys: list[bytes], values: list[bytes]) -> int:
        """Write a segment's metadata and its first batch atomically; returns the number of the engine's batch."""
        segment = successor(
            self.table.latest, start_seq=first, now_ms=self._clock.start_ms(), last_retired=self._last_retired
        )
        meta = SegmentMeta(segment.start_seq, segment.start_time_ms)
        self._live.begin(segment.id)
        batch = lsm.WriteBatch().put(segment_meta_key(segment.id), meta.encode())
        batch.append_series(entry_family(segment.id), keys, 0, values)
        seq = self._db.write_at_once(batch).seqnum
        self.table = self.table.adding(segment)
        self._adopt(segment)
        self.active_bytes = 0
        self._active_since = self._runtime.monotonic()
        self._sealed_by_hand = 0
        return seq

    def seal(self) -> SegmentId:
        """Seal the active segment and return its id. The next append starts another segment, also after a reopen.

        Where retention deleted all segments, returns the id of the last one; 0 where nothing was ever appended. Sealing a
        sealed segment changes nothing.
        """
        latest = self.table.latest
        if latest is None:
            return self._last_retired
        if self._sealed_by_hand != latest.id:
            self._db.write_at_once(lsm.WriteBatch().put(SEAL_MARK_KEY, encode_seal_mark(latest.id)))
            self._sealed_by_hand = latest.id
        return latest.id

    def retire(self, segment_id: SegmentId, *, is_quiet: bool) -> None:
        """Hide the segments up to and including `segment_id` from every read. Raises: lsm.Error.

        Nothing is hidden where the latest segment is among them and `is_quiet` is False.
        """
        batch = lsm.WriteBatch()
        latest = self.table.latest
        is_all = latest is None or segment_id >= latest.id
        if is_all:
            if not is_quiet:
                return
            batch.put(LAST_RETIRED_KEY, encode_seal_mark(segment_id))  # In the same batch: rule S7.
        for segment in self.table.between(None, segment_id + 1):
            batch.delete(segment_meta_key(segment.id))
        self._retired = self._db.write_at_once(batch), segment_id + 1
        self.table = self.table.dropping_through(segment_id)
        if is_all:
            self._last_retired = segment_id
            self.family = b""

    def announce_retired(self) -> bool:
        """Wait until the last `retire` is durable, then let the compaction drop the retired segments. False where that is done
        already. Raises: lsm.Error; then call again."""
        if self._retired is None:
            return False
        handle, oldest = self._retired
        handle.await_durable()
        self._live.expire(oldest)
        self._retired = None
        return True
