"""The options of the command line, checked once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

_EPILOG = """examples:
  python -m opendata_log.bench
  python -m opendata_log.bench --records 100_000 --value-size 1k
  python -m opendata_log.bench --storage memory://
  python -m opendata_log.bench --storage s3://bucket/prefix --storage-option endpoint_url=http://localhost:9000

The log lives in a new directory below the storage URL and is removed afterwards, unless --keep is given.
"""


@dataclass(frozen=True)
class Options:
    """Checked options. `storage` None: a new temporary directory. `seconds`: maximum seconds of the ingest; None: unlimited.

    `json` None: no JSON is written.
    """

    storage: str | None = None
    storage_options: tuple[tuple[str, str | bool | int], ...] = ()
    records: int = 500_000
    keys: int = 1000
    value_size: int = 100
    batch: int = 100
    seconds: float | None = None
    keep: bool = False
    json: Path | None = None


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def parse(arguments: Sequence[str] | None) -> Options:
    """The options in `arguments`; None: those of the process.

    Raises: SystemExit, with status 2 and one line on stderr for a bad option, with status 0 after --help.
    """
    parser = _make_parser()
    found = parser.parse_args(arguments)
    if found.batch > found.records:
        found.batch = found.records
    if found.json is not None and not found.json.absolute().parent.is_dir():
        parser.error(f"argument --json: no such directory: {found.json.absolute().parent}")
    return Options(
        storage=found.storage,
        storage_options=tuple(found.storage_option),
        records=found.records,
        keys=found.keys,
        value_size=found.value_size,
        batch=found.batch,
        seconds=found.seconds,
        keep=found.keep,
        json=found.json,
    )


def _make_parser() -> _Parser:
    parser = _Parser(
        prog="python -m opendata_log.bench",
        description="Measure what this machine and this storage give a log: ingest, scan, tail, reopen. "
        "Everything read is verified.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_argument_group("storage")
    where.add_argument("--storage", metavar="URL", help="any fsspec URL or path (default: a temporary directory)")
    where.add_argument(
        "--storage-option", action="append", type=_pair, default=[], metavar="K=V", help="for the storage; repeatable"
    )
    where.add_argument("--keep", action="store_true", help="leave the log where it was written, and say where")
    what = parser.add_argument_group("workload")
    what.add_argument("--records", type=_count, default=500_000, metavar="N", help="records to ingest (default 500k)")
    what.add_argument("--keys", type=_count, default=1000, metavar="N", help="keys they go to (default 1,000)")
    what.add_argument("--value-size", type=_size, default=100, metavar="BYTES", help="bytes a value (default 100)")
    what.add_argument("--batch", type=_count, default=100, metavar="N", help="records an append (default 100)")
    what.add_argument("--seconds", type=_seconds, metavar="S", help="stop the ingest after so many seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    return parser


_SUFFIXES = {"k": 1000, "m": 1_000_000, "g": 1_000_000_000}


def _size(text: str) -> int:
    """A whole number, written like 1000, 1_000, 1,000, 1k or 2M."""
    digits = text.strip().lower().replace("_", "").replace(",", "")
    scale = _SUFFIXES.get(digits[-1:], 1)
    try:
        number = int(digits if scale == 1 else digits[:-1]) * scale
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number: {text!r}") from None
    if number < 0:
        raise argparse.ArgumentTypeError(f"must not be negative: {text!r}")
    return number


def _count(text: str) -> int:
    number = _size(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1: {text!r}")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text!r}") from None
    if not 0 < number < 86_400:
        raise argparse.ArgumentTypeError(f"must be between 0 and a day: {text!r}")
    return number


def _pair(text: str) -> tuple[str, str | bool | int]:
    """The name and the value of `name=value`. Storage options are typed, so true, false and whole numbers are converted."""
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"expected name=value: {text!r}")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    return name, int(value) if value.isascii() and value.isdigit() else value
