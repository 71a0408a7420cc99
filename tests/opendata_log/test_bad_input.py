"""Bad input: one clear sentence that names the value and what is allowed, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from opendata_log import InvalidInputError, LogDb, Record
from opendata_log.model import record
from tests.opendata_log.support import names


@pytest.fixture
def log() -> Iterator[LogDb]:
    with LogDb.open(storage="memory://") as opened:
        opened.try_append([(b"k", b"v")])
        yield opened


GOOD = (b"good", b"v")
BATCHES: list[tuple[Any, str]] = [
    (None, "records must be an iterable of records, got NoneType"),
    (5, "records must be an iterable of records, got int"),
    (b"bytes", "records must be an iterable of records, got bytes"),
    ("text", "records must be an iterable of records, got str"),
    (Record(b"k", b"v"), "got a single Record; put it in a list"),
    ([GOOD, b"kv"], r"record 1 must be a Record or a \(key, value\) pair, got bytes"),
    ([GOOD, "kv"], r"record 1 must be a Record or a \(key, value\) pair, got str"),
    ([GOOD, (b"k",)], "record 1 must be .* got tuple of 1 items"),
    ([GOOD, (b"k", b"v", b"w")], "record 1 must be .* got tuple of 3 items"),
    ([GOOD, None], "record 1 must be .* got NoneType"),
    ([GOOD, (1, b"v")], "the key of record 1 must be bytes-like or str, got int"),
    ([GOOD, (b"k", None)], "the value of record 1 must be bytes-like or str, got NoneType"),
    ([GOOD, (b"k", 1.5)], "the value of record 1 must be bytes-like or str, got float"),
    ([GOOD, (b"k", [1, 2])], "the value of record 1 must be bytes-like or str, got list"),
    ([GOOD, ("\ud800", b"v")], "the key of record 1 is a str that UTF-8 cannot encode"),
    ([GOOD, (b"", b"v")], "the key of record 1 is empty"),
    ([GOOD, ("", b"v")], "the key of record 1 is empty"),
    ([GOOD, Record(b"", b"v")], "the key of record 1 is empty"),
    ([GOOD, (b"k" * 65_536, b"v")], "the key of record 1 .*65,?536.*65,?535"),
    ([Record(*GOOD), Record(b"k" * 70_000, b"v")], "the key of record 1 .*70,?000.*65,?535"),
    ({b"k": b"v"}, "record 0 must be a Record or .* got bytes"),
]


@pytest.mark.parametrize(("batch", "sentence"), BATCHES)
@pytest.mark.parametrize("is_patient", [False, True])
def test_a_bad_batch_it_is_refused_whole(log: LogDb, batch: Any, sentence: str, is_patient: bool) -> None:
    with pytest.raises(InvalidInputError, match=sentence) as refused:
        if is_patient:
            log.append_timeout(batch, 1)
        else:
            log.try_append(batch)

    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200
    assert names(log) == [b"k"]
    assert log.try_append([GOOD]).start_sequence == 1


def test_a_value_beyond_four_gibibytes_it_is_refused(log: LogDb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "VALUE_BYTES_MAX", 1000)

    with pytest.raises(InvalidInputError, match=r"the value of record 1 .*1,?001") as refused:
        log.try_append([GOOD, (b"k", b"v" * 1001)])

    assert "1000" in str(refused.value) or "1,000" in str(refused.value)
    assert names(log) == [b"k"]
    log.try_append([GOOD, (b"k", b"v" * 1000)])


@pytest.mark.parametrize("content", [None, 1, 1.5, [b"k"], object()])
def test_a_record_of_what_is_no_bytes_it_is_refused_when_it_is_made(content: Any) -> None:
    with pytest.raises(InvalidInputError, match="a record's key must be bytes-like or str"):
        Record(content, b"v")
    with pytest.raises(InvalidInputError, match="a record's value must be bytes-like or str"):
        Record(b"k", content)


READS: list[tuple[str, tuple[Any, ...], str]] = [
    ("scan", (b"",), "the key must have 1 to 65535 bytes, got 0"),
    ("scan", ("",), "the key must have 1 to 65535 bytes, got 0"),
    ("scan", (b"k" * 65_536,), "the key must have 1 to 65535 bytes, got 65536"),
    ("scan", (5,), "the key must be bytes-like or str, got int"),
    ("scan", (None,), "the key must be bytes-like or str, got NoneType"),
    ("scan", (b"k", -1), "start sequence must not be negative, got -1"),
    ("scan", (b"k", 0, -7), "end sequence must not be negative, got -7"),
    ("scan", (b"k", "0"), "start sequence must be an integer, got '0'"),
    ("scan", (b"k", 0, 1.5), "end sequence must be an integer, got 1.5"),
    ("scan", (b"k", True), "start sequence must be an integer, got True"),
    ("count", (b"",), "the key must have 1 to 65535 bytes, got 0"),
    ("count", (b"k", -1), "start sequence must not be negative, got -1"),
    ("count", (b"k", 0, -1), "end sequence must not be negative, got -1"),
    ("list_keys", (-1,), "start segment must not be negative, got -1"),
    ("list_keys", (0, -1), "end segment must not be negative, got -1"),
    ("list_keys", ("a",), "start segment must be an integer, got 'a'"),
    ("list_segments", (-1,), "start sequence must not be negative, got -1"),
    ("list_segments", (0, -1), "end sequence must not be negative, got -1"),
    ("wait_idle", (-1,), "timeout must be None or at least 0 seconds, got -1"),
    ("wait_idle", ("1",), "timeout must be None or at least 0 seconds, got '1'"),
]


@pytest.mark.parametrize(("call", "arguments", "sentence"), READS)
def test_bad_arguments_of_a_read_it_refuses_at_the_call(
    log: LogDb, call: str, arguments: tuple[Any, ...], sentence: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        getattr(log, call)(*arguments)

    assert str(refused.value) == sentence


@pytest.mark.parametrize("age", [-1, "1", float("nan")])
def test_a_bad_age_of_garbage_it_is_refused(log: LogDb, age: Any) -> None:
    with pytest.raises(InvalidInputError, match="min_age must be None or at least 0 seconds"):
        log.collect_garbage(min_age=age)
