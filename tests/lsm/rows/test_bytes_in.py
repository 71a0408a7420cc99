"""What callers may pass as keys and values."""

from __future__ import annotations

from typing import Any

import pytest

import lsm
from lsm.rows.bytes_in import as_key, as_value


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        (b"key", b"key"),
        ("schlüssel", "schlüssel".encode()),
        (bytearray(b"key"), b"key"),
        (memoryview(b"a key")[2:], b"key"),
        (b"\x00\xff", b"\x00\xff"),
        (b"k" * 65_535, b"k" * 65_535),
    ],
)
def test_bytes_like_content_and_text_are_stored_as_bytes(content: Any, stored: bytes) -> None:
    assert as_key(content) == as_value(content) == stored
    assert type(as_key(content)) is bytes


def test_what_was_mutable_is_copied() -> None:
    content = bytearray(b"key")
    with lsm.Db.open("memory://", lsm.Settings(flush_interval=None)) as db:
        db.put(content, content)
        content[:] = b"xxx"

        assert db.get(b"key") == b"key"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "must not be empty"),
        (b"k" * 65_536, "too long"),
        (7, "got int"),
        (None, "got NoneType"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_any_other_key_is_refused_and_named(content: Any, why: str) -> None:
    with lsm.Db.open("memory://", lsm.Settings(flush_interval=None)) as db:
        with pytest.raises(lsm.InvalidError, match=why):
            db.put(content, b"value")
        assert list(db.scan()) == []


def test_an_empty_value_is_fine() -> None:
    assert as_value(b"") == b""
    with pytest.raises(lsm.InvalidError, match="a value must be"):
        as_value(3.5)
