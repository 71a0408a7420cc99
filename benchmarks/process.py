"""Costs of this process and its descendants: CPU seconds and resident memory.

Engines may work in child processes. Reaped children are in `RUSAGE_CHILDREN`; living children are read from /proc
(Linux), so the difference of two readings includes both.
"""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")


def cpu_seconds() -> float:
    """User and system time of all threads of this process and of all its descendants so far."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total + sum(_cpu_of(stat) for stat in _descendants().values())


def written_bytes() -> int:
    """Bytes that this process and its reaped children have passed to `write` so far: to files, and a few to pipes."""
    for line in (_PROC / "self/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise OSError("/proc/self/io does not say what was written")


def resident_bytes() -> int:
    """Resident memory of this process now, garbage collected first."""
    gc.collect()
    try:
        return int((_PROC / "self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return peak_bytes()


def peak_bytes() -> int:
    """Peak resident memory of this process. `getrusage` alone would include the process it was forked from."""
    try:
        for line in (_PROC / "self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def children_peak_bytes() -> int:
    """Peak resident memory of any single reaped child."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _descendants() -> dict[int, list[str]]:
    """For every living descendant: process id to the fields of /proc/PID/stat after the command name."""
    stats: dict[int, list[str]] = {}
    if not _PROC.is_dir():
        return stats
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                stats[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # It ended between the listing and the read.
    found: dict[int, list[str]] = {}
    frontier = {os.getpid()}
    while frontier:
        children = {pid for pid, stat in stats.items() if int(stat[1]) in frontier and pid not in found}
        found.update((pid, stats[pid]) for pid in children)
        frontier = children
    return found


def _cpu_of(stat: list[str]) -> float:
    return sum(int(field) for field in stat[11:15]) / _TICKS
