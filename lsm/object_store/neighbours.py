"""The check made once, when a database is created: does another one lie around this root, or below it? (rule B3)

The objects of a database below one of another's prefixes are in the listings of the other. Names are matched whole, so
nothing is read or deleted that is not its own; but every LIST grows, and whoever deletes one deletes both.
"""

from __future__ import annotations

from collections.abc import Iterable

from lsm.errors import InvalidError
from lsm.object_store.contract import ObjectInfo
from lsm.object_store.names import MANIFESTS, PREFIXES, WAL, is_foreign, is_inner_manifest
from lsm.object_store.reliable import ReliableStore


def refuse_neighbours(store: ReliableStore, log: ReliableStore, listed: Iterable[ObjectInfo]) -> None:
    """`listed`: what is under the prefixes of both stores. Cost: where the path of a root has one of the engine's prefixes in
    it, two LIST for each. Raises: InvalidError, UnavailableError."""
    for info in listed:
        if is_inner_manifest(info.name):
            raise InvalidError(
                f"{store.url} cannot hold a database: {info.name} belongs to another one, whose root lies below it; choose "
                f"a place that is not around another database"
            )
    for one, other in ((store, log), (log, store)):
        for prefix in PREFIXES:
            # With a log of its own elsewhere, nothing is listed under the database's `wal/`.
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
    """Whether there are objects of a database; where its log is apart, those under `prefix` alone."""
    return any(not is_foreign(info.name) for each in dict.fromkeys((MANIFESTS, prefix)) for info in view.list(each))
