"""Keys: golden bytes, byte order, and decoders that refuse what they did not write."""

import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsm.rows.chunk import series_prefix
from opendata_log.model import keys
from opendata_log.model.errors import CorruptionError
from opendata_log.model.keys import LogPartitions, LogSeries, RecordType, SegmentMeta, SeqBlock, TimeMark

GOLDEN = Path(__file__).parents[2] / "formats" / "log_keys_v1.txt"

segment_ids = st.integers(0, keys.SEGMENT_ID_MAX)
sequences = st.integers(0, keys.SEQUENCE_MAX)
user_keys = st.binary(min_size=1, max_size=20) | st.lists(
    st.sampled_from([b"\x00", b"\x01", b"\x02", b"\xfe", b"\xff", b"a"]), min_size=1, max_size=8
).map(b"".join)


def entry_key(segment_id: int, key: bytes, relative_seq: int) -> bytes:
    """A whole log entry key: our family and the engine's half."""
    return series_prefix(keys.entry_family(segment_id), key) + relative_seq.to_bytes(8, "big")


def golden() -> list[tuple[str, bytes, list[str]]]:
    """The file's blocks as (title, bytes, field names); offsets are checked on the way."""
    blocks: list[tuple[str, bytes, list[str]]] = []
    for line in GOLDEN.read_text("utf-8").splitlines():
        if line.startswith("== "):
            blocks.append((line[3:], b"", []))
        elif line and not line.startswith("#"):
            found = re.fullmatch(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} )*[0-9a-f]{2}) +(\S.*)", line)
            assert found is not None, line
            title, data, names = blocks[-1]
            assert int(found[1], 16) == len(data), line
            blocks[-1] = (title, data + bytes.fromhex(found[2]), [*names, found[3].split(" (")[0]])
    return blocks


WRITTEN = {
    "log entry key: segment 7, key 61 00 01 ff, relative_seq 258": entry_key(7, b"a\x00\x01\xff", 258),
    "listing entry key: segment 7, key 61 00 01 ff": keys.listing_prefix(7) + b"a\x00\x01\xff",
    "sequence block key": keys.SEQ_BLOCK_KEY,
    "sequence block value: 4096 sequences from 8192": SeqBlock(8192, 4096).encode(),
    "segment metadata key: of segment 258": keys.segment_meta_key(258),
    "segment metadata value: starts with 12345 at 1700000000000": SegmentMeta(12345, 1_700_000_000_000).encode(),
    "segment metadata value: starts with 1 at -1": SegmentMeta(1, -1).encode(),
    "time mark key: of sequence 258": keys.time_mark_key(258),
    "time mark value: before 1700000000000, until 1700000005000": TimeMark(
        258, 1_700_000_000_000, 1_700_000_005_000
    ).encode(),
}


@pytest.mark.parametrize(("title", "data", "names"), golden(), ids=[block[0] for block in golden()])
def test_bytes_are_the_golden_ones(title: str, data: bytes, names: list[str]) -> None:
    assert WRITTEN[title] == data


def test_every_written_kind_has_golden_bytes() -> None:
    assert sorted(WRITTEN) == sorted(block[0] for block in golden())


def test_golden_fields_are_the_ones_the_docstring_draws() -> None:
    assert keys.__doc__ is not None
    for name in {name for _, _, names in golden() for name in names} - {"terminator"}:
        assert name in keys.__doc__


def test_golden_values_decode() -> None:
    found = {title: data for title, data, _ in golden()}

    assert SeqBlock.decode(found["sequence block value: 4096 sequences from 8192"]) == SeqBlock(8192, 4096)
    assert keys.parse_segment_meta_key(found["segment metadata key: of segment 258"]) == 258
    assert SegmentMeta.decode(found["segment metadata value: starts with 1 at -1"]) == SegmentMeta(1, -1)
    mark = found["time mark key: of sequence 258"], found["time mark value: before 1700000000000, until 1700000005000"]
    assert TimeMark.decode(*mark) == TimeMark(258, 1_700_000_000_000, 1_700_000_005_000)


@given(st.tuples(segment_ids, user_keys, sequences), st.tuples(segment_ids, user_keys, sequences))
def test_entry_keys_sort_by_segment_then_user_key_then_sequence(
    one: tuple[int, bytes, int], other: tuple[int, bytes, int]
) -> None:
    assert (entry_key(*one) < entry_key(*other)) == (one < other)


@given(segment_ids, user_keys, user_keys)
def test_no_series_prefix_is_a_prefix_of_another(segment_id: int, one: bytes, other: bytes) -> None:
    family = keys.entry_family(segment_id)

    assert series_prefix(family, one).startswith(series_prefix(family, other)) == (one == other)


@given(segment_ids, segment_ids, user_keys, user_keys)
def test_segments_are_contiguous_whatever_the_record_type(low: int, high: int, one: bytes, other: bytes) -> None:
    if low == high:
        return
    low, high = sorted((low, high))

    assert keys.listing_prefix(low) + one < entry_key(high, other, 0)
    assert keys.listing_prefix(low) + one < keys.routing_prefix(high)


@given(st.integers(1, keys.SEGMENT_ID_MAX), st.integers(1, keys.SEGMENT_ID_MAX))
def test_metadata_keys_sort_by_the_segment_they_describe(one: int, other: int) -> None:
    assert (keys.segment_meta_key(one) < keys.segment_meta_key(other)) == (one < other)
    assert keys.parse_segment_meta_key(keys.segment_meta_key(one)) == one
    assert keys.segment_meta_key(one).startswith(keys.SEGMENT_META_PREFIX)


@given(segment_ids, user_keys, sequences)
def test_every_key_of_a_segment_routes_to_its_prefix(segment_id: int, key: bytes, sequence: int) -> None:
    partitions = LogPartitions()

    for found in (entry_key(segment_id, key, sequence), keys.listing_prefix(segment_id) + key):
        assert partitions.prefix(found) == keys.routing_prefix(segment_id)
    assert len(keys.routing_prefix(segment_id)) == keys.ROUTING_PREFIX_BYTES == 6
    assert partitions.prefix(keys.SEQ_BLOCK_KEY) == keys.routing_prefix(keys.SYSTEM_SEGMENT_ID)
    assert partitions.prefix(keys.segment_meta_key(5)) == keys.routing_prefix(keys.SYSTEM_SEGMENT_ID)


@given(segment_ids, user_keys, sequences)
def test_only_log_entries_belong_to_a_series_family(segment_id: int, key: bytes, sequence: int) -> None:
    series = LogSeries()

    family = series.family(entry_key(segment_id, key, sequence))

    assert family == keys.entry_family(segment_id)
    assert series.directory(family) == keys.listing_prefix(segment_id)
    assert series.family(keys.listing_prefix(segment_id) + key) is None


@pytest.mark.parametrize(
    "key", [b"", b"\x03", keys.SEQ_BLOCK_KEY, keys.segment_meta_key(1), keys.routing_prefix(1), b"\x02\x01\0\0\0\1\x10"]
)
def test_other_keys_belong_to_no_family(key: bytes) -> None:
    assert LogSeries().family(key) is None


def test_layouts_have_stored_names_and_can_be_pickled() -> None:
    assert LogPartitions().name == "opendata-log/segments/1"
    assert LogSeries().name == "opendata-log/entries/1"
    assert pickle.loads(pickle.dumps(LogSeries())).family(entry_key(1, b"k", 0)) == keys.entry_family(1)
    assert pickle.loads(pickle.dumps(LogPartitions())).prefix(entry_key(1, b"k", 0)) == keys.routing_prefix(1)


def test_record_types_keep_their_numbers() -> None:
    assert {kind.name: kind.value for kind in RecordType} == {
        "LOG_ENTRY": 0x10,
        "SEQ_BLOCK": 0x20,
        "SEGMENT_META": 0x30,
        "LISTING_ENTRY": 0x40,
        "SEAL_MARK": 0x50,
        "TIME_MARK": 0x60,
    }


@given(st.integers(0, 2**63), st.integers(1, 2**62))
def test_sequence_blocks_survive_storage(base: int, size: int) -> None:
    block = SeqBlock(base, size)

    assert SeqBlock.decode(block.encode()) == block
    assert block.end == base + size


@given(sequences, st.integers(-(2**63), 2**63 - 1))
def test_segment_metadata_survives_storage(start_seq: int, start_time_ms: int) -> None:
    meta = SegmentMeta(start_seq, start_time_ms)

    assert SegmentMeta.decode(meta.encode()) == meta


@given(st.binary(max_size=40).filter(lambda data: len(data) != 16))
def test_values_of_another_length_are_corrupt(data: bytes) -> None:
    for decode in (SeqBlock.decode, SegmentMeta.decode):
        with pytest.raises(CorruptionError) as caught:
            decode(data)
        assert caught.value.object_name
        assert caught.value.offset <= len(data)


@given(sequences, st.integers(-(2**63), 2**63 - 2), st.integers(1, 2**63))
def test_time_marks_survive_storage_and_sort_by_sequence(sequence: int, before_ms: int, length: int) -> None:
    mark = TimeMark(sequence, before_ms, min(before_ms + length, 2**63 - 1))
    key = keys.time_mark_key(sequence)

    assert TimeMark.decode(key, mark.encode()) == mark
    assert key.startswith(keys.TIME_MARK_PREFIX)
    assert keys.time_mark_key(sequence // 2) <= key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (keys.time_mark_key(1)[:-1], TimeMark(1, 0, 1).encode()),
        (keys.time_mark_key(1), TimeMark(1, 0, 1).encode() + b"\0"),
        (keys.time_mark_key(1), TimeMark(1, 1, 1).encode()),
    ],
)
def test_impossible_time_marks_are_corrupt(key: bytes, value: bytes) -> None:
    with pytest.raises(CorruptionError, match="time mark"):
        TimeMark.decode(key, value)


@pytest.mark.parametrize("block", [SeqBlock(2**64 - 1, 1), SeqBlock(2**63, 2**64 - 1)])
def test_impossible_sequence_blocks_are_corrupt(block: SeqBlock) -> None:
    with pytest.raises(CorruptionError):
        SeqBlock.decode(block.encode())


@pytest.mark.parametrize(
    ("key", "offset"),
    [
        (b"", 0),
        (keys.SEQ_BLOCK_KEY, 7),
        (keys.segment_meta_key(1) + b"\0", 12),
        (b"\x02" + keys.segment_meta_key(1)[1:], 0),
        (b"\x03\x02" + keys.segment_meta_key(1)[2:], 1),
        (keys.segment_meta_key(1)[:5] + b"\x01" + keys.segment_meta_key(1)[6:], 5),
        (keys.segment_meta_key(1)[:6] + b"\x40" + keys.segment_meta_key(1)[7:], 6),
        (keys.segment_meta_key(0), 7),
    ],
)
def test_keys_that_are_no_metadata_keys_are_corrupt(key: bytes, offset: int) -> None:
    with pytest.raises(CorruptionError) as caught:
        keys.parse_segment_meta_key(key)

    assert caught.value.offset == offset
    assert key.hex() in caught.value.object_name
