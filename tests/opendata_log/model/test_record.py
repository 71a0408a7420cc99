"""Records: values with their content taken when made, and batches taken apart into columns."""

import array
import pickle
from collections import namedtuple
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendata_log.model import record as record_module
from opendata_log.model.errors import InvalidInputError
from opendata_log.model.record import (
    KEY_BYTES_MAX,
    AppendOutput,
    AppendResult,
    LogEntry,
    LogKey,
    Record,
    Result,
    Segment,
    Sequence,
    columns,
    to_bytes,
    to_key,
)

VALUES = [Record(b"k", b"v"), LogEntry(b"k", 7, b"v"), AppendOutput(7), LogKey(b"k"), Segment(1, 7, 1000)]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_equal_hashable_immutable_and_picklable(value: Any) -> None:
    names = type(value).__match_args__
    by_name = type(value)(**{name: getattr(value, name) for name in names})
    by_position = type(value)(*(getattr(value, name) for name in names))

    assert value == by_name == by_position == pickle.loads(pickle.dumps(value))
    assert hash(value) == hash(by_name)
    assert len({value, by_name}) == 1
    assert value != tuple(getattr(value, name) for name in names)
    for name in names:
        with pytest.raises(AttributeError):
            setattr(value, name, getattr(value, name))
        assert f"{name}={getattr(value, name)!r}" in repr(value)


def test_different_values_differ() -> None:
    assert Record(b"k", b"v") != Record(b"k", b"w")
    assert Record(b"k", b"v") != Record(b"l", b"v")
    assert LogEntry(b"k", 7, b"v") != LogEntry(b"k", 8, b"v")


def test_records_and_entries_unpack_and_match() -> None:
    key, value = Record(b"k", b"v")
    assert (key, value) == (b"k", b"v")

    key, sequence, value = LogEntry(key=b"k", sequence=7, value=b"v")
    assert (key, sequence, value) == (b"k", 7, b"v")

    match Record(b"k", b"v"), LogEntry(b"k", 7, b"v"):
        case Record(b"k", one), LogEntry(b"k", 7, other):
            assert one == other == b"v"
        case _:
            pytest.fail("values did not match their own patterns")


@pytest.mark.parametrize(
    "content",
    [
        b"abc",
        bytearray(b"abc"),
        memoryview(b"abc"),
        memoryview(b"aXbXcX")[::2],
        array.array("B", b"abc"),
        "abc",
        type("MyBytes", (bytes,), {})(b"abc"),
        type("MyStr", (str,), {})("abc"),
    ],
    ids=lambda content: type(content).__name__,
)
def test_bytes_like_content_and_str_become_bytes(content: Any) -> None:
    for found in (Record(content, b"v").key, Record(b"k", content).value, to_bytes(content, "it"), to_key(content)):
        assert type(found) is bytes
        assert found == b"abc"
    assert columns([(content, content)])[:2] == ([b"abc"], [b"abc"])


def test_record_copies_mutable_content_when_it_is_made() -> None:
    content = bytearray(b"abc")
    record = Record(content, memoryview(content))

    content[:] = b"xyz"

    assert record == Record(b"abc", b"abc")


def test_record_keeps_bytes_without_copying() -> None:
    key, value = b"key" * 9, b"value" * 9

    record = Record(key, value)

    assert record.key is key
    assert record.value is value


def test_str_is_taken_as_utf8() -> None:
    assert Record("schlüssel", "値") == Record("schlüssel".encode(), "値".encode())


@pytest.mark.parametrize("content", [None, 5, 1.5, True, [98], (b"k",), {}, object(), Record(b"k", b"v")])
def test_anything_else_is_refused_by_name(content: Any) -> None:
    kind = type(content).__name__

    for make in (
        lambda: Record(content, b"v"),
        lambda: Record(b"k", content),
        lambda: Record(key=b"k", value=content),
        lambda: columns([(content, b"v")]),
        lambda: columns([Record(b"k", b"v"), (b"k", content)]),
        lambda: to_key(content),
    ):
        with pytest.raises(InvalidInputError, match=kind):
            make()


@pytest.mark.parametrize("content", ["\ud800", "a\udcffb"])
def test_surrogates_are_refused(content: str) -> None:
    for make in (lambda: Record(content, b"v"), lambda: Record(b"k", content), lambda: columns([(b"k", content)])):
        with pytest.raises(InvalidInputError, match="UTF-8"):
            make()


def test_released_memory_is_refused() -> None:
    view = memoryview(b"abc")
    view.release()

    with pytest.raises(InvalidInputError):
        Record(view, b"v")


def test_msgspec_decodes_and_replaces_through_the_same_checks() -> None:
    record = Record(b"k", b"v")

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Record) == record
    assert msgspec.structs.replace(record, value=bytearray(b"w")) == Record(b"k", b"w")


def test_read_keys_must_fit() -> None:
    assert to_key(b"x" * KEY_BYTES_MAX) == b"x" * KEY_BYTES_MAX
    for key in (b"", "", bytearray(), b"x" * (KEY_BYTES_MAX + 1)):
        with pytest.raises(InvalidInputError, match="the key must have 1 to 65535 bytes"):
            to_key(key)


def test_aliases_stand_for_the_value_itself() -> None:
    assert Sequence is int
    assert get_args(Result[int])[0] is int
    assert get_args(AppendResult[AppendOutput])[0] is AppendOutput


# -- columns -----------------------------------------------------------------------------------------------------------

PAIRS = [(b"a", b"1"), (b"bb", b""), (b"a", b"333")]
Pair = namedtuple("Pair", "key value")


@pytest.mark.parametrize(
    "records",
    [
        [Record(*pair) for pair in PAIRS],
        PAIRS,
        [list(pair) for pair in PAIRS],
        [Pair(*pair) for pair in PAIRS],
        [Record(b"a", b"1"), (b"bb", b""), [b"a", bytearray(b"333")]],
        [("a", "1"), ("bb", ""), ("a", "333")],
        tuple(PAIRS),
        tuple(Record(*pair) for pair in PAIRS),
    ],
)
def test_columns_of_any_kind_of_batch(records: Any) -> None:
    keys, values, key_bytes, value_bytes, batch = columns(records)

    assert keys == [b"a", b"bb", b"a"]
    assert values == [b"1", b"", b"333"]
    assert (key_bytes, value_bytes) == (4, 4)
    assert batch == list(records)
    assert {type(content) for content in keys + values} == {bytes}


def test_columns_take_iterators_and_remember_what_they_gave() -> None:
    keys, _, _, _, batch = columns(Record(*pair) for pair in PAIRS)

    assert keys == [b"a", b"bb", b"a"]
    assert batch == [Record(*pair) for pair in PAIRS]
    assert columns(dict(PAIRS).items())[0] == [b"a", b"bb"]


def test_columns_of_a_list_give_the_callers_own_list_back_unchanged() -> None:
    records: list[Any] = [("a", bytearray(b"1")), Record(b"b", b"2")]
    before = list(records)

    batch = columns(records)[4]

    assert batch is records
    assert records == before


def test_columns_of_an_empty_batch_are_empty() -> None:
    assert columns([]) == ([], [], 0, 0, [])
    assert columns(iter(())) == ([], [], 0, 0, [])


@pytest.mark.parametrize(
    ("records", "named"),
    [
        (Record(b"k", b"v"), "single Record"),
        ("kv", "got str"),
        (b"kv", "got bytes"),
        (bytearray(b"kv"), "got bytearray"),
        (None, "got NoneType"),
        (5, "got int"),
        ((b"k", b"v"), "record 0 .* got bytes"),
        ({b"k": b"v"}, "record 0 .* got bytes"),
        (["kv"], "record 0 .* got str"),
        ([Record(b"k", b"v"), None], "record 1 .* got NoneType"),
        ([(b"k", b"v"), (b"k",)], "record 1 .* got tuple of 1 items"),
        ([(b"k", b"v", b"w")], "record 0 .* got tuple of 3 items"),
        ([LogEntry(b"k", 7, b"v")], "record 0 .* got LogEntry"),
        ([(b"k", b"v"), (b"k", 5)], "the value of record 1 .* got int"),
        ([(None, b"v")], "the key of record 0 .* got NoneType"),
        ([Record(b"k", b"v"), Record(b"", b"v")], "the key of record 1 is empty"),
        ([(b"k", b"v"), ("", b"v")], "the key of record 1 is empty"),
        ([(b"k", b"v"), (b"k" * 65_536, b"v")], "the key of record 1 has 65536 bytes"),
    ],
)
def test_unfit_batches_are_refused_naming_the_item(records: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        columns(records)


def test_keys_of_the_greatest_length_fit() -> None:
    keys, _, key_bytes, _, _ = columns([(b"k" * KEY_BYTES_MAX, b"")] * 3)

    assert key_bytes == 3 * KEY_BYTES_MAX
    assert set(map(len, keys)) == {KEY_BYTES_MAX}


def test_values_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "VALUE_BYTES_MAX", 10)

    assert columns([(b"k", b"x" * 10)] * 3)[3] == 30
    with pytest.raises(InvalidInputError, match="the value of record 2 has 11 bytes"):
        columns([(b"k", b"x"), (b"k", b"x"), (b"k", b"x" * 11)])


def test_what_the_iterable_raises_comes_through() -> None:
    def broken() -> Iterator[Record]:
        yield Record(b"k", b"v")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        columns(broken())


contents = st.binary(max_size=8) | st.text(max_size=8) | st.binary(max_size=8).map(bytearray)
items = st.tuples(contents, contents).flatmap(lambda pair: st.sampled_from([pair, list(pair), Record(*pair)]))


@given(st.lists(items, max_size=12), st.booleans())
def test_columns_agree_with_records_made_one_by_one(records: list[Any], as_iterator: bool) -> None:
    expected = [item if isinstance(item, Record) else Record(*item) for item in records]

    if any(not one.key for one in expected):
        with pytest.raises(InvalidInputError, match="empty"):
            columns(records)
        return
    keys, values, key_bytes, value_bytes, batch = columns(iter(records) if as_iterator else records)

    assert [Record(*pair) for pair in zip(keys, values, strict=True)] == expected
    assert key_bytes == sum(len(one.key) for one in expected)
    assert value_bytes == sum(len(one.value) for one in expected)
    assert batch == records
