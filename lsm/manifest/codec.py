"""A manifest's bytes: the envelope of coding.py around MessagePack of the arrays in model.py, compressed. Pure.

    body = zstd frames end to end, which together hold
           msgpack([number, database, writer_epoch, compactor_epoch, replay_after, wal_epoch_floor, last_seq, gc_horizon,
                    fences, extractor_name, series_name, wal_url, partitions,
                    gc_horizons, settled, checkpoints, parents, jobs])
    partition = [prefix, level-0 tables, runs, [[family, end], ...]]      run = [level, tables]
    table = [number, size, rows, first_key, last_key, filter_offset, index_offset, index_end,
             tombstones, first_position, last_position, content]
    checkpoint, parent = the fields in checkpoint.py    job = the fields in job_record.py

The first frame holds the fields before the partitions, each middle frame a group of consecutive partitions, and the last
frame the fields after them. So a commit that changes one of a thousand partitions encodes and compresses one middle frame and
copies the others. Version 1 of the format has a single frame, and is still read.

New fields go to the end of an array and have a default: older versions of this library ignore them, newer ones fill them in.
Any other change of the format increments MANIFEST_VERSION.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

import msgspec

from lsm.coding import ENVELOPE, KIND_MANIFEST, open_envelope, seal_envelope
from lsm.errors import CorruptionError, internal
from lsm.manifest.model import Manifest, Partition
from lsm.native import zstd
from lsm.native.checksum import crc32c
from lsm.object_store.names import manifest_name

MANIFEST_VERSION: Final = 2
GROUP_PARTITIONS: Final = 16
"""Average number of partitions per frame."""
_BODY_BYTES_MAX: Final = 1 << 30
_READ_BYTES: Final = 1 << 20
_FIELDS: Final = Manifest.__struct_fields__
_SPLIT: Final = _FIELDS.index("partitions")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Manifest)
_group_decoder = msgspec.msgpack.Decoder(tuple[Partition, ...])


class ManifestEncoder:
    """Encodes versions of one manifest. Keeps the frames of unchanged partitions. Not thread-safe."""

    def __init__(self) -> None:
        self._compress = zstd.compressor(1)
        self._frames: dict[tuple[int, ...], tuple[tuple[Partition, ...], bytes]] = {}
        self.encoded_partitions = 0
        """Number of partitions encoded so far. Partitions in copied frames do not count."""

    def encode(self, manifest: Manifest, *, epoch: int, nonce: bytes) -> list[bytes]:
        """Return the object's parts; the first is its header.

        The result is decoded again as a check: a database whose manifest does not decode could not be opened.

        Cost: encodes and decodes the partitions of changed frames, and copies the other frames. Raises: InternalError.
        """
        try:
            fields = [_encoder.encode(getattr(manifest, name)) for name in _FIELDS if name != "partitions"]
            head = b"".join((_array(len(_FIELDS)), *fields[:_SPLIT]))
            tail = b"".join(fields[_SPLIT:])
            _decoder.decode(b"".join((head, _array(0), tail)))
            frames = list(self._partition_frames(manifest.partitions))
        except (msgspec.MsgspecError, UnicodeError, OverflowError, TypeError, ValueError) as error:
            raise internal(
                f"manifest {manifest.number} would not decode, nothing was written: {error}", error
            ) from error
        body = [self._compress(head + _array(len(manifest.partitions))), *frames, self._compress(tail)]
        return seal_envelope(
            manifest_name(manifest.number),
            KIND_MANIFEST,
            MANIFEST_VERSION,
            database=manifest.database,
            number=manifest.number,
            epoch=epoch,
            nonce=nonce,
            body=[b"".join(body)],
        )

    def _partition_frames(self, partitions: tuple[Partition, ...]) -> Iterator[bytes]:
        kept: dict[tuple[int, ...], tuple[tuple[Partition, ...], bytes]] = {}
        for group in _groups(partitions):
            key = tuple(map(id, group))
            # The partitions are kept with the frame, so Python gives no other object their `id()`.
            found = self._frames.get(key)
            if found is None:
                self.encoded_partitions += len(group)
                encoded = b"".join(map(_encoder.encode, group))
                _group_decoder.decode(_array(len(group)) + encoded)
                found = (group, self._compress(encoded))
            kept[key] = found
            yield found[1]
        self._frames = kept


def _groups(partitions: tuple[Partition, ...]) -> Iterator[tuple[Partition, ...]]:
    """Group consecutive partitions. Hashes of their prefixes set the borders, so that adding or removing a partition changes
    no border but its own."""
    hashes = [crc32c(partition.prefix) for partition in partitions]
    ends = [at for at, value in enumerate(hashes) if at and not value % GROUP_PARTITIONS]
    start = 0
    for end in chain(ends, (len(partitions),)):
        if end > start:
            yield partitions[start:end]
        start = end


def _array(length: int) -> bytes:
    """Return the header of a MessagePack array."""
    return b"\xdd" + length.to_bytes(4, "big")


def encode_manifest(manifest: Manifest, *, epoch: int, nonce: bytes) -> list[bytes]:
    """Encode one version, without an encoder that keeps frames."""
    return ManifestEncoder().encode(manifest, epoch=epoch, nonce=nonce)


def decode_manifest(data: bytes, *, number: int, database: bytes | None, name: str | None = None) -> Manifest:
    """Decode and verify a manifest object. `name`: the object's name; None: the manifest's own. Raises: CorruptionError."""
    name = name if name is not None else manifest_name(number)
    envelope = open_envelope(
        name, data, kinds=(KIND_MANIFEST,), versions=MANIFEST_VERSION, number=number, database=database
    )
    try:
        manifest = _decoder.decode(_joined_frames(memoryview(data)[ENVELOPE.size : envelope.end]))
    except (zstd.ZstdError, msgspec.MsgspecError, UnicodeDecodeError, MemoryError) as error:
        raise CorruptionError(f"does not decode: {error}", object_name=name, offset=ENVELOPE.size) from error
    if manifest.number != number or manifest.database != envelope.database:
        raise CorruptionError("body and header disagree", object_name=name, offset=ENVELOPE.size)
    return manifest


def _joined_frames(stored: memoryview) -> bytes:
    parts: list[bytes] = []
    size = 0
    for part in zstd.frame_contents(stored, _READ_BYTES):
        parts.append(part)
        size += len(part)
        if size > _BODY_BYTES_MAX:
            raise MemoryError(f"more than {_BODY_BYTES_MAX} bytes")
    return b"".join(parts)


def reseal_manifest(data: bytes, *, number: int, name: str) -> list[bytes]:
    """Return a stored version's bytes for a copy under another name, the same on each call. Raises: CorruptionError."""
    own = manifest_name(number)
    found = open_envelope(own, data, kinds=(KIND_MANIFEST,), versions=MANIFEST_VERSION, number=number, database=None)
    return seal_envelope(
        name,
        KIND_MANIFEST,
        found.version,
        database=found.database,
        number=number,
        epoch=found.epoch,
        nonce=found.nonce,
        body=[data[ENVELOPE.size : found.end]],
    )
