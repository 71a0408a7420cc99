"""Proves that a store refuses the create of a taken name (rule O2).

Several S3 servers accept `If-None-Match` and overwrite all the same; Ceph does so once a bucket is versioned. On such a store
two writers would each believe they own the manifest. So every database keeps one probe object, and the store must refuse
a create over it: before a database is created or opened for writing, before every commit, and while the log is written
(rule O8).

A refused create of any name is a proof, too, so a lost race counts as one. The probe cannot detect a store that looks before
it writes; fsspec_store.py refuses such stores by a list.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from lsm.errors import InvalidError, UnavailableError
from lsm.object_store.contract import ObjectMissing
from lsm.object_store.names import PROBE, PROBES
from lsm.object_store.reliable import ReliableStore

PROOF_SECONDS: Final = 10.0
"""Maximum age in seconds of the proof behind a log object. A busy writer probes once per that time, an idle one never."""
CREATES_MAX: Final = 4
"""Successful creates in a row after which the store is refused. The first may have made the probe object, and two may be
wrong answers from a broken network."""
LISTINGS_MAX: Final = 4
MARK: Final = b"every create of this name must be refused "
TOKEN_BYTES: Final = 16


def probe_conditional_create(store: ReliableStore) -> None:
    """Check that the store refuses a create over the probe object.

    Cost: one request, counted under the cause "probe"; if the object does not exist yet, two PUT, a GET and a LIST.
    Raises: InvalidError if creates succeed, damage the object, or put it where a listing of its prefix does not show it;
        UnavailableError.
    """
    if store.proof.is_waived:
        return
    store = store.with_cause("probe")
    try:
        _prove(store)
    except InvalidError:
        # A refused store should hold nothing of ours. If the delete fails, the probe's error matters more.
        with contextlib.suppress(UnavailableError):
            store.delete(PROBE)
        raise


def _prove(store: ReliableStore) -> None:
    for turn in range(CREATES_MAX):
        body = MARK + store.runtime.random_bytes(TOKEN_BYTES)
        if store.refuses(PROBE, body):
            if turn:
                _check_first(store, body)
            return
    raise InvalidError(
        f"{store.url} ignores conditional writes: creates of {PROBE} replace what is there. Two writers could damage a "
        f"database there. Use a store that honours If-None-Match; on Ceph, a bucket without versioning"
    )


def _check_first(store: ReliableStore, refused: bytes) -> None:
    """Check the new probe object: it must hold the bytes of the first create, and a listing must show it."""
    if not any(_is_whole(store, refused, pause) for pause in (0.05, 0.2, 0.0)):
        raise InvalidError(f"{store.url} refused the second create of {PROBE} and yet lost the bytes of the first")
    for turn in range(LISTINGS_MAX):
        if any(info.name == PROBE for info in store.list(PROBES)):
            return
        if turn + 1 < LISTINGS_MAX:
            store.runtime.sleep(0.5 * 2**turn)
    raise InvalidError(
        f"{store.url}: an object created under this prefix is not listed under it. Some servers fold parts of a name; "
        f"choose a prefix without '//', '.' and '..'"
    )


def _is_whole(store: ReliableStore, refused: bytes, pause: float) -> bool:
    """Whether the object holds the bytes of the first create. If not, sleep for `pause` before returning: a gateway may have
    answered instead of the store."""
    with suppress(ObjectMissing):
        found = store.get(PROBE)
        if len(found) == len(refused) and found.startswith(MARK) and found != refused:
            return True
    store.runtime.sleep(pause)
    return False


def put_on_proof(store: ReliableStore, name: str, parts: Sequence[bytes], *, is_commit: bool = False) -> None:
    """Call `store.put_new` on a proof. A commit needs a proof that no other commit has used; the log needs a recent one. If
    the answer shows a changed backend, the create counts only after a new proof.

    Cost: as `put_new`, and one request if the proof is spent or too old.
    Raises: as `put_new`; InvalidError: see `probe_conditional_create`.
    """
    proof = store.proof
    if not (proof.is_waived or store.store.decides_itself):
        age = store.runtime.monotonic() - proof.seen_at
        if age > PROOF_SECONDS or (is_commit and proof.is_spent):
            probe_conditional_create(store)
        if is_commit:
            proof.is_spent = True
    store.put_new(name, parts)
    if store.store.generation != proof.generation and proof.generation >= 0:
        probe_conditional_create(store)
