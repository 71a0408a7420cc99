"""Checks, when a database is created, that its root neither contains another database nor lies inside one (rule B3).

If a database lies below a prefix of another one, listings of the outer one show its objects. Names are matched whole, so
neither database reads or deletes the other's objects. But every LIST grows, and deleting the outer database deletes both.
"""

from __future__ import annotations

from collections.abc import Iterable

from lsm.errors import InvalidError
from lsm.object_store.contract import ObjectInfo
from lsm.object_store.names import MANIFESTS, PREFIXES, WAL, is_foreign, is_inner_manifest
from lsm.object_store.reliable import ReliableStore


def refuse_neighbours(store: ReliableStore, log: ReliableStore, listed: Iterable[ObjectInfo]) -> None:
    """Refuse a root around or inside another database. `listed`: the objects under the prefixes of both stores.

    Cost: two LIST per enclosing directory that is named like one of our prefixes. Raises: InvalidError, UnavailableError.
    """
    for info in listed:
        if is_inner_manifest(info.name):
            raise InvalidError(
                f"{store.url} cannot hold a database: {info.name} belongs to another one, whose root lies below it; choose "
                f"a place that is not around another database"
            )
    for one, other in ((store, log), (log, store)):
        for prefix in PREFIXES:
            # If the log has its own store, the database never lists its own `wal/`.
            is_listed = (prefix == WAL) == (other is log)
            if is_listed and f"{one.url}/".startswith(f"{other.url.rstrip('/')}/{prefix}"):
                raise InvalidError(
                    f"{one.url} lies inside the database at {other.url}, among its objects under {prefix}: keep tables and "
                    f"log beside each other, or both in one place"
                )
    for each in {id(view.store): view for view in (store, log)}.values():
        for outer, path in each.store.outer():
            around = next((prefix for prefix in PREFIXES if path.startswith(prefix)), None)
            if around is None:
                continue
            view = ReliableStore(
                outer, each.runtime, op_timeout=each.op_timeout, request_timeout=each.request_timeout
            ).with_cause("probe")
            if _is_database(view, around):
                raise InvalidError(
                    f"{each.url} lies inside the database at {outer.url}, among its objects under {around}: choose a place "
                    f"outside of it"
                )


def _is_database(view: ReliableStore, prefix: str) -> bool:
    """Whether `view` holds objects of a database. The store of a separate log has no manifests, only `prefix`."""
    return any(not is_foreign(info.name) for each in dict.fromkeys((MANIFESTS, prefix)) for info in view.list(each))
