"""Every decoder of stored bytes: valid samples, the decoder with what its callers do next, and how to make checksums true.

A `Decoder` is fed twice: with damaged samples as they are, where it must give what the sample held or CorruptionError, and
with the same damage under checksums that hold, so that the bytes reach the parser; there any answer of the right kind will do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lsm.audit.tables import _footer_problem
from lsm.coding import (
    CHECKSUM,
    ENVELOPE,
    KIND_MANIFEST,
    KIND_NOTE,
    KIND_WAL_DATA,
    KIND_WAL_FENCE,
    seal_envelope,
)
from lsm.compaction.completion_markers import decode_marker, encode_marker
from lsm.errors import CorruptionError
from lsm.manifest.checkpoint import Checkpoint, Parent
from lsm.manifest.codec import MANIFEST_VERSION, decode_manifest, encode_manifest
from lsm.manifest.model import Manifest
from lsm.native import zstd
from lsm.native.checksum import crc32c
from lsm.object_store import MemoryStore
from lsm.object_store.names import manifest_name, marker_name, table_name, wal_name
from lsm.object_store.reliable import ReliableStore
from lsm.rows.chunk import RowChunk
from lsm.rows.kind import KNOWN_KINDS
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime
from lsm.sst.block import (
    KIND_ROWS,
    KIND_SERIES,
    BlockSealer,
    SeriesBlock,
    checksum_seed,
    encode_rows,
    encode_series,
    open_block,
)
from lsm.sst.bloom import Filter, FilterBuilder, digest, digests
from lsm.sst.builder import FOOTER, FOOTER_MAGIC, TABLE_VERSION, TableInfo
from lsm.sst.disk_cache import HEADER as PART_HEADER
from lsm.sst.disk_cache import decode_part, encode_part
from lsm.sst.index import KIND_FILTER, KIND_INDEX, Index, encode_index
from lsm.sst.last_positions import encode_last_positions
from lsm.sst.table import decode_block, weight_of
from lsm.wal.frames import WAL_VERSION, Frame, encode_frame, encode_mark
from lsm.wal.replay import apply_frames, read_wal_object
from opendata_log.model import keys
from tests.formats.test_engine_formats import CLAIMED, COUNTED, DATABASE, MANIFEST, NONCE, ROWS, SERIES

NUMBER = MANIFEST.number
OFFSET = 4096
NAME = table_name(NUMBER)
SEED = checksum_seed(DATABASE, NAME)
WIDE = RowChunk(
    [b"key-%03d" % at for at in range(60)], list(range(900, 960)), [0] * 60, [bytes(at) for at in range(60)]
)


@dataclass(frozen=True)
class Decoder:
    name: str
    samples: Sequence[bytes]
    decode: Callable[[bytes], Any]
    """The decoded value, in a form that can be compared."""
    reseal: Callable[[bytes], bytes] | None = None
    """The same bytes with valid checksums; None if there are no checksums."""


# -- objects in an envelope -------------------------------------------------------------------------------------------------


def resealed(name: str) -> Callable[[bytes], bytes]:
    def reseal(data: bytes) -> bytes:
        body = data[: -CHECKSUM.size]
        if len(body) >= ENVELOPE.size:  # The length is a checksum, too: half of the cases get past it.
            body = body[: ENVELOPE.size - 8] + (len(body) - ENVELOPE.size).to_bytes(8, "little") + body[ENVELOPE.size :]
        return body + CHECKSUM.pack(crc32c(body, crc32c(name.encode())))

    return reseal


def enveloped(name: str, kind: int, version: int, body: bytes) -> bytes:
    return b"".join(
        seal_envelope(name, kind, version, database=DATABASE, number=NUMBER, epoch=3, nonce=NONCE, body=[body])
    )


def manifest_in_frames(body: bytes) -> bytes:
    """MessagePack, compressed and sealed."""
    packed = zstd.compressor(1)(body)
    return enveloped(manifest_name(NUMBER), KIND_MANIFEST, MANIFEST_VERSION, packed)


def read_manifest(data: bytes) -> Any:
    return decode_manifest(data, number=NUMBER, database=DATABASE)


def read_log_object(data: bytes) -> Any:
    store = MemoryStore()
    store._objects[wal_name(NUMBER)] = data
    runtime = Runtime()
    found = read_wal_object(ReliableStore(store, runtime, op_timeout=1.0, request_timeout=1.0), NUMBER, DATABASE)
    assert found is not None
    assert all(set(frame.kinds).issubset(KNOWN_KINDS) for frame in found.frames)
    apply_frames(Memtable(runtime), found.frames, after_seq=0)
    return (found.number, found.epoch, found.is_fence, found.durable_through, [fields_of(one) for one in found.frames])


def fields_of(frame: Frame) -> Any:
    return [part if isinstance(part, bytes | int) else list(part) for part in msgspec.structs.astuple(frame)]


FRAMES = [
    encode_mark(3) + encode_frame(b"", 5, 0, [2, 1], [b"a", b"bb", b"c"], [0, 1, 0], [b"x", b"", b"zz"]),
    encode_mark(0)
    + encode_frame(b"p0L", 1, 10, [1] * 40, [b"name-%d" % (at % 7) for at in range(40)], (), [b"v"] * 40),
    encode_mark(9) + encode_frame(b"p0L", 1, 0, [3], [b"a", b"b", b"c"], (), [b"1", b"22", b"333"]) * 2,
    encode_mark(9),
]
NOTES = [TableInfo(NUMBER, 500, 9, b"p0a", b"p0z", 300, 350, 420), TableInfo(NUMBER, 1, 1, b"", b"", 0, 0, 1, 4, 7, 99)]

# -- parts of tables --------------------------------------------------------------------------------------------------------


def sealed_block(kind: int, compression: str | None = None) -> Callable[[bytes], bytes]:
    def seal(payload: bytes) -> bytes:
        return BlockSealer(SEED, compression=compression, level=1).seal(payload, kind, OFFSET)

    return seal


def reseal_block(data: bytes) -> bytes:
    if len(data) < 12:
        return data
    return BlockSealer(SEED, compression=None, level=1).reseal(data, OFFSET)


def read_block(data: bytes) -> Any:
    kind, payload = open_block(data, seed=SEED, name=NAME, offset=OFFSET)
    if kind == KIND_INDEX:
        return read_index(payload)
    if kind == KIND_FILTER:
        return read_filter(payload)
    block = decode_block(kind, payload, name=NAME, offset=OFFSET)
    weight = weight_of(block)
    assert weight > 0
    if isinstance(block, SeriesBlock):
        whole = block.chunk()
        for name in [*block.names[:20], b"none"]:
            start, end = block.find(block.family, name, 4, 1 << 40)
            block.values(start, end)
        return (whole.family, whole.names, list(whole.counts), list(whole.positions), whole.values)
    assert set(block.kinds).issubset(KNOWN_KINDS)
    block.clip(b"k", b"z")
    return (block.keys, list(block.seqs), list(block.kinds), block.values)


def read_index(payload: bytes) -> Any:
    index = Index(payload, name=NAME, offset=OFFSET)
    assert index.weight > 0
    assert set(index.kinds) <= {KIND_ROWS, KIND_SERIES}
    assert len(index.offsets) == len(index) + 1 == len(index.rows_before)
    index.blocks_for(b"b", b"k")
    index.blocks_for(None, None)
    ends = index.last_positions
    if ends is not None:
        ends.may_reach(digest(b"none"), 4)
    return (index.keys, list(index.kinds), index.offsets, index.rows_before, ends is not None and len(ends))


def read_filter(payload: bytes) -> Any:
    found = Filter(payload, name=NAME, offset=OFFSET)
    assert found.weight > 0
    return [found.may_contain(b"item-%d" % at) for at in range(40)]


def filter_of(items: int) -> bytes:
    builder = FilterBuilder(10)
    builder.add([b"item-%d" % at for at in range(items)])
    return builder.finish()


INDEXES = [
    encode_index([b"a", b"k"], [1, 2], [100, 90], [10, 12]),
    encode_index(
        [b"a", b"k"], [1, 2], [100, 90], [10, 12], encode_last_positions(digests([b"x", b"y"]), [9, 12], 1000)
    ),
    encode_index([b"key-%d" % at for at in range(30)], [2] * 30, [77] * 30, [5] * 30),
]
SERIES_BLOCKS = [
    encode_series(*SERIES),
    encode_series(b"fam", [b"n%02d" % at for at in range(20)], [3] * 20, list(range(60)), [b"same!"] * 60),
    encode_series(b"fam", [b"one"], [50], list(range(1000, 1050)), [bytes(at) for at in range(50)]),
]
BLOCKS = [
    *((1, encode_rows(chunk)) for chunk in (ROWS, WIDE)),
    *((2, payload) for payload in SERIES_BLOCKS),
    *((KIND_INDEX, payload) for payload in INDEXES),
    *((KIND_FILTER, payload) for payload in (filter_of(3), filter_of(40))),
]


def footer(rows: int) -> bytes:
    packed = FOOTER.pack(FOOTER_MAGIC, TABLE_VERSION, 0, DATABASE, NUMBER, 300, 350, 420, rows)
    return packed + CHECKSUM.pack(crc32c(packed, crc32c(NAME.encode())))


def read_footer(data: bytes) -> Any:
    table = TableInfo(NUMBER, 420 + FOOTER.size + CHECKSUM.size, 9, b"a", b"z", 300, 350, 420)
    problem = _footer_problem(data, table, DATABASE)
    if problem is not None:
        raise CorruptionError(problem, object_name=NAME)
    return True


def reseal_footer(data: bytes) -> bytes:
    return data[: FOOTER.size] + CHECKSUM.pack(crc32c(data[: FOOTER.size], crc32c(NAME.encode())))


# -- parts in the disk cache ------------------------------------------------------------------------------------------------

PART = random.Random(5).randbytes(200)


def read_part(data: bytes) -> Any:
    found = decode_part(DATABASE, NAME, 0, len(PART), data)
    return bytes(found) if found is not None else None


def reseal_part(data: bytes) -> bytes:
    return encode_part(DATABASE, NAME, 0, data[PART_HEADER.size :]) + data[PART_HEADER.size :]


# -- the log's rows ---------------------------------------------------------------------------------------------------------

MARK = keys.TimeMark(17, 1_000, 2_000)


def read_mark(data: bytes) -> Any:
    return keys.TimeMark.decode(data[: len(keys.time_mark_key(0))], data[len(keys.time_mark_key(0)) :])


def read_key(data: bytes) -> Any:
    keys.parse_routing_prefix(data)
    keys.segment_of_prefix(data)
    family = keys.LogSeries().family(data)
    if family is not None:
        keys.LogSeries().directory(family)
    return keys.parse_segment_meta_key(data)


def manifest_body(manifest: Manifest) -> bytes:
    return msgspec.msgpack.encode(manifest)


def through(wrap: Callable[[bytes], bytes], decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A decoder of bytes below a compression or a checksum."""
    return lambda data: decode(wrap(data))


KEPT = msgspec.structs.replace(
    CLAIMED,
    checkpoints=(Checkpoint("0" * 32, 5, 3, 9, 1_700_000_000_000, 60_000, 1_700_000_060_000, "nightly", 2),),
    parents=(Parent(bytes(16), "file:///parent", "1" * 32, (1 << 40 | 1, 2 << 40 | 1)),),
)
"""With a claim, a checkpoint and a parent."""
MANIFESTS = (MANIFEST, COUNTED, CLAIMED, KEPT)
DECODERS = [
    Decoder(
        "manifest",
        [b"".join(encode_manifest(each, epoch=3, nonce=NONCE)) for each in MANIFESTS],
        read_manifest,
        resealed(manifest_name(NUMBER)),
    ),
    Decoder(
        "manifest, inside",
        [manifest_body(each) for each in MANIFESTS],
        through(manifest_in_frames, read_manifest),
        bytes,
    ),
    Decoder(
        "log object",
        [
            *(enveloped(wal_name(NUMBER), KIND_WAL_DATA, WAL_VERSION, body) for body in FRAMES),
            enveloped(wal_name(NUMBER), KIND_WAL_FENCE, WAL_VERSION, FRAMES[-1]),
        ],
        read_log_object,
        resealed(wal_name(NUMBER)),
    ),
    Decoder(
        "note",
        [b"".join(encode_marker(DATABASE, each)) for each in NOTES],
        lambda data: decode_marker(data, number=NUMBER, database=DATABASE),
        resealed(marker_name(NUMBER)),
    ),
    Decoder(
        "note, inside",
        [msgspec.msgpack.encode(each) for each in NOTES],
        through(
            lambda body: enveloped(marker_name(NUMBER), KIND_NOTE, 1, body),
            lambda data: decode_marker(data, number=NUMBER, database=DATABASE),
        ),
        bytes,
    ),
    Decoder("block", [sealed_block(kind)(payload) for kind, payload in BLOCKS], read_block, reseal_block),
    Decoder("compressed block", [sealed_block(kind, "zstd")(data) for kind, data in BLOCKS], read_block, reseal_block),
    Decoder("rows block, inside", [encode_rows(ROWS), encode_rows(WIDE)], through(sealed_block(1), read_block), bytes),
    Decoder("series block, inside", SERIES_BLOCKS, through(sealed_block(2), read_block), bytes),
    Decoder("index, inside", INDEXES, through(sealed_block(KIND_INDEX), read_block), bytes),
    Decoder("filter, inside", [filter_of(3), filter_of(40)], through(sealed_block(KIND_FILTER), read_block), bytes),
    Decoder("footer", [footer(9)], read_footer, reseal_footer),
    Decoder("cached part", [encode_part(DATABASE, NAME, 0, PART) + PART], read_part, reseal_part),
    Decoder("sequence block", [keys.SeqBlock(5, 100).encode()], keys.SeqBlock.decode),
    Decoder("segment metadata", [keys.SegmentMeta(5, 1_700_000_000_000).encode()], keys.SegmentMeta.decode),
    Decoder("segment metadata key", [keys.segment_meta_key(7)], read_key),
    Decoder("seal mark", [keys.encode_seal_mark(9)], keys.decode_seal_mark),
    Decoder("time mark", [keys.time_mark_key(MARK.sequence) + MARK.encode()], read_mark),
]
