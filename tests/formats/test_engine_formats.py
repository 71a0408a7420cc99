"""The engine's bytes at version 1, kept in annotated files beside this one: what was written must be written and read for ever.

A file's lines are `offset  hex  field`. To add a format, or after raising a version, run
`python -m tests.formats.test_engine_formats`, which writes the files that do not exist yet; it never changes one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from lsm.coding import ENVELOPE, KIND_WAL_DATA, KIND_WAL_FENCE, open_envelope, seal_envelope
from lsm.compaction.completion_markers import decode_marker, encode_marker
from lsm.manifest.codec import decode_manifest, encode_manifest
from lsm.manifest.job_record import JobPart, JobRecord
from lsm.manifest.model import Manifest, Partition, Run
from lsm.object_store.names import wal_name
from lsm.rows.chunk import RowChunk
from lsm.sst.block import SeriesBlock, checksum_seed, decode_rows, encode_rows, encode_series, open_block
from lsm.sst.bloom import Filter, FilterBuilder, digest, digests
from lsm.sst.builder import FOOTER, TableBuilder, TableFormat, TableInfo
from lsm.sst.disk_cache import decode_part, encode_part
from lsm.sst.index import Index, encode_index
from lsm.sst.last_positions import encode_last_positions
from lsm.wal.frames import Frame, decode_frames, encode_frame

HERE = Path(__file__).parent
DATABASE = bytes(range(16))
NONCE = bytes(range(16, 32))
HEADER = [
    (4, "magic"),
    (2, "kind"),
    (2, "version"),
    (16, "database"),
    (8, "number"),
    (8, "epoch"),
    (16, "nonce"),
    (8, "length"),
]
FRAME = [(1, "kind"), (1, "reserved"), (2, "family"), (4, "batches"), (4, "rows"), (8, "seq"), (8, "number")]
ROWS = RowChunk([b"ka", b"ka", b"kbc"], [9, 5, 300], [0, 1, 0], [b"new", b"", b"x"])
SERIES = (b"fam", [b"a", b"b"], [2, 1], [3, 7, 5], [b"one", b"two", b"six"])
MANIFEST = Manifest(
    7,
    DATABASE,
    writer_epoch=3,
    compactor_epoch=3,
    replay_after=12,
    wal_epoch_floor=2,
    last_seq=99,
    gc_horizon=4,
    fences=(1, 9),
    extractor_name="two-bytes",
    partitions=(
        Partition(
            b"p0",
            (TableInfo(2 << 40 | 1, 500, 9, b"p0a", b"p0z", 300, 350, 420),),
            (Run(1, (TableInfo(1 << 40 | 1, 400, 8, b"p0b", b"p0y", 200, 250, 320),)),),
            ((b"p0L", 17),),
        ),
    ),
)
COUNTED = msgspec.structs.replace(
    MANIFEST,
    partitions=(
        Partition(b"p0", (TableInfo(2 << 40 | 1, 500, 9, b"p0a", b"p0z", 300, 350, 420, tombstones=4),)),
        Partition(b"p1", (), (Run(1, (TableInfo(1 << 40 | 1, 400, 8, b"p1b", b"p1y", 200, 250, 320),)),)),
    ),
)
"""With the tables' tombstones, which the first manifests did not count."""
CLAIMED = msgspec.structs.replace(
    COUNTED,
    jobs=(
        JobRecord(
            id=3 << 40 | 9,
            epoch=3,
            prefix=b"p0",
            l0=(2 << 40 | 1,),
            tables=(1 << 40 | 1,),
            target=1,
            is_bottom=True,
            size=900,
            started_ms=1_700_000_000_000,
            where="machine:17",
            parts=(
                JobPart(None, b"p0k", 3 << 40 | 50, 3 << 40 | 60, (TableInfo(8, 100, 2, b"p0a", b"p0b", 50, 60, 90),)),
                JobPart(b"p0k", None, 3 << 40 | 60, 3 << 40 | 70),
            ),
        ),
    ),
)
"""With a compaction that somebody has claimed."""
NOTED = TableInfo(3 << 40 | 50, 500, 9, b"p0a", b"p0z", 300, 350, 420, 2)
NOTED_CONTENT = TableInfo(3 << 40 | 50, 500, 9, b"p0a", b"p0z", 300, 350, 420, 2, 1, 7, (1 << 64) - 3)
HELD = msgspec.structs.replace(MANIFEST, partitions=(Partition(b"p0", (NOTED_CONTENT,)),))
"""With what the tables hold, which earlier manifests did not say."""


def table() -> tuple[TableInfo, bytes]:
    builder = TableBuilder(
        DATABASE, 5, TableFormat(sequence_range_bytes=0, compression=None, filter_bits_per_key=10, min_filter_keys=1)
    )
    builder.add_rows(ROWS)
    builder.add_series(*SERIES)
    info, parts = builder.finish()
    return info, b"".join(parts)


def fence() -> bytes:
    parts = seal_envelope(wal_name(2), KIND_WAL_FENCE, 1, database=DATABASE, number=2, epoch=3, nonce=NONCE, body=[])
    return b"".join(parts)


def wal_object() -> bytes:
    body = [encode_frame(*ROWS_FRAME), encode_frame(*SERIES_FRAME)]
    parts = seal_envelope(wal_name(3), KIND_WAL_DATA, 1, database=DATABASE, number=3, epoch=3, nonce=NONCE, body=body)
    return b"".join(parts)


ROWS_FRAME = (b"", 41, 0, [2], [b"key", b"k"], [0, 1], [b"value", b""])
SERIES_FRAME = (b"fam", 42, 1000, [1, 2], [b"a", b"b", b"a"], (), [b"x", b"yy", b""])
GROUPED = FilterBuilder(10)
GROUPED.add([b"alpha", b"beta", b"gamma"])
GROUPED_FILTER = GROUPED.finish()
INDEX = encode_index([b"a", b"m"], [1, 2], [100, 200], [10, 20])
LASTS = {b"fam" + name + b"\x00": last for name, last in ((b"a", 7), (b"b", 5), (b"c", 300))}
INDEX_SERIES = encode_index(
    [b"fam", b"fan"],
    [2, 2],
    [100, 200],
    [10, 20],
    encode_last_positions(digests(list(LASTS)), list(LASTS.values()), 50),
)
TABLE_INFO, TABLE = table()

FORMATS: dict[str, tuple[bytes, list[tuple[int, str]]]] = {
    "wal_fence": (fence(), [*HEADER, (4, "checksum")]),
    "wal_rows_frame": (
        encode_frame(*ROWS_FRAME),
        [
            *FRAME,
            (9, "counts: constant"),
            (3, "key lengths"),
            (4, "keys"),
            (3, "kinds"),
            (3, "value lengths"),
            (5, "values"),
        ],
    ),
    "wal_series_frame": (
        encode_frame(*SERIES_FRAME),
        [
            *FRAME,
            (3, "family"),
            (3, "counts"),
            (9, "name lengths: constant"),
            (3, "names"),
            (4, "value lengths"),
            (3, "values"),
        ],
    ),
    "wal_object": (wal_object(), HEADER),
    "rows_block": (
        encode_rows(ROWS),
        [
            (4, "rows"),
            (2, "shared length"),
            (1, "shared"),
            (4, "suffix lengths"),
            (4, "suffixes"),
            (7, "seqs"),
            (4, "kinds"),
            (4, "value lengths"),
            (4, "values"),
        ],
    ),
    "series_block": (
        encode_series(*SERIES),
        [
            (4, "groups"),
            (4, "rows"),
            (2, "family length"),
            (3, "family"),
            (9, "name lengths: constant"),
            (2, "names"),
            (3, "counts"),
            (4, "numbers"),
            (9, "value lengths: constant"),
            (9, "values"),
        ],
    ),
    "index": (
        INDEX,
        [(4, "blocks"), (9, "key lengths: constant"), (2, "keys"), (3, "kinds"), (3, "sizes"), (3, "rows")],
    ),
    "index_series": (
        INDEX_SERIES,
        [
            (4, "blocks"),
            (9, "key lengths: constant"),
            (6, "keys"),
            (9, "kinds: constant"),
            (3, "sizes"),
            (3, "rows"),
            (4, "series with an entry"),
            (1, "is whole: no, the budget is for two"),
            (17, "hashes"),
            (3, "last numbers"),
        ],
    ),
    "disk_part": (
        encode_part(DATABASE, "sst/1.sst", 1000, b"a part") + b"a part",
        [
            (4, "magic"),
            (2, "version"),
            (2, "reserved"),
            (16, "database"),
            (8, "offset"),
            (4, "length"),
            (4, "checksum"),
            (6, "part"),
        ],
    ),
    "filter_groups": (
        GROUPED_FILTER,
        [(1, "policy"), (4, "groups"), (9, "first lengths: constant"), (5, "firsts"), (9, "bits: constant")],
    ),
    "table_groups": (
        TABLE,
        [
            (12, "block 0: codec, kind, reserved, length, checksum"),
            (TABLE_INFO.filter_offset - 12, "block 0: payload; block 1"),
            (TABLE_INFO.index_offset - TABLE_INFO.filter_offset, "filter"),
            (TABLE_INFO.index_end - TABLE_INFO.index_offset, "index"),
            (4, "footer: magic"),
            (4, "footer: version, reserved"),
            (16, "footer: database"),
            (40, "footer: number, filter, index, end, rows"),
            (4, "footer: checksum"),
        ],
    ),
    "manifest": (b"".join(encode_manifest(MANIFEST, epoch=3, nonce=NONCE)), HEADER),
    "manifest_tombstones": (b"".join(encode_manifest(COUNTED, epoch=3, nonce=NONCE)), HEADER),
    "manifest_jobs": (b"".join(encode_manifest(CLAIMED, epoch=3, nonce=NONCE)), HEADER),
    "manifest_content": (b"".join(encode_manifest(HELD, epoch=3, nonce=NONCE)), HEADER),
    "note_content": (b"".join(encode_marker(DATABASE, NOTED_CONTENT)), HEADER),
}
FIXED = [name for name in FORMATS if not name.startswith("manifest")]
"""What zstd makes of a manifest may change with its version; only reading it back is promised."""


def annotated(data: bytes, fields: list[tuple[int, str]]) -> str:
    lines = []
    at = 0
    for size, field in [*fields, (len(data), "rest")]:
        part = data[at : at + size]
        if part:
            lines.append(f"{at:6}  {part.hex()}  {field}")
        at += len(part)
    return "\n".join(lines) + "\n"


def golden(name: str) -> bytes:
    text = (HERE / f"{name}_v1.txt").read_text("ascii")
    return bytes.fromhex("".join(line.split()[1] for line in text.splitlines()))


@pytest.mark.parametrize("name", FIXED)
def test_writes_the_bytes_of_version_1(name: str) -> None:
    data, fields = FORMATS[name]

    assert annotated(data, fields) == (HERE / f"{name}_v1.txt").read_text("ascii")


def frames_of(data: bytes, at: int = 0, end: int | None = None) -> list[Frame]:
    return list(decode_frames(data, at, len(data) if end is None else end, name="golden"))


def plain(frame: Frame) -> tuple[object, ...]:
    return (frame.family, frame.seq, frame.number, list(frame.counts), frame.keys, list(frame.kinds), frame.values)


def as_read(frame: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(list(part) if isinstance(part, tuple) else part for part in frame)


def check_rows(data: bytes) -> None:
    chunk = decode_rows(data, name="golden", offset=0)
    assert [list(chunk.keys), list(chunk.seqs), list(chunk.kinds), list(chunk.values)] == [
        ROWS.keys,
        ROWS.seqs,
        ROWS.kinds,
        ROWS.values,
    ]


def check_series(data: bytes) -> None:
    chunk = SeriesBlock(data, name="golden", offset=0).chunk()
    assert (chunk.family, list(chunk.names), list(chunk.counts), list(chunk.positions), list(chunk.values)) == SERIES


def check_envelope(data: bytes, name: str, kind: int, number: int) -> int:
    found = open_envelope(name, data, kinds=(kind,), versions=1, number=number, database=DATABASE)
    assert (found.epoch, found.nonce) == (3, NONCE)
    return found.end


def check_wal(data: bytes) -> None:
    end = check_envelope(data, wal_name(3), KIND_WAL_DATA, 3)
    assert [plain(frame) for frame in frames_of(data, ENVELOPE.size, end)] == [
        as_read(ROWS_FRAME),
        as_read(SERIES_FRAME),
    ]


def check_filter(data: bytes) -> None:
    found = Filter(data, name="golden", offset=0)
    assert [found.may_contain(item) for item in (b"alpha", b"beta", b"gamma", b"delta")] == [True, True, True, False]


def check_index(data: bytes) -> None:
    index = Index(data, name="golden", offset=0)
    assert (index.keys, list(index.kinds), index.offsets, index.rows_before) == (
        [b"a", b"m"],
        [1, 2],
        [0, 100, 300],
        [0, 10, 30],
    )


def check_index_series(data: bytes) -> None:
    found = Index(data, name="golden", offset=0).last_positions
    assert found is not None
    assert not found.is_whole
    reached = {name: [low for low in (5, 6, 7, 8, 301) if found.may_reach(digest(name), low)] for name in LASTS}
    assert list(reached.values()) == [[5, 6, 7], [5], [5, 6, 7, 8, 301]]


def check_table(data: bytes, index_offset: int = 132, index_end: int = 181) -> None:
    kind, payload = open_block(
        data[index_offset:index_end],
        seed=checksum_seed(DATABASE, TABLE_INFO.name),
        name=TABLE_INFO.name,
        offset=index_offset,
    )
    assert kind == 3
    assert Index(payload, name="golden", offset=0).rows_before == [0, 3, 6]


def check_footer(data: bytes, offsets: tuple[int, int, int] = (107, 132, 181)) -> None:
    fields = FOOTER.unpack_from(data)
    assert fields[:3] == (b"LSMT", 1, 0)
    assert fields[4:] == (5, *offsets, 6)


def check_table_groups(data: bytes) -> None:
    check_table(data, TABLE_INFO.index_offset, TABLE_INFO.index_end)
    check_footer(
        data[TABLE_INFO.index_end :], (TABLE_INFO.filter_offset, TABLE_INFO.index_offset, TABLE_INFO.index_end)
    )


CHECKS: dict[str, Callable[[bytes], object]] = {
    "wal_fence": lambda data: check_envelope(data, wal_name(2), KIND_WAL_FENCE, 2),
    "wal_rows_frame": lambda data: _equal([plain(each) for each in frames_of(data)], [as_read(ROWS_FRAME)]),
    "wal_series_frame": lambda data: _equal([plain(each) for each in frames_of(data)], [as_read(SERIES_FRAME)]),
    "wal_object": check_wal,
    "rows_block": check_rows,
    "series_block": check_series,
    "index": check_index,
    "index_series": check_index_series,
    "filter": check_filter,
    "filter_groups": check_filter,
    "table": check_table,
    "table_groups": check_table_groups,
    "table_footer": check_footer,
    "disk_part": lambda data: _equal(decode_part(DATABASE, "sst/1.sst", 1000, 6, data), b"a part"),
    "manifest": lambda data: _equal(decode_manifest(data, number=7, database=DATABASE), MANIFEST),
    "manifest_tombstones": lambda data: _equal(decode_manifest(data, number=7, database=DATABASE), COUNTED),
    "manifest_jobs": lambda data: _equal(decode_manifest(data, number=7, database=DATABASE), CLAIMED),
    "manifest_content": lambda data: _equal(decode_manifest(data, number=7, database=DATABASE), HELD),
    "note": lambda data: _equal(decode_marker(data, number=3 << 40 | 50, database=DATABASE), NOTED),
    "note_content": lambda data: _equal(decode_marker(data, number=3 << 40 | 50, database=DATABASE), NOTED_CONTENT),
}


def _equal(found: object, expected: object) -> None:
    assert found == expected


@pytest.mark.parametrize("name", CHECKS)
def test_reads_the_bytes_of_version_1(name: str) -> None:
    CHECKS[name](golden(name))


if __name__ == "__main__":
    for _name, (_data, _fields) in FORMATS.items():
        _path = HERE / f"{_name}_v1.txt"
        if not _path.exists():
            _path.write_text(annotated(_data, _fields), "ascii")
            print(_path)
