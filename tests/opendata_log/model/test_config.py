"""Configuration: defaults, forms it can be given in, and refusal of everything else by name."""

import dataclasses
import json
import math
import pickle
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lsm.settings import Settings
from opendata_log.model.config import (
    Config,
    LogCompactionOptions,
    ReaderConfig,
    ReadVisibility,
    RetentionConfig,
    SegmentConfig,
)
from opendata_log.model.errors import InvalidInputError
from opendata_log.model.options import CountOptions, ScanOptions
from opendata_log.model.storage_config import StorageConfig

CLASSES = [
    Config,
    ReaderConfig,
    SegmentConfig,
    RetentionConfig,
    LogCompactionOptions,
    ScanOptions,
    CountOptions,
    lambda **given: StorageConfig(**{"url": "memory://", **given}),
]


def test_defaults_are_the_contracts() -> None:
    config = Config()

    assert config.storage == "file://.data/log"
    assert config.segmentation == SegmentConfig(seal_interval=None, seal_byte_limit=None)
    assert config.read_visibility is ReadVisibility.MEMORY
    assert config.retention == RetentionConfig(retention=None, check_interval=60.0)
    assert config.compaction == LogCompactionOptions(min_l0_per_compaction=4, max_l0_per_compaction=8, l0_only=False)
    assert config.sst_block_size is None
    assert config.engine is None
    assert ReaderConfig().refresh_interval == 1.0
    assert ReaderConfig().storage == config.storage
    assert ScanOptions() == ScanOptions(limit=None, read_ahead_bytes=1 << 20, cache_blocks=True)
    assert CountOptions().approximate is False
    assert StorageConfig(url="memory://").storage_options == {}


@pytest.mark.parametrize("kind", CLASSES)
def test_configurations_are_frozen_keyword_only_values(kind: Any) -> None:
    config = kind()

    assert config == kind() == pickle.loads(pickle.dumps(config))
    assert hash(config) == hash(kind())
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, None)
    with pytest.raises(TypeError):
        type(config)("positional")


# -- values ------------------------------------------------------------------------------------------------------------

DURATIONS = [
    (SegmentConfig, "seal_interval", True),
    (RetentionConfig, "retention", True),
    (RetentionConfig, "check_interval", False),
    (ReaderConfig, "refresh_interval", False),
]
INTEGERS = [
    (SegmentConfig, "seal_byte_limit", 1, True),
    (LogCompactionOptions, "min_l0_per_compaction", 1, False),
    (LogCompactionOptions, "max_l0_per_compaction", 4, False),
    (Config, "sst_block_size", 64, True),
    (ReaderConfig, "block_cache_bytes", 0, True),
    (ReaderConfig, "meta_cache_bytes", 0, True),
    (ReaderConfig, "disk_cache_bytes", 1 << 20, True),
    (ScanOptions, "limit", 0, True),
    (ScanOptions, "read_ahead_bytes", 0, False),
]


@pytest.mark.parametrize(("kind", "name", "optional"), DURATIONS)
def test_durations_are_kept_as_seconds(kind: Any, name: str, optional: bool) -> None:
    for given, kept in ((3, 3.0), (0.25, 0.25), (timedelta(minutes=2), 120.0), (timedelta(milliseconds=1), 0.001)):
        found = getattr(kind(**{name: given}), name)
        assert type(found) is float
        assert found == kept
    if optional:
        assert getattr(kind(**{name: None}), name) is None


@pytest.mark.parametrize(("kind", "name", "optional"), DURATIONS)
def test_bad_durations_are_refused_by_name(kind: Any, name: str, optional: bool) -> None:
    bad: list[Any] = [
        0,
        -1,
        -0.5,
        math.nan,
        math.inf,
        1e300,
        10**400,
        True,
        "60",
        [1],
        timedelta(0),
        timedelta(days=-1),
    ]
    for value in bad if optional else [*bad, None]:
        with pytest.raises(InvalidInputError, match=rf"{kind.__name__}: {name} must be seconds") as caught:
            kind(**{name: value})
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("kind", "name", "low", "optional"), INTEGERS)
def test_integers_are_checked_by_name(kind: Any, name: str, low: int, optional: bool) -> None:
    assert getattr(kind(**{name: low}), name) == low
    bad: list[Any] = [-1, 1.0, "8", True, math.nan, [8]]
    for value in bad if optional else [*bad, None]:
        with pytest.raises(InvalidInputError, match=rf"{kind.__name__}: {name} must be an integer") as caught:
            kind(**{name: value})
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name"), [(LogCompactionOptions, "l0_only"), (ScanOptions, "cache_blocks"), (CountOptions, "approximate")]
)
def test_flags_are_true_or_false(kind: Any, name: str) -> None:
    assert getattr(kind(**{name: True}), name) is True
    for value in (1, 0, None, "yes"):
        with pytest.raises(InvalidInputError, match=rf"{name} must be True or False"):
            kind(**{name: value})


@pytest.mark.parametrize("size", [0, 63, (16 << 20) + 1])
def test_block_size_has_limits(size: int) -> None:
    with pytest.raises(InvalidInputError, match="from 64 to 16777216"):
        Config(sst_block_size=size)


def test_zero_byte_limit_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="seal_byte_limit must be an integer, at least 1, or None, got 0"):
        SegmentConfig(seal_byte_limit=0)


def test_minimum_must_not_exceed_maximum() -> None:
    assert LogCompactionOptions(min_l0_per_compaction=8).min_l0_per_compaction == 8
    with pytest.raises(InvalidInputError, match=r"min_l0_per_compaction \(9\) must not exceed"):
        LogCompactionOptions(min_l0_per_compaction=9)


def test_retention_needs_a_seal_interval_that_is_no_longer() -> None:
    kept = RetentionConfig(retention=60)

    assert Config(retention=kept, segmentation=SegmentConfig(seal_interval=60)).retention == kept
    for segmentation in (SegmentConfig(), SegmentConfig(seal_byte_limit=5), SegmentConfig(seal_interval=60.001)):
        with pytest.raises(InvalidInputError, match="seal_interval"):
            Config(retention=kept, segmentation=segmentation)


def test_durations_in_milliseconds_are_never_zero() -> None:
    assert SegmentConfig().seal_interval_ms is None
    assert SegmentConfig(seal_interval=1e-9).seal_interval_ms == 1
    assert SegmentConfig(seal_interval=1.5).seal_interval_ms == 1500
    assert RetentionConfig(retention=timedelta.max).retention_ms == round(timedelta.max.total_seconds() * 1000)


@pytest.mark.parametrize("storage", [None, "", 5, b"file:///x", ["memory://"], True])
def test_storage_must_be_named(storage: Any) -> None:
    for kind in (Config, ReaderConfig):
        with pytest.raises(InvalidInputError, match="storage must be an fsspec URL or a path"):
            kind(storage=storage)


def test_storage_can_be_given_short_long_or_as_a_path() -> None:
    long = StorageConfig(url="s3://bucket/x", storage_options={"anon": True}, wal_url="file:///wal")

    assert Config(storage="memory://").storage_config == StorageConfig(url="memory://")
    assert Config(storage=long).storage_config is long
    assert Config(storage=Path("/tmp/x")).storage == "/tmp/x"  # type: ignore[arg-type]
    assert Config.from_dict({"storage": {"url": "memory://"}}).storage == StorageConfig(url="memory://")


def test_storage_options_are_copied_and_not_shown() -> None:
    options = {"key": "id", "secret": "hush"}
    config = StorageConfig(url="s3://bucket", storage_options=options)

    options["key"] = "changed"

    assert config.storage_options == {"key": "id", "secret": "hush"}
    assert "hush" not in repr(config)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"url": ""}, "url"),
        ({"wal_url": ""}, "wal_url"),
        ({"wal_url": 5}, "wal_url"),
        ({"storage_options": None}, "storage_options"),
        ({"storage_options": [1]}, "storage_options"),
        ({"storage_options": {1: 2}}, "storage_options"),
        ({"block_cache_bytes": -1}, "block_cache_bytes"),
    ],
)
def test_bad_storage_is_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError, match=f"StorageConfig: {named} must be"):
        StorageConfig(**{"url": "memory://", **given})


def test_readers_cache_size_wins() -> None:
    storage = StorageConfig(url="memory://", block_cache_bytes=1)

    assert ReaderConfig(storage=storage).storage_config.block_cache_bytes == 1
    assert ReaderConfig(storage=storage, block_cache_bytes=2).storage_config.block_cache_bytes == 2
    assert ReaderConfig(block_cache_bytes=2).storage_config.block_cache_bytes == 2


@pytest.mark.parametrize("level", ["durable", "MEMORY", None, True, 0])
def test_unknown_visibility_is_refused(level: Any) -> None:
    with pytest.raises(InvalidInputError, match="read_visibility must be 'memory' or 'remote'"):
        Config(read_visibility=level)


@pytest.mark.parametrize("name", ["segmentation", "retention", "compaction"])
def test_nested_configurations_must_be_of_their_kind(name: str) -> None:
    bad: list[Any] = [None, 5, "60", ScanOptions()]
    for value in bad:
        with pytest.raises(InvalidInputError, match=f"Config: {name} must be"):
            Config(**{name: value})


def test_engine_settings_can_be_a_mapping() -> None:
    assert Config(engine={"flush_interval": 1}).engine == Settings(flush_interval=1.0)  # type: ignore[arg-type]
    assert ReaderConfig.from_dict({"engine": {"op_timeout": 5}}).engine == Settings(op_timeout=5.0)
    for bad in ({"no_such": 1}, {"flush_interval": "soon"}):
        with pytest.raises(InvalidInputError, match=r"Config: engine: settings: .*(no_such|flush_interval)"):
            Config.from_dict({"engine": bad})
    with pytest.raises(InvalidInputError, match="engine must be an"):
        Config(engine=5)  # type: ignore[arg-type]


# -- forms -------------------------------------------------------------------------------------------------------------

PLAIN: dict[str, Any] = {
    "storage": {"url": "s3://bucket/log", "storage_options": {"anon": True}},
    "segmentation": {"seal_interval": 3600, "seal_byte_limit": 1000},
    "read_visibility": "remote",
    "retention": {"retention": 86400.5, "check_interval": 5},
    "compaction": {"min_l0_per_compaction": 2, "max_l0_per_compaction": 6, "l0_only": True},
    "sst_block_size": 4096,
    "engine": {"flush_interval": 0.5},
}
WHOLE = Config(
    storage=StorageConfig(url="s3://bucket/log", storage_options={"anon": True}),
    segmentation=SegmentConfig(seal_interval=3600, seal_byte_limit=1000),
    read_visibility=ReadVisibility.REMOTE,
    retention=RetentionConfig(retention=86400.5, check_interval=5),
    compaction=LogCompactionOptions(min_l0_per_compaction=2, max_l0_per_compaction=6, l0_only=True),
    sst_block_size=4096,
    engine=Settings(flush_interval=0.5),
)
TOML = """
read_visibility = "remote"
sst_block_size = 4096
[storage]
url = "s3://bucket/log"
storage_options = { anon = true }
[segmentation]
seal_interval = 3600
seal_byte_limit = 1000
[retention]
retention = 86400.5
check_interval = 5
[compaction]
min_l0_per_compaction = 2
max_l0_per_compaction = 6
l0_only = true
[engine]
flush_interval = 0.5
"""


def test_plain_values_make_the_same_configuration() -> None:
    assert Config.from_dict(PLAIN) == WHOLE
    assert Config.from_dict({}) == Config()
    assert ReaderConfig.from_dict({"storage": "memory://", "refresh_interval": 5}) == ReaderConfig(
        storage="memory://", refresh_interval=timedelta(seconds=5)
    )


def test_files_make_the_same_configuration(tmp_path: Path) -> None:
    (tmp_path / "log.toml").write_text(TOML, "utf-8")
    (tmp_path / "log.json").write_text(json.dumps(PLAIN), "utf-8")

    assert Config.from_file(tmp_path / "log.toml") == WHOLE
    assert Config.from_file(str(tmp_path / "log.json")) == WHOLE


def test_yaml_files_make_the_same_configuration(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    (tmp_path / "log.yaml").write_text(yaml.safe_dump(PLAIN), "utf-8")

    assert Config.from_file(tmp_path / "log.yaml") == WHOLE


def test_reader_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "reader.toml").write_text('storage = "memory://x"\nrefresh_interval = 0.5\n', "utf-8")

    assert ReaderConfig.from_file(tmp_path / "reader.toml") == ReaderConfig(storage="memory://x", refresh_interval=0.5)


@pytest.mark.parametrize(
    ("name", "text"),
    [("missing.toml", None), ("bad.toml", "= 1"), ("bad.json", "{"), ("list.json", "[]"), ("log.ini", "")],
)
def test_unreadable_files_are_refused_by_name(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, "utf-8")

    for kind in (Config, ReaderConfig):
        with pytest.raises(InvalidInputError, match=name):
            kind.from_file(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"no_such": 1}, "Config: unknown name 'no_such'"),
        ({"segmentation": {"seal_intervall": 1}}, "SegmentConfig: unknown name 'seal_intervall'"),
        ({"retention": {"days": 1}}, "RetentionConfig: unknown name 'days'"),
        ({"compaction": {"min": 1}}, "LogCompactionOptions: unknown name 'min'"),
        ({"storage": {"uri": "memory://"}}, "StorageConfig: unknown name 'uri'"),
        ({"storage": {}}, "StorageConfig: .*'url'"),
        ({1: 2}, "Config: unknown name 1"),
        ([], "Config must be made from a mapping, got list"),
        (None, "Config must be made from a mapping, got NoneType"),
    ],
)
def test_unknown_names_are_refused_by_name(values: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        Config.from_dict(values)


def test_overrides_replace_fields_and_are_checked() -> None:
    changed = WHOLE.with_overrides(storage="memory://", read_visibility="memory", compaction={})

    assert changed.storage == "memory://"
    assert changed.read_visibility is ReadVisibility.MEMORY
    assert changed.compaction == LogCompactionOptions()
    assert changed.retention == WHOLE.retention
    assert Config().with_overrides() == Config()
    assert ReaderConfig().with_overrides(refresh_interval=2).refresh_interval == 2.0
    with pytest.raises(InvalidInputError, match="unknown name 'storge'"):
        Config().with_overrides(storge="memory://")
    with pytest.raises(InvalidInputError, match="unknown name 'retention'"):
        ReaderConfig().with_overrides(retention=None)
    with pytest.raises(InvalidInputError, match="seal_interval"):
        WHOLE.with_overrides(segmentation=SegmentConfig())


TYPED_USE = """
from datetime import timedelta
from pathlib import Path
from opendata_log import Config, ReaderConfig, StorageConfig
Config(storage=Path("/srv/log"))
Config(storage={"url": "memory://"})
Config(storage="memory://", engine={"compaction_enabled": False})
Config(storage="memory://", segmentation={"seal_interval": 3600}, retention={"retention": 7200}, compaction={"l0_only": True})
Config(storage="memory://", read_visibility="remote")
StorageConfig(url=Path("/srv/log"), wal_url=Path("/fast/wal"), disk_cache_dir=Path("/tmp/cache"))
ReaderConfig(storage=Path("/srv/log"), refresh_interval=timedelta(seconds=1), engine={"op_timeout": 5})
"""


@pytest.mark.slow
def test_what_is_documented_passes_a_strict_type_check(tmp_path: Path) -> None:
    exec(TYPED_USE, {})
    program = tmp_path / "use.py"
    program.write_text(TYPED_USE)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(program)]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
