"""The facts that a figure depends on: interpreter, cores, platform, versions."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from collections.abc import Iterable
from importlib import metadata
from typing import Any

PACKAGES = ("fsspec", "s3fs", "zstandard", "crc32c", "msgspec", "xxhash", "sortedcontainers")


def machine_facts(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """The facts as plain values, ready for JSON. The version of a package that is not installed is None."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "cores": usable_cores(),
        "load": load_average(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "opendata-log": version_of("opendata-log"),
            "sqlite3": sqlite3.sqlite_version,
            **{name: version_of(name) for name in packages},
        },
    }


def version_of(package: str) -> str | None:
    """The installed version; None: the package is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def usable_cores() -> int:
    """How many cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def load_average() -> float | None:
    """The average number of runnable processes over the last minute; None where the platform does not report it."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def _processor() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None
