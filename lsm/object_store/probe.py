"""The check made once, when a database is created: does this store really refuse the second create of a name? (rule O2)

Several S3 servers accept `If-None-Match` and overwrite all the same. On such a store two writers would each believe
they own the manifest, so creating the database is refused. A store that decides by looking first cannot be found out
this way; fsspec_store.py keeps those out by a list.
"""

from __future__ import annotations

import contextlib

from lsm.errors import InvalidError, UnavailableError
from lsm.object_store.contract import ObjectExists
from lsm.object_store.names import PROBES
from lsm.object_store.reliable import ReliableStore


def probe_conditional_create(store: ReliableStore) -> None:
    """Create one object twice with different bytes, under a name used only here, and remove it.

    Cost: 5 requests (put, put, two gets, delete), counted under the cause "probe".
    Raises: InvalidError where the second create went through or damaged the first; UnavailableError.
    """
    store = store.with_cause("probe")
    token = store.runtime.random_bytes(16).hex()
    name = f"{PROBES}{token}"
    first, second = (f"{turn} {token}".encode() for turn in ("first", "second"))
    store.put_new(name, [first])
    try:
        if not _is_refused(store, name, second):
            raise InvalidError(
                f"{store.url} ignores conditional writes: a second create of {name} replaced the first. Two writers "
                f"could damage a database there; use a store that honours If-None-Match"
            )
        if store.get(name) != first:
            raise InvalidError(f"{store.url} refused the second create of {name} and yet lost the bytes of the first")
    finally:
        # What the probe found out matters more than a leftover of 40 bytes.
        with contextlib.suppress(UnavailableError):
            store.delete(name)


def _is_refused(store: ReliableStore, name: str, body: bytes) -> bool:
    try:
        store.put_new(name, [body])
    except ObjectExists:
        return True
    return False
