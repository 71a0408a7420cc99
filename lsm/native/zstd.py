"""zstd frames, by the package zstandard or, if it is not installed, by Python's own `compression.zstd`.

Each of the two reads the other's frames: both use the same C library and the same levels, and both write the size of the
content into each frame.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

_package: Any = None
"""The package zstandard; `None` if it is not installed."""
_own: Any = None
"""The standard library's module (Python 3.14 on); `None` if the package is installed."""
try:
    _package = importlib.import_module("zstandard")
except ImportError as missing:
    try:
        _own = importlib.import_module("compression.zstd")
    except ImportError:
        raise ImportError(
            "there is no zstd: this Python has no compression.zstd of its own, so pip install zstandard"
        ) from missing

ZstdError: type[Exception] = _package.ZstdError if _own is None else _own.ZstdError


def compressor(level: int) -> Callable[[bytes], bytes]:
    """Return a function that compresses bytes into one frame. Only one thread may call it at a time."""
    if _own is None:
        made: Callable[[bytes], bytes] = _package.ZstdCompressor(level=level).compress
        return made
    kind = _own.ZstdCompressor
    return partial(kind(level=level).compress, mode=kind.FLUSH_FRAME)


def _decompress_by_package(stored: bytes | memoryview, size: int) -> bytes:
    if _size_of(stored) not in (-1, size):
        raise ZstdError(f"the frame states another size than {size} bytes")
    found: bytes = _decompressor().decompress(stored, size)
    if len(found) != size:
        raise ZstdError(f"the frame holds {len(found)} bytes, not {size}")
    return found


def _decompress_by_own(stored: bytes | memoryview, size: int) -> bytes:
    if _own.get_frame_info(stored).decompressed_size not in (None, size):
        raise ZstdError(f"the frame states another size than {size} bytes")
    reader = _own.ZstdDecompressor()
    # A frame may end with an empty block, which is read only if there is room for more bytes.
    found: bytes = reader.decompress(stored, max_length=size + 1)
    if not reader.eof:
        raise ZstdError(f"the frame is cut short, or holds more than {size} bytes")
    if len(found) != size:
        raise ZstdError(f"the frame holds {len(found)} bytes, not {size}")
    return found


# Every block that is read passes here: the choice is made once, and names are looked up once.
if _own is None:
    _size_of, _decompressor = _package.frame_content_size, _package.ZstdDecompressor
decompress: Callable[[bytes | memoryview, int], bytes] = _decompress_by_package if _own is None else _decompress_by_own
"""Return the content of a frame, which must have that many bytes. Raises: ZstdError; before any allocation if the frame states
another size."""


def frame_contents(stored: bytes | memoryview, piece: int) -> Iterator[bytes]:
    """Yield the contents of consecutive frames, some `piece` bytes at a time. If the last frame is cut short, the missing part
    is left out. Raises: ZstdError."""
    if _own is None:
        with _package.ZstdDecompressor().stream_reader(stored, read_across_frames=True) as frames:
            while part := frames.read(piece):
                yield part
        return
    left: bytes | memoryview = stored
    while len(left):
        reader = _own.ZstdDecompressor()
        part = reader.decompress(left, max_length=piece)
        while part or not (reader.eof or reader.needs_input):
            if part:
                yield part
            if reader.eof:
                break
            part = reader.decompress(b"", max_length=piece)
        left = reader.unused_data if reader.eof else b""
