"""Checks a batch's keys against the series layout and the prefix extractor of the database."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lsm.checks import shown
from lsm.errors import InvalidError
from lsm.rows.chunk import partition_rows
from lsm.runtime import Runtime
from lsm.sst.table_rules import Rules
from lsm.view import LiveViews
from lsm.write.batch import WriteBatch


class Prefixes:
    """The partition prefixes that this handle knows. No prefix may begin with another one: reads would search for keys of one
    partition in the tree of the other, and no manifest with both can be committed."""

    def __init__(self, stored: Callable[[], Iterable[bytes]], lock: Any) -> None:
        """`stored`: returns the prefixes of the existing partitions; called once, at the first prefix new to this handle."""
        self._stored: Callable[[], Iterable[bytes]] | None = stored
        self._lock = lock
        self._known: list[bytes] = []
        self._set: set[bytes] = set()

    def check(self, prefix: object, key: bytes, extractor: str) -> None:
        """Raise InvalidError if `prefix` is no prefix of the key, or nests with another partition's. Cost: one look-up."""
        if type(prefix) is bytes and prefix in self._set and key.startswith(prefix):
            return
        if type(prefix) is not bytes or not prefix or not key.startswith(prefix):
            raise InvalidError(f"prefix extractor {extractor!r} gives {shown(prefix)} for key {shown(key)}")
        with self._lock:
            self._add(prefix, key, extractor)

    def _add(self, prefix: bytes, key: bytes, extractor: str) -> None:
        if self._stored is not None:
            self._set.update(self._stored())
            self._known = sorted(self._set)
            self._stored = None
        if prefix in self._set:
            return
        at = bisect_left(self._known, prefix)
        around = self._known[max(0, at - 1) : at + 1]
        for other in around:
            if prefix.startswith(other) or other.startswith(prefix):
                raise InvalidError(
                    f"prefix extractor {extractor!r} gives {shown(prefix)} for key {shown(key)}, and {shown(other)} for "
                    "others: no prefix may begin with another one"
                )
        self._known.insert(at, prefix)
        self._set.add(prefix)


class KeyChecks:
    """Checks every batch before any of it is written."""

    def __init__(self, runtime: Runtime, rules: Rules, views: LiveViews) -> None:
        self._rules = rules
        self._views = views
        self._prefixes = Prefixes(self._stored_prefixes, runtime.lock())

    def check(self, batch: WriteBatch) -> None:
        """Raise InvalidError if the batch has keys or series rows that this database cannot store. Cost: with an extractor,
        one look-up per key."""
        rules = self._rules
        keys = batch.columns()[0]
        if rules.layout is not None:
            for key in keys:
                if rules.layout.family(key) is not None:
                    raise InvalidError(f"key {key!r} belongs to a series: use append_series")
        elif batch.series:
            raise InvalidError("the database was opened without a series layout")
        for part in batch.series:
            part.check(rules.layout)
        if rules.extractor is not None:
            listed = (directory for part in batch.series if (directory := part.directory(rules.layout)) is not None)
            for key in [*keys, *(part.family for part in batch.series), *listed]:
                self._prefixes.check(rules.prefix_of(key), key, rules.extractor.name)

    def _stored_prefixes(self) -> Iterator[bytes]:
        """Return the prefix of every partition, in tables and in memory. Cost: sorts the rows in memory."""
        view, rules = self._views.current, self._rules
        for partition in view.manifest.partitions:
            yield partition.prefix
        for table in view.memtables:
            for family in list(table.series):
                yield rules.prefix_of(family + b"\x00")
            for chunk in table.all_rows():
                for prefix, _, _ in partition_rows(chunk.keys, rules.prefix_of):
                    yield prefix
