"""Checkpoints: versions that stay readable. Creates, refreshes, deletes, expires and reads them.

docs/protocol.md, rules K1 to K4 and R5. Source: SlateDB's checkpoints (its RFC 4), with two differences: a pinned version
moves out of `manifest/`, because M4 requires old versions to be deleted in order; and a checkpoint expires only by two clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

import msgspec

from lsm.checks import age_seconds, shown, text
from lsm.errors import CorruptionError, InvalidError
from lsm.manifest.checkpoint import Checkpoint
from lsm.manifest.codec import decode_manifest
from lsm.manifest.model import Manifest, may_have_dropped
from lsm.manifest.store import ManifestStore
from lsm.object_store.contract import ObjectMissing
from lsm.object_store.names import manifest_name, pinned_name
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime
from lsm.wal.gaps import exists, first_gap

LIFETIME_MIN, LIFETIME_MAX = 1e-9, 1e9
"""Minimum and maximum seconds of a lifetime. The maximum is about thirty years."""
NAME_BYTES_MAX = 4096


def create_checkpoint(
    manifests: ManifestStore,
    runtime: Runtime,
    *,
    wal_end: Callable[[Manifest], int] = lambda _: 0,
    lifetime: float | timedelta | None = None,
    name: str | None = None,
    source: str | None = None,
    checkpoint_id: str | None = None,
) -> Checkpoint:
    """Pin the newest version and the log after it up to object `wal_end`, or the version and log of checkpoint `source`.

    `wal_end` returns the last durable log object. It is called again in two cases. A version committed in the meantime may
    have dropped a partition, and the rows that record the drop may be in later log objects (rule R5). Or tables already
    contain later log objects, so the gap it found was an object that was collected (rule R3).
    Cost: one commit. Raises: InvalidError.
    """
    made_id = checkpoint_id if checkpoint_id is not None else runtime.random_bytes(16).hex()
    now = runtime.now_ms()
    lifetime_ms = _lifetime_ms(lifetime)
    called = "" if name is None else text(name, "a checkpoint's name", bytes_max=NAME_BYTES_MAX)
    wanted = source and as_checkpoint_id(source)
    base, wal_last = manifests.current, 0

    def edit(manifest: Manifest) -> Manifest | None:
        if manifest.checkpoint(made_id) is not None:
            return None
        found = _required(manifest, wanted) if wanted else None
        if found is None and (may_have_dropped(base, manifest) or wal_last < manifest.replay_after):
            return None
        made = Checkpoint(
            made_id,
            found.manifest_id if found else manifest.number + 1,
            found.wal_first if found else manifest.replay_after + 1,
            found.wal_last if found else wal_last,
            now,
            lifetime_ms,
            None if lifetime_ms is None else now + lifetime_ms,
            called,
        )
        return msgspec.structs.replace(manifest, checkpoints=(*manifest.checkpoints, made))

    while True:
        base = manifests.current
        wal_last = 0 if wanted else wal_end(base)
        if (made := manifests.update(edit).checkpoint(made_id)) is not None:
            return made


def refresh_checkpoint(
    manifests: ManifestStore, runtime: Runtime, checkpoint_id: str, lifetime: float | timedelta | None = None
) -> Checkpoint:
    """Restart a checkpoint's lifetime, with a new one if given. Raises: InvalidError if the checkpoint does not exist."""
    wanted = as_checkpoint_id(checkpoint_id)
    now = runtime.now_ms()
    refreshed: Checkpoint | None = None

    def edit(manifest: Manifest) -> Manifest | None:
        nonlocal refreshed
        found = _required(manifest, wanted)
        if found == refreshed:
            return None
        lifetime_ms = found.lifetime_ms if lifetime is None else _lifetime_ms(lifetime)
        refreshed = msgspec.structs.replace(
            found,
            lifetime_ms=lifetime_ms,
            expire_ms=None if lifetime_ms is None else now + lifetime_ms,
            refreshes=found.refreshes + 1,
        )
        kept = (refreshed if each.id == wanted else each for each in manifest.checkpoints)
        return msgspec.structs.replace(manifest, checkpoints=tuple(kept))

    return _required(manifests.update(edit), wanted)


def delete_checkpoint(manifests: ManifestStore, checkpoint_id: str) -> None:
    """Delete a checkpoint. A missing one is no error."""
    wanted = as_checkpoint_id(checkpoint_id)

    def edit(manifest: Manifest) -> Manifest | None:
        if manifest.checkpoint(wanted) is None:
            return None
        kept = tuple(each for each in manifest.checkpoints if each.id != wanted)
        return msgspec.structs.replace(manifest, checkpoints=kept)

    manifests.update(edit)


def durable_end(wal_store: ReliableStore, manifest: Manifest, replay_after: Callable[[], int]) -> int:
    """Return the number of the last log object before the first gap. `replay_after`: as for `first_gap`.

    Cost: one LIST, and a HEAD that finds nothing. Raises: CorruptionError if a log object is lost (rule W7).
    """
    number = first_gap(wal_store, manifest.replay_after + 1, manifest.database, replay_after)
    while exists(wal_store, number):
        number += 1
    return number - 1


def _required(manifest: Manifest, checkpoint_id: str) -> Checkpoint:
    found = manifest.checkpoint(checkpoint_id)
    if found is None:
        known = ", ".join(each.id for each in manifest.checkpoints) or "none"
        raise InvalidError(f"there is no checkpoint {checkpoint_id}: it expired or was deleted; there are: {known}")
    return found


def as_checkpoint_id(text: object) -> str:
    """Return a checkpoint's id as stored: 32 hexadecimal digits. The dashes of a UUID are accepted. Raises: InvalidError."""
    digits = text.replace("-", "").lower() if isinstance(text, str) else ""
    if len(digits) != 32 or set(digits) - set("0123456789abcdef"):
        raise InvalidError(f"a checkpoint id is a string of 32 hexadecimal digits, got {text!r}")
    return digits


def _lifetime_ms(lifetime: float | timedelta | None) -> int | None:
    if lifetime is None:
        return None
    seconds = age_seconds(lifetime, "a lifetime", least=LIFETIME_MIN)
    if seconds > LIFETIME_MAX:
        raise InvalidError(f"a lifetime is at most {LIFETIME_MAX:g} seconds, got {shown(lifetime)}: None never expires")
    return max(1, int(seconds * 1000))


# -- reading ----------------------------------------------------------------------------------------------------------


def load_version(store: ReliableStore, number: int, database: bytes | None) -> Manifest:
    """Load a version of the manifest from its copy in `pinned/`, or, if there is none, from its own name. Cost: two GET.

    After a version is deleted, a stalled process can create another object under its name. The copy is made before the
    deletion, so the copy takes precedence. It is read last: if the copy is missing after the original was read, the original
    was not yet deleted. `database` None: of any database.
    Raises: ObjectMissing, CorruptionError.
    """
    return store.insist(lambda: _load_version(store, number, database), is_known=True)


def _load_version(store: ReliableStore, number: int, database: bytes | None) -> Manifest:
    try:
        own = store.get(manifest_name(number))
    except ObjectMissing:
        own = None
    name = pinned_name(number)
    try:
        # A separate `insist`, because false answers about two objects must not be counted together.
        return store.insist(lambda: decode_manifest(store.get(name), number=number, database=database, name=name))
    except ObjectMissing:
        if own is None:
            raise
    return decode_manifest(own, number=number, database=database)


def load_checkpoint(store: ReliableStore, manifest: Manifest, checkpoint: Checkpoint) -> Manifest:
    """Load the version that a checkpoint pins. Raises: CorruptionError, also if the version does not exist."""
    try:
        return load_version(store, checkpoint.manifest_id, manifest.database)
    except ObjectMissing:
        raise CorruptionError(
            f"is missing, and checkpoint {checkpoint.id} needs it", object_name=manifest_name(checkpoint.manifest_id)
        ) from None


def find_checkpoint(manifest: Manifest, checkpoint_id: str) -> Checkpoint:
    """Return the checkpoint with that id. Raises: InvalidError if there is none (any more)."""
    return _required(manifest, as_checkpoint_id(checkpoint_id))


# -- expiry -----------------------------------------------------------------------------------------------------------


class ExpiryWatch:
    """Decides which checkpoints have expired (rule K3). Two conditions: the recorded time is past by this process's wall
    clock, and this process has seen the same record for its whole lifetime by the monotonic clock.

    `trust_clock`: the recorded time alone decides, for collectors that run once and exit.
    """

    def __init__(self, runtime: Runtime, *, trust_clock: bool) -> None:
        self._runtime = runtime
        self._trust_clock = trust_clock
        self._seen: dict[Checkpoint, float] = {}

    def expired(self, checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
        """Return the expired ones. Call it repeatedly: it remembers when it first saw each record."""
        now_ms, now = self._runtime.now_ms(), self._runtime.monotonic()
        seen = {each: self._seen.get(each, now) for each in checkpoints if each.lifetime_ms is not None}
        self._seen = seen
        return [
            each
            for each, since in seen.items()
            if each.expire_ms is not None
            and each.lifetime_ms is not None
            and each.expire_ms <= now_ms
            and (self._trust_clock or (now - since) * 1000 >= each.lifetime_ms)
        ]
