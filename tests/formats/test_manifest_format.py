"""The manifest's bytes at version 2, read for ever. What zstd makes of them may change, and arrays may get longer.

`python -m tests.formats.test_manifest_format` writes the file if it does not exist; it never changes it.
"""

from __future__ import annotations

import msgspec

from lsm.coding import CHECKSUM
from lsm.manifest.checkpoint import Checkpoint, Parent
from lsm.manifest.codec import decode_manifest, encode_manifest, reseal_manifest
from lsm.manifest.model import Partition
from lsm.object_store.names import manifest_name, pinned_name
from tests.formats.test_engine_formats import DATABASE, HEADER, HERE, MANIFEST, NONCE, annotated

MANIFEST_2 = msgspec.structs.replace(
    MANIFEST,
    partitions=(*MANIFEST.partitions, *(Partition(b"q%02d" % at, MANIFEST.partitions[0].l0[:0]) for at in range(40))),
    gc_horizons=((3, (3 << 40) + 7),),
    settled=((2, (2 << 40) + 5), (3, (3 << 40) + 9)),
    checkpoints=(
        Checkpoint("0f" * 16, 5, 3, 12, 1_700_000_000_000, 60_000, 1_700_000_060_000, "nightly", 2),
        Checkpoint("1e" * 16, 6, 13, 12, 1_700_000_000_001),
    ),
    parents=(Parent(b"p" * 16, "s3://bucket/parent", "2d" * 16, (1, 2, 1 << 40)),),
)


def golden(name: str) -> bytes:
    text = (HERE / name).read_text("ascii")
    return bytes.fromhex("".join(line.split()[1] for line in text.splitlines()))


def test_reads_an_object_of_version_2() -> None:
    assert decode_manifest(golden("manifest_v2.txt"), number=7, database=DATABASE) == MANIFEST_2


def test_a_copy_under_another_name_reads_the_same_and_is_always_the_same() -> None:
    data = golden("manifest_v2.txt")
    copy = b"".join(reseal_manifest(data, number=7, name=pinned_name(7)))

    assert decode_manifest(copy, number=7, database=DATABASE, name=pinned_name(7)) == MANIFEST_2
    assert copy == b"".join(reseal_manifest(data, number=7, name=pinned_name(7)))
    assert copy[: -CHECKSUM.size] == data[: -CHECKSUM.size]
    assert manifest_name(7) != pinned_name(7)


if __name__ == "__main__":
    _path = HERE / "manifest_v2.txt"
    if not _path.exists():
        _path.write_text(annotated(b"".join(encode_manifest(MANIFEST_2, epoch=3, nonce=NONCE)), HEADER), "ascii")
