"""Where the log is: in the database's own store, or in a separate store, which can be moved.

docs/protocol.md, rule B2. The manifest records the place of a separate log store. A handle that is opened with another place
checks that the log is really there. The writer then puts a fence into the new place and records both in the manifest, so that
a copy left at the old place no longer passes for the log.
"""

from __future__ import annotations

from lsm.errors import CorruptionError, InvalidError
from lsm.manifest.model import Manifest
from lsm.object_store.reliable import ReliableStore
from lsm.wal.replay import list_wal, read_wal_object


def check_place(store: ReliableStore, url: str, manifest: Manifest) -> None:
    """Check that `store` holds this database's log. `url` names the store; "": the database's own store.

    Cost: none for the database's own store; otherwise one LIST, and one GET if the place is not the recorded one.
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
    """Return why the objects `taken` are not the log; empty if they are."""
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
