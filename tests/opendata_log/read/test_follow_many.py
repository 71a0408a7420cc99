"""Following and scanning many keys at once, in the order of the one sequence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opendata_log import Config, InvalidInputError, LogDb, LogDbBuilder
from tests.opendata_log.following import Listener, append
from tests.opendata_log.support import tiny

NAMES = itertools.count()
"""For stores that a log is opened in again."""


@pytest.fixture
def log() -> Iterator[LogDb]:
    with LogDb.open(storage="memory://", engine=tiny()) as log:
        yield log


def test_many_keys_come_in_the_order_of_the_one_sequence(log: LogDb) -> None:
    append(log, (b"b", b"0"), (b"a", b"1"), (b"c", b"2"), (b"a", b"3"))
    listener = Listener(log.follow_all([b"a", b"b"]))
    assert listener.wait_for(3) == [b"0", b"1", b"3"]

    append(log, (b"c", b"4"), (b"b", b"5"))
    append(log, (b"a", b"6"))

    assert listener.wait_for(5) == [b"0", b"1", b"3", b"5", b"6"]


def test_a_prefix_takes_in_keys_that_come_later(log: LogDb) -> None:
    append(log, (b"user/1", b"0"), (b"order/1", b"1"))
    listener = Listener(log.follow_all(prefix=b"user/"))
    assert listener.wait_for(1) == [b"0"]

    append(log, (b"order/2", b"2"), (b"user/2", b"3"))
    log.seal_segment()
    append(log, (b"user/3", b"4"))

    assert listener.wait_for(3) == [b"0", b"3", b"4"]


@pytest.mark.parametrize(
    "arguments", [{}, {"keys": [b"a"], "prefix": b"a"}, {"keys": b"a"}, {"keys": [b""]}, {"prefix": 1}]
)
def test_many_keys_are_named_in_one_way(log: LogDb, arguments: dict[str, Any]) -> None:
    for call in (log.follow_all, log.scan_all):
        with pytest.raises(InvalidInputError):
            call(**arguments)


@pytest.mark.parametrize(
    "call", [lambda log: log.follow(b""), lambda log: log.follow(b"a", -1), lambda log: log.follow(b"a", timeout=-1)]
)
def test_bad_input_is_refused_at_the_call(log: LogDb, call: Callable[[LogDb], Any]) -> None:
    with pytest.raises(InvalidInputError):
        call(log)


KEYS = [b"a", b"aa", b"ab", b"b", b"c"]
steps = st.lists(
    st.one_of(
        st.lists(st.sampled_from(KEYS), min_size=1, max_size=12),
        st.sampled_from(["seal", "reopen", "flush", "keep"]),
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(steps, st.sampled_from([{"prefix": b""}, {"prefix": b"a"}, {"keys": [b"a", b"c", b"zz"]}]), st.data())
def test_many_keys_read_like_a_filtered_list(plan: list[Any], chosen: dict[str, Any], data: st.DataObject) -> None:
    """Whatever is in memory or in tables, from any start, in windows of any size, and resumed at any entry."""
    config = Config(storage=f"memory://all-{next(NAMES)}", engine=tiny())
    log, model = LogDb.open(config), []
    for step in plan:
        if isinstance(step, list):
            first = append(log, *[(key, b"%d" % at) for at, key in enumerate(step)])
            model += [(first + at, key) for at, key in enumerate(step)]
        elif step == "seal":
            log.seal_segment()
        elif step == "flush":
            log.flush()
        elif step == "keep":
            list(log.follow_all(prefix=b"", timeout=0))
        else:
            log.close()
            log = LogDb.open(config)
    start = data.draw(st.integers(0, len(model) + 2))
    end = data.draw(st.none() | st.integers(0, len(model) + 2))
    wanted = [
        pair
        for pair in model
        if pair[0] >= start
        and (end is None or pair[0] < end)
        and (("prefix" in chosen and pair[1].startswith(chosen["prefix"])) or pair[1] in chosen.get("keys", ()))
    ]
    with log, pytest.MonkeyPatch.context() as patch:
        patch.setattr("opendata_log.read.interleave.WINDOW", data.draw(st.integers(1, 20)))
        patch.setattr("opendata_log.read.interleave.WINDOW_PER_KEY", 1)
        found = log.scan_all(start=start, end=end, **chosen)
        assert [(entry.sequence, entry.key) for entry in found] == wanted
        if end is None:
            token, resumed = start, []
            while True:
                follower = log.follow_all(start=token, timeout=0, **chosen)
                taken = follower.fetchmany(data.draw(st.integers(1, 7)))
                if not taken:
                    break
                resumed += [(entry.sequence, entry.key) for entry in taken]
                token = follower.next_sequence
            assert resumed == wanted
            follower = log.follow_all(start=token, timeout=0, **chosen)
            first = append(log, *[(key, b"new") for key in KEYS])
            fresh = [(first + at, key) for at, key in enumerate(KEYS) if first + at >= start]
            prefix, keys = chosen.get("prefix", b"no such"), chosen.get("keys", ())
            assert [(entry.sequence, entry.key) for entry in follower] == [
                pair for pair in fresh if pair[1].startswith(prefix) or pair[1] in keys
            ]


def test_new_entries_of_many_keys_are_filtered_and_not_looked_for() -> None:
    """A million keys may be followed: what is new costs its own number of entries, not a scan per key."""
    with LogDbBuilder(storage="memory://", engine=tiny(l0_sst_size_bytes=1 << 20)).build() as log:
        append(log, *[(b"%04d" % number, b"") for number in range(1000)])
        follower = log.follow_all(prefix=b"", timeout=0)
        assert len(list(follower)) == 1000
        scans: list[bytes] = []
        scan_series = log._db.scan_series
        log._db.scan_series = lambda family, name, *rest, **options: (  # type: ignore[method-assign]
            scans.append(name) or scan_series(family, name, *rest, **options)
        )

        append(log, (b"0007", b"x"), (b"new", b"y"))

        assert [entry.value for entry in follower] == [b"x", b"y"]
        assert scans == []
