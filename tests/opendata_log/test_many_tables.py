"""A log of a thousand segments and ten thousand tables: what it costs to open it and to commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

import lsm
from lsm.manifest.codec import decode_manifest, encode_manifest
from lsm.manifest.model import Partition, Run
from lsm.object_store.names import manifest_name
from lsm.sst.builder import TableInfo
from opendata_log.log_db import LogDb
from opendata_log.model.keys import (
    SEQ_BLOCK_KEY,
    LogPartitions,
    LogSeries,
    SegmentMeta,
    SeqBlock,
    entry_family,
    routing_prefix,
    segment_meta_key,
)

SEGMENTS, TABLES = 1000, 10


def log_of_many_segments(root: Path) -> None:
    """The system segment is real; the tables of the others are named in the manifest and stored nowhere."""
    components: dict[str, Any] = {"prefix_extractor": LogPartitions(), "series_layout": LogSeries()}
    with lsm.Db.open(root, **components) as db:
        for segment in range(1, SEGMENTS + 1):
            db.put(segment_meta_key(segment), SegmentMeta(segment * 100, segment).encode())
        db.put(SEQ_BLOCK_KEY, SeqBlock((SEGMENTS + 1) * 100, 0).encode())
        db.flush(lsm.FlushType.MEMTABLE)
    with lsm.Admin(root) as admin:
        newest = admin.read_manifest().number
    stored = root / manifest_name(newest)
    manifest = decode_manifest(stored.read_bytes(), number=newest, database=None)
    for segment in range(1, SEGMENTS + 1):
        prefix = routing_prefix(segment)
        tables = tuple(
            TableInfo(
                segment * TABLES + at, 10_000, 100, prefix + b"\x10k%02da" % at, prefix + b"\x10k%02dz" % at, 5, 6, 7
            )
            for at in range(TABLES)
        )
        manifest = manifest.with_partition(Partition(prefix, (), (Run(1, tables),), ((entry_family(segment), 100),)))
    manifest = msgspec.structs.replace(manifest, writer_epoch=5, compactor_epoch=5)
    manifest.check()
    stored.write_bytes(b"".join(encode_manifest(manifest, epoch=5, nonce=b"n" * 16)))


def test_opens_in_twelve_requests(tmp_path: Path) -> None:
    log_of_many_segments(tmp_path)

    with LogDb.open(storage=str(tmp_path), engine=lsm.Settings(compaction_enabled=False, gc_interval=None)) as log:
        requests = {cause: each.requests for cause, each in log.status().requests.items()}
        requests.pop(("put", "wal"), None)  # The first sequences are reserved beside, by a background thread.
        assert len(log.list_segments()) == SEGMENTS
        assert sum(requests.values()) <= 12, requests
        log.try_append([(b"key", b"value")])
        log.flush()
