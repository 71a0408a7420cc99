"""Numbers without sense in settings, files, the environment and calls: refused by name, or as good as never."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import lsm
from lsm.checks import SHOWN_MAX, age_seconds, integer, shown, text, timeout_seconds, wait_seconds
from lsm.object_store import MemoryStore
from lsm.runtime import WAIT_MAX
from tests.lsm.support import open_plain, tiny

NO_NUMBERS: list[Any] = [
    math.nan,
    -math.inf,
    -1,
    -0.001,
    True,
    "1",
    b"1",
    [1],
    {},
    timedelta(-1),
    1j,
    object(),
    -(10**5000),
]
ENDLESS: list[Any] = [math.inf, timedelta.max, 1e300, 10**400, 10**5000, 1 << 70]
WAITS = ("flush_interval", "compaction_stall_timeout", "op_timeout", "request_timeout", "gc_interval")
SIZES = sorted(
    name
    for name, value in ((each, getattr(lsm.Settings(), each)) for each in lsm.Settings.__slots__)
    if type(value) is int
)


@pytest.mark.parametrize("name", [*WAITS, "gc_min_age"])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: shown(value)[:12])
def test_refuses_a_duration_by_name(name: str, value: Any) -> None:
    with pytest.raises(lsm.InvalidError, match=f"settings: {name} "):
        lsm.Settings(**{name: value})


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, 1.0, -(1 << 70), 1 << 70, 10**5000, True, "1", None, [1]],
    ids=lambda value: shown(value)[:12],
)
def test_refuses_a_size_by_name(name: str, value: Any) -> None:
    with pytest.raises(lsm.InvalidError, match=f"settings: {name} "):
        lsm.Settings(**{name: value})


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("value", ENDLESS, ids=lambda value: shown(value)[:12])
def test_a_wait_without_end_is_the_longest_there_is(name: str, value: Any) -> None:
    assert getattr(lsm.Settings(**{name: value}), name) == WAIT_MAX
    with pytest.raises(lsm.InvalidError, match="gc_min_age"):
        lsm.Settings(gc_min_age=math.inf)


def test_no_thread_dies_of_the_longest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    store = MemoryStore()
    settings = tiny(**dict.fromkeys(WAITS, math.inf), gc_min_age=timedelta.max)
    with (
        open_plain(store, settings) as db,
        lsm.DbReader.open("memory://", settings, object_store=store, refresh_interval=math.inf) as reader,
        lsm.DbCompactor.open("memory://", settings, object_store=store, poll_interval=math.inf) as compactor,
    ):
        for at in range(4):
            db.put(b"k%d" % at, b"v", await_durable=True)
            db.flush(lsm.FlushType.MEMTABLE)
        db.collect_garbage()
        db.wait_idle(math.inf)
        db.wait_space(timedelta.max)  # type: ignore[arg-type]
        db.put(b"k", b"v").await_durable(math.inf)
        assert db.wait_durable_beyond(0, 10**400) >= 5
        assert compactor.run_once(math.inf)
        reader.refresh()
        assert reader.get(b"k") == b"v"
    assert not died


CALLS: dict[str, Callable[[lsm.Db, Any], object]] = {
    "wait_idle": lambda db, value: db.wait_idle(value),
    "wait_space": lambda db, value: db.wait_space(value),
    "slow_down": lambda db, value: db.slow_down(1, value),
    "wait_durable_beyond": lambda db, value: db.wait_durable_beyond(0, value),
    "await_durable": lambda db, value: db.put(b"k", b"v").await_durable(value),
    "collect_garbage": lambda db, value: db.collect_garbage(min_age=value),
    "create_checkpoint": lambda db, value: db.create_checkpoint(lifetime=value),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_refuse_what_is_no_duration(call: str) -> None:
    with open_plain(MemoryStore()) as db:
        for value in NO_NUMBERS:
            with pytest.raises(lsm.InvalidError):
                CALLS[call](db, value)
        db.put(b"k", b"v", await_durable=True)


def test_openings_and_admin_refuse_them_too() -> None:
    store = MemoryStore()
    open_plain(store).close()
    with lsm.Admin("memory://", object_store=store) as admin:
        made = admin.create_detached_checkpoint()
        for value in NO_NUMBERS:
            for name, open_it in (("refresh_interval", lsm.DbReader.open), ("poll_interval", lsm.DbCompactor.open)):
                with pytest.raises(lsm.InvalidError, match=name):
                    open_it("memory://", tiny(), object_store=store, **{name: value})
            with pytest.raises(lsm.InvalidError, match="min_age"):
                admin.run_gc_once(min_age=value)
            with pytest.raises(lsm.InvalidError, match="lifetime"):
                admin.refresh_checkpoint(made.id, value)
            with pytest.raises(lsm.InvalidError, match="manifest_id"):
                admin.read_manifest(value)
        with pytest.raises(lsm.InvalidError, match="no manifest"):
            admin.read_manifest(1 << 60)


# -- files and the environment ----------------------------------------------------------------------------------------


def file_of(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


GOOD = json.dumps({"op_timeout": 3}).encode()
FILES: dict[str, tuple[str, bytes]] = {
    "UTF-16": ("s.json", GOOD.decode().encode("utf-16")),
    "latin-1": ("s.toml", 'disk_cache_dir = "\u00fc"'.encode("latin-1")),
    "binary": ("s.yaml", bytes(range(256))),
    "empty JSON": ("s.json", b""),
    "deep JSON": ("s.json", b'{"op_timeout": ' + b"[" * 100_000),
    "deep TOML": ("s.toml", b"op_timeout = " + b"[" * 100_000),
    "deep YAML": ("s.yaml", b"[" * 20_000),
    "a name twice": ("s.json", b'{"op_timeout": 3, "op_timeout": 4}'),
    "a name twice, TOML": ("s.toml", b"op_timeout = 3\nop_timeout = 4\n"),
    "a number that is none": ("s.json", b'{"op_timeout": NaN}'),
    "NaN, TOML": ("s.toml", b"op_timeout = nan"),
    "too many digits": ("s.json", b'{"op_timeout": -' + b"9" * 10_000 + b"}"),
    "a list": ("s.json", b"[1]"),
    "no suffix": ("settings", GOOD),
    "negative": ("s.toml", b"gc_interval = -inf"),
}


@pytest.mark.parametrize("what", FILES)
def test_refuses_a_file(what: str, tmp_path: Path) -> None:
    name, content = FILES[what]
    with pytest.raises(lsm.InvalidError):
        lsm.Settings.from_file(file_of(tmp_path / name, content))


@pytest.mark.parametrize("path", ["", "missing.toml", "a\0b.toml", 7, None, "dir.toml"])
def test_refuses_a_path(path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir.toml").mkdir()
    with pytest.raises(lsm.InvalidError, match="settings file"):
        lsm.Settings.from_file(path)


@pytest.mark.parametrize("name", ["s.json", "s.toml"])
def test_takes_a_byte_order_mark(name: str, tmp_path: Path) -> None:
    content = GOOD if name == "s.json" else b"op_timeout = 3"
    assert lsm.Settings.from_file(file_of(tmp_path / name, b"\xef\xbb\xbf" + content)).op_timeout == 3.0


@pytest.mark.parametrize("value", ["nan", "NaN", "-1", "true", '"1"', "[" * 100_000, "1e", "", "\udcff"])
def test_refuses_a_variable_by_name(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSM_OP_TIMEOUT", value)
    with pytest.raises(lsm.InvalidError, match="op_timeout"):
        lsm.Settings.from_env()


def test_refuses_what_is_no_mapping() -> None:
    for values in (None, [1], "op_timeout"):
        with pytest.raises(lsm.InvalidError, match="mapping"):
            lsm.Settings.from_dict(values)  # type: ignore[arg-type]


# -- one function for each kind -----------------------------------------------------------------------------------------


def test_durations_and_sizes() -> None:
    assert (wait_seconds(3, "x"), wait_seconds(timedelta(minutes=1), "x"), wait_seconds(0, "x")) == (3.0, 60.0, 0.0)
    assert (timeout_seconds(None), timeout_seconds(math.inf)) == (None, WAIT_MAX)
    assert age_seconds(timedelta.max, "x") == timedelta.max.total_seconds()
    assert integer(7, "x", low=7, high=7) == 7
    for low, value in ((0.5, 0.4), (0.5, math.nan)):
        with pytest.raises(lsm.InvalidError, match="x must be seconds"):
            wait_seconds(value, "x", least=low)
    for bad in (6, 8, 7.0, True, "7", None):
        with pytest.raises(lsm.InvalidError, match="x must be an integer from 7 to 7"):
            integer(bad, "x", low=7, high=7)
    with pytest.raises(lsm.InvalidError, match="too long: at most 3"):
        text("\u00e4\u00e4", "x", bytes_max=3)


def test_shows_what_was_given_however_large() -> None:
    class Nameless:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert shown(1.5) == "1.5"
    assert len(shown("x" * 10_000)) == SHOWN_MAX + 3
    assert shown(10**5000).startswith("a int (")
    assert shown(Nameless()) == "a Nameless (no)"
