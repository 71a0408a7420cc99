"""The manifest as a value, its bytes, the log's frames, and the settings: pure parts with rules."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from lsm.coding import KIND_MANIFEST, KIND_WAL_DATA, open_envelope, seal_envelope
from lsm.errors import CorruptionError, InternalError, InvalidError
from lsm.manifest.codec import decode_manifest, encode_manifest
from lsm.manifest.model import Manifest, Partition, Run
from lsm.settings import Settings
from lsm.sst.builder import TableInfo
from lsm.wal.frames import FrameBuffer, decode_frames, encode_frame


def table(number: int, first: bytes, last: bytes) -> TableInfo:
    return TableInfo(number, 100, 10, first, last, 50, 70, 90)


def tree(prefix: bytes, *numbers: int) -> Partition:
    return Partition(prefix, tuple(table(number, prefix + b"a", prefix + b"z") for number in numbers))


GOOD = Manifest(
    3,
    b"d" * 16,
    writer_epoch=2,
    replay_after=7,
    fences=(1, 5),
    partitions=(
        tree(b"p0", 1, 2),
        Partition(
            b"p1",
            (),
            (Run(1, (table(3, b"p1a", b"p1c"), table(4, b"p1d", b"p1d"))), Run(3, (table(5, b"p1a", b"p1z"),))),
        ),
    ),
)


def test_reads_a_manifest_back() -> None:
    data = b"".join(encode_manifest(GOOD, epoch=2, nonce=b"n" * 16))

    assert decode_manifest(data, number=3, database=b"d" * 16) == GOOD
    for number, database in ((4, b"d" * 16), (3, b"e" * 16)):
        with pytest.raises(CorruptionError):
            decode_manifest(data, number=number, database=database)


def with_partitions(*partitions: Partition) -> Manifest:
    return msgspec.structs.replace(GOOD, partitions=partitions)


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (with_partitions(tree(b"b", 1), tree(b"a", 2)), "out of order"),
        (with_partitions(tree(b"a", 1), tree(b"ab", 2)), "overlap"),
        (with_partitions(tree(b"a", 1), tree(b"b", 1)), "named twice"),
        (with_partitions(Partition(b"b", (table(1, b"a", b"b"),))), "outside partition"),
        (with_partitions(Partition(b"", (table(1, b"b", b"a"),))), "outside partition"),
        (
            with_partitions(Partition(b"", (), (Run(2, (table(1, b"a", b"b"),)), Run(1, (table(2, b"a", b"b"),))))),
            "levels",
        ),
        (with_partitions(Partition(b"", (), (Run(1, ()),))), "empty"),
        (with_partitions(Partition(b"", (), (Run(1, (table(1, b"a", b"b"), table(2, b"b", b"c"))),))), "overlap"),
    ],
)
def test_refuses_an_impossible_database(manifest: Manifest, why: str) -> None:
    GOOD.check()

    with pytest.raises(InternalError, match=why):
        manifest.check()


def test_finds_partitions_and_tables_by_range() -> None:
    prefixes = [each.prefix for each in GOOD.partitions_for(b"p0x", b"p1")]

    assert prefixes == [b"p0"]
    assert [each.prefix for each in GOOD.partitions_for(None, None)] == [b"p0", b"p1"]
    run = GOOD.partitions[1].runs[0]
    assert [each.number for each in run.tables_for(b"p1c", b"p1d")] == [3]
    assert [each.number for each in run.tables_for(b"p1c\x00", b"p1d\x00")] == [4]
    assert run.tables_for(b"p1e", None) == ()


def test_adds_replaces_and_removes_partitions() -> None:
    changed = GOOD.with_partition(tree(b"p00", 9))
    assert [each.prefix for each in changed.partitions] == [b"p0", b"p00", b"p1"]

    assert GOOD.with_partition(tree(b"p0", 9)).partitions[0] == tree(b"p0", 9)
    assert GOOD.with_partition(Partition(b"p0")).partitions == GOOD.partitions[1:]
    assert GOOD.with_partition(Partition(b"none")).partitions == GOOD.partitions


# -- envelopes and frames -----------------------------------------------------------------------------------------------


def test_refuses_an_envelope_that_is_not_what_its_name_says() -> None:
    parts = seal_envelope(
        "x/1", KIND_WAL_DATA, 1, database=b"d" * 16, number=1, epoch=1, nonce=b"n" * 16, body=[b"ab", b"c"]
    )
    data = b"".join(parts)
    good: dict[str, Any] = {"kinds": (KIND_WAL_DATA,), "versions": 1, "number": 1, "database": b"d" * 16}

    assert data[64 : open_envelope("x/1", data, **good).end] == b"abc"
    for name, change in (
        ("x/2", {}),
        ("x/1", {"kinds": (KIND_MANIFEST,)}),
        ("x/1", {"versions": 0}),
        ("x/1", {"number": 2}),
        ("x/1", {"database": b"e" * 16}),
    ):
        with pytest.raises(CorruptionError) as caught:
            open_envelope(name, data, **{**good, **change})
        assert caught.value.object_name == name


batches = st.lists(
    st.one_of(
        st.lists(
            st.tuples(st.binary(min_size=1, max_size=4), st.integers(0, 1), st.binary(max_size=9)),
            min_size=1,
            max_size=4,
        ),
        st.tuples(
            st.sampled_from([b"f", b"g"]), st.lists(st.binary(max_size=5), min_size=1, max_size=4), st.integers(0, 2)
        ),
    ),
    max_size=12,
)


@given(batches)
def test_reads_the_batches_of_a_log_object_back(content: list[Any]) -> None:
    buffer = FrameBuffer()
    numbers = {b"f": 0, b"g": 0}
    expected: list[tuple[Any, ...]] = []
    for seq, batch in enumerate(content, 1):
        if isinstance(batch, list):
            keys, kinds, values = (list(column) for column in zip(*batch, strict=True))
            buffer.add_rows(seq, keys, kinds, values)
            expected += [(seq, b"", 0, *row) for row in batch]
        else:
            family, names, gap = batch
            first = numbers[family] + gap
            numbers[family] = first + len(names)
            buffer.add_series(seq, family, names, first, [b"v"] * len(names), 0)
            expected += [(seq, family, first + at, name, 0, b"v") for at, name in enumerate(names)]
    data = b"".join(buffer.take())

    found = []
    for frame in decode_frames(data, 0, len(data), name="n"):
        seqs = [frame.seq + at for at, count in enumerate(frame.counts) for _ in range(count)]
        for at, seq in enumerate(seqs):
            number = frame.number + at if frame.family else 0
            kind = 0 if frame.family else frame.kinds[at]
            found.append((seq, frame.family, number, frame.keys[at], kind, frame.values[at]))

    assert found == expected
    assert buffer.is_empty
    assert buffer.size == 0


@given(st.binary(max_size=80))
def test_decodes_junk_frames_or_says_so(data: bytes) -> None:
    good = encode_frame(b"", 1, 0, [1], [b"k"], [0], [b"v"])
    try:
        assert list(decode_frames(good + data, 0, len(good) + len(data), name="n"))
    except CorruptionError as error:
        assert error.object_name == "n"


# -- settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"flush_interval": -1.0},
        {"flush_interval": "fast"},
        {"wal_enabled": 1},
        {"wal_uploads_max": 0},
        {"sst_block_size": 63},
        {"compression": "lz4"},
        {"flush_placement": "moon"},
        {"l0_compaction_min": 9, "l0_compaction_max": 8},
        {"l0_compaction_min": 4, "l0_max_ssts": 4},
        {"max_unflushed_bytes": 5},
        {"op_timeout": 0.0},
    ],
)
def test_refuses_settings(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match="settings"):
        Settings(**values)


def test_takes_durations_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "engine.toml"
    file.write_text("flush_interval = 2\nwal_enabled = false\n")
    monkeypatch.setenv("TESTLSM_OP_TIMEOUT", "3")
    monkeypatch.setenv("TESTLSM_COMPRESSION", "null")

    assert Settings(flush_interval=timedelta(seconds=2)).flush_interval == 2.0
    assert Settings.from_file(file) == Settings(flush_interval=2.0, wal_enabled=False)
    assert Settings.from_env("TESTLSM_") == Settings(op_timeout=3.0, compression=None)
    with pytest.raises(InvalidError, match="unknown name 'nonsense'"):
        Settings.from_dict({"nonsense": 1})
