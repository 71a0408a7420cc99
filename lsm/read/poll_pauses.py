"""Read walk of another process: when to poll the log, and when the manifest. Pure.

A poll that finds news makes the next one come soon; each poll that finds nothing doubles the pause, up to the refresh
interval. A poll requests the next log object only, so an idle poll costs one request. The manifest is read once per refresh
interval.
"""

from __future__ import annotations

from typing import Final

PAUSE_MIN: Final = 0.005
"""Minimum seconds between two polls (or the refresh interval, if that is shorter)."""
FASTER_MAX: Final = 16
"""After news, polls come up to this many times per refresh interval."""
SURE_LOOKS: Final = 16
"""Of this many looks at the manifest, one lists its versions. Listing costs more and misses nothing (rule M4)."""


def next_interval(interval: float, refresh_interval: float, *, found_news: bool) -> float:
    """Seconds from the start of this poll to the start of the next one; `interval` is the one before this poll."""
    fastest = min(refresh_interval, max(PAUSE_MIN, refresh_interval / FASTER_MAX))
    return fastest if found_news else max(fastest, min(refresh_interval, 2 * interval))


def pause(now: float, *, polled_at: float, looked_at: float, interval: float, refresh_interval: float) -> float:
    """Seconds to wait before the next poll, so that neither the poll nor the next look at the manifest is late."""
    due = min(polled_at + interval, looked_at + refresh_interval)
    return max(min(PAUSE_MIN, refresh_interval), due - now)


def is_look_due(now: float, *, looked_at: float, refresh_interval: float) -> bool:
    """Whether the last look at the manifest was a refresh interval ago, with some tolerance for early timers."""
    return now - looked_at >= refresh_interval - min(PAUSE_MIN, refresh_interval) / 2
