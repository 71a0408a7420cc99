"""Converts callers' keys and values to bytes. Pure."""

from __future__ import annotations

from typing import Final

from lsm.errors import InvalidError

KEY_BYTES_MAX: Final = 65_535
VALUE_BYTES_MAX: Final = (1 << 32) - 1

BytesLike = bytes | bytearray | memoryview | str


def as_bytes(content: object, what: str) -> bytes:
    """`content` as bytes: other bytes-like objects are copied, str is encoded as UTF-8. Raises: InvalidError."""
    if type(content) is bytes:
        return content
    if isinstance(content, str):
        try:
            return content.encode()
        except UnicodeEncodeError as error:
            raise InvalidError(f"{what} {content!r} is not valid Unicode: {error.reason}") from None
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    raise InvalidError(f"{what} must be bytes, bytearray, memoryview or str, got {type(content).__name__}")


def as_key(content: object) -> bytes:
    """A key: 1 to 65,535 bytes. Raises: InvalidError."""
    key = as_bytes(content, "a key")
    if not key:
        raise InvalidError("a key must not be empty: 1 to 65,535 bytes are allowed")
    if len(key) > KEY_BYTES_MAX:
        raise InvalidError(f"a key of {len(key)} bytes is too long: 1 to 65,535 bytes are allowed")
    return key


def as_value(content: object) -> bytes:
    """A value of less than 4 GiB. Raises: InvalidError."""
    value = as_bytes(content, "a value")
    if len(value) > VALUE_BYTES_MAX:
        raise InvalidError(f"a value of {len(value)} bytes is too long: it must be below 4 GiB")
    return value
