"""The generated SlateDB binding with its avoidable costs taken out, in memory, for the `slatedb+` rows.

Three replacements, nothing on disk is touched:
- bytes are lowered by one copy in C; as shipped, a Python loop stores every byte through ctypes;
- a page of scanned rows is parsed with `struct` over one copy; as shipped, every field is a slice and a method call;
- a future that is ready on its first poll is completed at once; as shipped, each takes a turn of the event loop.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from typing import Any, NamedTuple

from slatedb.uniffi._slatedb_uniffi import slatedb as binding

_LENGTH = struct.Struct(">i")
_VERSION = struct.Struct(">QqB")  # sequence number, creation time, whether an expiry follows


class _Row(NamedTuple):
    key: bytes
    value: bytes


def patch() -> None:
    """Replace the functions; doing it twice changes nothing."""
    binding._UniffiRustBufferBuilder.write = _write
    binding._UniffiRustBufferBuilder._pack_into = _pack_into
    binding._UniffiFfiConverterBytes.lower = classmethod(_lower_bytes)
    binding._UniffiFfiConverterSequenceTypeKeyValue.lift = classmethod(_lift_rows)
    binding._uniffi_rust_call_async = _call_async


def _write(builder: Any, value: bytes) -> None:
    size = len(value)
    if builder.rbuf.len + size > builder.rbuf.capacity:
        builder.rbuf = binding._UniffiRustBuffer.reserve(builder.rbuf, size)
    start = ctypes.addressof(builder.rbuf.data.contents) + builder.rbuf.len
    ctypes.memmove(start, bytes(value), size)
    builder.rbuf.len += size


def _pack_into(builder: Any, size: int, layout: str, value: Any) -> None:
    _write(builder, struct.pack(layout, value))


class _Bytes(ctypes.Structure):
    """uniffi's ForeignBytes with a field that takes Python bytes without a cast."""

    _fields_ = (("len", ctypes.c_int32), ("data", ctypes.c_char_p))


# Asking the library by index makes a function object of our own, so that its signature is ours to set.
_from_bytes = binding._UniffiLib["ffi_slatedb_uniffi_rustbuffer_from_bytes"]
_from_bytes.argtypes = (_Bytes, ctypes.POINTER(binding._UniffiRustCallStatus))
_from_bytes.restype = binding._UniffiRustBuffer


def _lower_bytes(cls: Any, value: bytes) -> Any:
    body = _LENGTH.pack(len(value)) + value
    return _from_bytes(_Bytes(len(body), body), ctypes.byref(binding._UniffiRustCallStatus()))


def _lift_rows(cls: Any, buffer: Any) -> list[_Row]:
    try:
        body = ctypes.string_at(buffer.data, buffer.len)
    finally:
        buffer.free()
    length, version = _LENGTH.unpack_from, _VERSION.unpack_from
    offset, rows = 4, []
    for _ in range(length(body, 0)[0]):
        key_end = offset + 4 + length(body, offset)[0]
        value_end = key_end + 4 + length(body, key_end)[0]
        rows.append(_Row(body[offset + 4 : key_end], body[key_end + 4 : value_end]))
        offset = value_end + _VERSION.size + (8 if version(body, value_end)[2] else 0)
    return rows


class _Poll:
    """One poll of a Rust future: its code, and how to wake the loop when the answer comes from another thread."""

    __slots__ = ("code", "loop", "waiter")

    def __init__(self) -> None:
        self.code: int | None = None
        self.loop: Any = None
        self.waiter: Any = None


_polls: dict[int, _Poll] = {}
_polls_lock = threading.Lock()
_poll_id = iter(range(1, 1 << 62))


@binding._UNIFFI_RUST_FUTURE_CONTINUATION_CALLBACK  # type: ignore[untyped-decorator]
def _on_poll(handle: int, code: int) -> None:
    with _polls_lock:
        poll = _polls.pop(handle)
        poll.code = code
        waiter = poll.waiter
    if waiter is not None:
        poll.loop.call_soon_threadsafe(binding._uniffi_set_future_result, waiter, code)


async def _call_async(future: Any, poll_call: Any, complete: Any, free: Any, lift: Any, error_converter: Any) -> Any:
    try:
        while True:
            poll, handle = _Poll(), next(_poll_id)
            _polls[handle] = poll
            poll_call(future, _on_poll, handle)
            if await _code_of(poll) == binding._UNIFFI_RUST_FUTURE_POLL_READY:
                break
        return lift(binding._uniffi_rust_call_with_error(error_converter, complete, future))
    finally:
        free(future)


async def _code_of(poll: _Poll) -> int | None:
    if poll.code is not None:
        return poll.code
    loop = binding._uniffi_get_event_loop()
    waiter = loop.create_future()
    with _polls_lock:
        if poll.code is not None:
            return poll.code
        poll.loop, poll.waiter = loop, waiter
    code: int = await waiter
    return code
