"""The observer that writes events to `logging`, each as a line of its own logger."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from lsm.observe.events import EVENTS, Event, observe

ROOTS: Final = ("lsm", "opendata_log")


class LogLines:
    """Writes a line where its logger is enabled for the event's level."""

    def __init__(self) -> None:
        self._loggers = {each.logger: logging.getLogger(each.logger) for each in EVENTS}

    def wants(self, event: Event) -> bool:
        return self._loggers[event.logger].isEnabledFor(event.level)

    def on_event(self, event: Event, facts: Mapping[str, object]) -> None:
        self._loggers[event.logger].log(event.level, event.text, facts)


for _root in ROOTS:
    # Without a handler of its own a library's warnings would go to stderr in a program that configured no logging.
    logging.getLogger(_root).addHandler(logging.NullHandler())
observe(LogLines())


@contextmanager
def on_stderr() -> Iterator[None]:
    """Meanwhile, lines from INFO on go to stderr: for programs that run for long, where nobody else configures logging."""
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
