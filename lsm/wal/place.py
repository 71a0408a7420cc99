"""Where the log is: in the database's own store, or in one of its own, which can be moved.

docs/protocol.md, rule B2. The manifest records where a log with a store of its own is. A handle that is told another place
looks whether the log is really there; the writer then records the new place, with its fence, so that a copy which stayed
behind at the old one is not taken for the log any more.
"""

from __future__ import annotations

from lsm.errors import CorruptionError, InvalidError
from lsm.manifest.model import Manifest
from lsm.object_store.reliable import ReliableStore
from lsm.wal.replay import list_wal, read_wal_object


def check_place(store: ReliableStore, url: str, manifest: Manifest) -> None:
    """See whether the handle's `store` holds this database's log. `url` names it; "": the database's own store.

    Cost: none where the log is in the database's own store; else one LIST, and one GET at a place that is not recorded.
    Raises: InvalidError.
    """
    recorded = manifest.wal_url
    if url == recorded == "":
        return
    if not url:
        raise InvalidError(
            f"the database keeps its log in a store of its own, at {recorded!r} when it was last opened: pass "
            f"wal_url={recorded!r}, or the place where that log is now"
        )
    taken = set(list_wal(store))
    if url == recorded:
        if not taken and manifest.fences:
            raise InvalidError(
                f"wal_url: there is no log at {url}, and this database has one: mount the volume, or pass the place where "
                f"the log is now"
            )
        return
    problem = _problem(store, taken, manifest)
    if problem:
        where = f"at {recorded!r}" if recorded else "with its tables"
        raise InvalidError(
            f"wal_url: {url} is not this database's log: {problem}. The log was {where} when the database was last "
            f"opened: pass the place where it is now"
        )


def _problem(store: ReliableStore, taken: set[int], manifest: Manifest) -> str:
    """Why these objects are not the log; empty: they are."""
    if not taken:
        return "no log object is there"
    missing = [number for number in manifest.fences if number not in taken]
    if missing:
        return f"the log has a fence {missing[0]}, and there is none"
    newest = max(taken)
    if newest < manifest.replay_after:
        return f"its newest object is {newest}, and the tables hold the rows up to object {manifest.replay_after}"
    try:
        read_wal_object(store, max(manifest.fences, default=newest), manifest.database)
    except CorruptionError as error:
        return str(error)
    return ""
