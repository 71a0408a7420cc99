"""The log for asyncio programs: the same names, as coroutines and async iterators. No I/O runs on the event loop."""

from opendata_log.aio.durable_watch import DurableWatch
from opendata_log.aio.follower import LogFollower
from opendata_log.aio.iterators import LogIterator, LogKeyIterator
from opendata_log.aio.log_db import LogDb, LogDbBuilder
from opendata_log.aio.reader import LogDbReader

__all__ = ["DurableWatch", "LogDb", "LogDbBuilder", "LogDbReader", "LogFollower", "LogIterator", "LogKeyIterator"]
