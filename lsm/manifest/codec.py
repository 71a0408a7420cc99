"""A manifest's bytes: the envelope of coding.py around MessagePack of the arrays in model.py, compressed. Pure.

    body = zstd(msgpack([number, database, writer_epoch, compactor_epoch, replay_after, wal_epoch_floor, last_seq,
                         gc_horizon, fences, extractor_name, series_name, wal_url, partitions]))
    partition = [prefix, level-0 tables, runs, [[family, end], ...]]      run = [level, tables]
    table = [number, size, rows, first_key, last_key, filter_offset, index_offset, index_end]

New fields are added at the end of an array with a default, which older versions of this library ignore and newer ones
fill in; anything else raises MANIFEST_VERSION.
"""

from __future__ import annotations

from typing import Final

import msgspec
import zstandard

from lsm.coding import ENVELOPE, KIND_MANIFEST, open_envelope, seal_envelope
from lsm.errors import CorruptionError
from lsm.manifest.model import Manifest
from lsm.object_store.names import manifest_name

MANIFEST_VERSION: Final = 1
_BODY_BYTES_MAX: Final = 1 << 30
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Manifest)


def encode_manifest(manifest: Manifest, *, epoch: int, nonce: bytes) -> list[bytes]:
    body = zstandard.ZstdCompressor(level=3).compress(_encoder.encode(manifest))
    return seal_envelope(
        manifest_name(manifest.number),
        KIND_MANIFEST,
        MANIFEST_VERSION,
        database=manifest.database,
        number=manifest.number,
        epoch=epoch,
        nonce=nonce,
        body=[body],
    )


def decode_manifest(data: bytes, *, number: int, database: bytes | None) -> Manifest:
    """Raises: CorruptionError."""
    name = manifest_name(number)
    envelope = open_envelope(
        name, data, kinds=(KIND_MANIFEST,), versions=MANIFEST_VERSION, number=number, database=database
    )
    try:
        body = zstandard.ZstdDecompressor().decompress(
            data[ENVELOPE.size : envelope.end], max_output_size=_BODY_BYTES_MAX
        )
        manifest = _decoder.decode(body)
    except (zstandard.ZstdError, msgspec.MsgspecError, MemoryError) as error:
        raise CorruptionError(f"does not decode: {error}", object_name=name, offset=ENVELOPE.size) from error
    if manifest.number != number or manifest.database != envelope.database:
        raise CorruptionError("body and header disagree", object_name=name, offset=ENVELOPE.size)
    return manifest
