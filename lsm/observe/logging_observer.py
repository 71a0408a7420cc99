"""The observer that writes each event to `logging`, as a line of the event's logger."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from lsm.observe.events import EVENTS, Event, observe

ROOTS: Final = ("lsm", "opendata_log")


class LogLines:
    """Writes a line if the event's logger is enabled for the event's level."""

    def __init__(self) -> None:
        self._loggers = {each.logger: logging.getLogger(each.logger) for each in EVENTS}

    def wants(self, event: Event) -> bool:
        return self._loggers[event.logger].isEnabledFor(event.level)

    def on_event(self, event: Event, facts: Mapping[str, object]) -> None:
        self._loggers[event.logger].log(event.level, event.text, facts)


for _root in ROOTS:
    # Without a handler, the library's warnings would go to stderr in programs that do not configure logging.
    logging.getLogger(_root).addHandler(logging.NullHandler())
observe(LogLines())


@contextmanager
def on_stderr() -> Iterator[None]:
    """Write lines from INFO upwards to stderr while the block runs. For long-running programs of ours."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(root) for root in ROOTS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
