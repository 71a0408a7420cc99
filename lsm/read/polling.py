"""Read walk of another process: when to look for news, and for what. Pure.

After news the next poll comes soon; each poll that finds nothing doubles the pause, up to the refresh interval. A poll asks
for the next log object alone: one request that finds nothing. The manifest is looked at once per refresh interval.
"""

from __future__ import annotations

from typing import Final

PAUSE_MIN: Final = 0.005
"""Seconds between two polls at the least (or the refresh interval, if that is shorter)."""
FASTER_MAX: Final = 16
"""After news, polls come at most so many times faster than the refresh interval asks for."""
SURE_LOOKS: Final = 16
"""One in so many looks at the manifest lists its versions, which costs more and misses nothing (rule M4)."""


def next_interval(interval: float, refresh_interval: float, *, found_news: bool) -> float:
    """Seconds from the start of a poll to the start of the next one; `interval` led to this poll."""
    fastest = min(refresh_interval, max(PAUSE_MIN, refresh_interval / FASTER_MAX))
    return fastest if found_news else max(fastest, min(refresh_interval, 2 * interval))


def pause(now: float, *, polled_at: float, looked_at: float, interval: float, refresh_interval: float) -> float:
    """Seconds to wait for the next poll, so that neither it nor the next look at the manifest comes late."""
    due = min(polled_at + interval, looked_at + refresh_interval)
    return max(min(PAUSE_MIN, refresh_interval), due - now)


def is_look_due(now: float, *, looked_at: float, refresh_interval: float) -> bool:
    """Whether the manifest was last looked at a refresh interval ago, give or take what a timer is late or early by."""
    return now - looked_at >= refresh_interval - min(PAUSE_MIN, refresh_interval) / 2
