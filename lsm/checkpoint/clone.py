"""Clones: databases that begin with another database's tables and read them in place.

docs/protocol.md, rules K5 and K6. A clone consists of a manifest that names tables of its parents, a copy of the log after
them, and a checkpoint in each parent that keeps the tables. The checkpoint's id is also the clone's database id. So after an
interrupted call, the next one finds the checkpoint and writes the same bytes again.

Source: SlateDB's clones with external databases (its RFC 4).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet

import msgspec

from lsm.checkpoint.checkpoints import create_checkpoint, delete_checkpoint, load_checkpoint, load_version
from lsm.checks import text
from lsm.coding import ENVELOPE, KIND_WAL_DATA, KIND_WAL_FENCE, Envelope, open_envelope, seal_envelope
from lsm.components import Stores
from lsm.errors import CorruptionError, InvalidError
from lsm.manifest.checkpoint import Checkpoint, Parent
from lsm.manifest.codec import encode_manifest
from lsm.manifest.model import Manifest
from lsm.manifest.store import ManifestStore
from lsm.object_store.contract import ObjectExists, ObjectMissing
from lsm.object_store.names import MANIFESTS, PREFIXES, WAL, is_foreign, is_probe, manifest_name, wal_name, wal_number
from lsm.object_store.nested_roots import refuse_neighbours
from lsm.object_store.probe import probe_conditional_create, put_on_proof
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime
from lsm.wal.frames import WAL_VERSION


def create_clone(
    manifests: ManifestStore,
    stores: Stores,
    clone: Stores,
    runtime: Runtime,
    *,
    source: Checkpoint | None,
    wal_end: Callable[[Manifest], int],
) -> Checkpoint:
    """Create a database in `clone` with the content of checkpoint `source`; None: the newest version and the log up to
    `wal_end`.

    Raises: InvalidError if `clone` holds another database or other objects.
    """
    if clone.main.url == stores.main.url:
        raise InvalidError(f"a clone needs a place of its own: {clone.main.url} is the database's")
    name = text(f"clone:{clone.main.url}", "the name of a clone's checkpoint")
    text(stores.main.url, "the URL of a clone's parent")
    made = next((each for each in manifests.current.checkpoints if each.name == name), None)
    existing = ManifestStore.load(clone.main.with_cause("clone"), runtime)
    if existing is not None:
        if made is None or existing.current.database != bytes.fromhex(made.id):
            raise InvalidError(f"{clone.main.url} holds a database already: clone to an empty place")
        return made
    if made is None:
        made = create_checkpoint(
            manifests, runtime, wal_end=wal_end, name=name, source=None if source is None else source.id
        )
    elif source is not None and made.manifest_id != source.manifest_id:
        raise InvalidError(
            f"{clone.main.url} was begun as a clone of another checkpoint: delete checkpoint {made.id} first"
        )
    database = bytes.fromhex(made.id)
    _check_empty(clone, made)
    for each in {id(store): store for store in (clone.main, clone.wal)}.values():
        probe_conditional_create(each)
    pinned = load_checkpoint(stores.main.with_cause("clone"), manifests.current, made)
    parents = _parents(pinned, stores, runtime, made)
    _copy_log(stores.wal, clone.wal, pinned.database, database, made)
    first = msgspec.structs.replace(
        pinned,
        number=1,
        database=database,
        fences=(),
        wal_url=clone.wal_url,
        gc_horizons=(),
        settled=(),
        checkpoints=(),
        parents=parents,
        jobs=(),
    )
    first.check()
    try:
        put_on_proof(clone.main.with_cause("clone"), manifest_name(1), encode_manifest(first, epoch=0, nonce=database))
    except ObjectExists:
        raise InvalidError(f"{clone.main.url} holds a database already: clone to an empty place") from None
    return made


def _check_empty(clone: Stores, made: Checkpoint) -> None:
    main, log = clone.main.with_cause("clone"), clone.wal.with_cause("clone")
    listed = [info for prefix in PREFIXES for info in main.list(prefix)]
    if clone.wal is not clone.main:
        listed += [info for prefix in (MANIFESTS, WAL) for info in log.list(prefix)]
    for info in listed:
        number = wal_number(info.name)
        is_ours = is_probe(info.name) or (number is not None and made.needs_log(number))
        if not is_ours and not is_foreign(info.name):
            raise InvalidError(f"{clone.main.url} holds log objects or tables already: clone to an empty place")
    refuse_neighbours(clone.main, clone.wal, listed)


def _parents(pinned: Manifest, stores: Stores, runtime: Runtime, made: Checkpoint) -> tuple[Parent, ...]:
    """Return the databases whose tables the clone reads, each with a checkpoint: the database of the pinned
    version, and that one's parents."""
    named = pinned.table_ids()
    parents = []
    for grand in pinned.parents:
        used = tuple(number for number in grand.tables if number in named)
        named.difference_update(used)
        if used:
            kept = ManifestStore.load(stores.parent(grand.url).with_cause("clone"), runtime)
            if kept is None:
                raise CorruptionError(f"{grand.url} is gone, and its clone {stores.main.url} needs it")
            create_checkpoint(kept, runtime, name=made.name, source=grand.checkpoint_id, checkpoint_id=made.id)
            parents.append(msgspec.structs.replace(grand, checkpoint_id=made.id, tables=used))
    own = Parent(pinned.database, stores.main.url, made.id, tuple(sorted(named)))
    return (own, *parents)


def _copy_log(source: ReliableStore, target: ReliableStore, parent: bytes, database: bytes, made: Checkpoint) -> None:
    """Copy the checkpoint's log objects and seal them under the clone's database id: same numbers, epochs, nonces, rows."""
    source, target = source.with_cause("clone"), target.with_cause("clone")
    kinds = (KIND_WAL_DATA, KIND_WAL_FENCE)
    for number in range(made.wal_first, made.wal_last + 1):
        name = wal_name(number)

        def read(name: str = name, number: int = number) -> tuple[bytes, Envelope]:
            data = source.get(name)
            return data, open_envelope(name, data, kinds=kinds, versions=WAL_VERSION, number=number, database=parent)

        try:
            data, found = source.insist(read, is_known=True)
        except ObjectMissing:
            raise CorruptionError("is missing, and a checkpoint needs it", object_name=name) from None
        parts = seal_envelope(
            name,
            found.kind,
            found.version,
            database=database,
            number=number,
            epoch=found.epoch,
            nonce=found.nonce,
            body=[data[ENVELOPE.size : found.end]],
        )
        try:
            target.put_new(name, parts)
        except ObjectExists:
            raise InvalidError(f"{target.url} holds another log: clone to an empty place") from None


def detach(
    manifests: ManifestStore, stores: Stores, runtime: Runtime, held: AbstractSet[int] = frozenset()
) -> list[Parent]:
    """Drop the parents whose tables neither the clone, nor a checkpoint of the clone, nor `held` names. Return them.

    Cost: if the clone has parents, two GET per checkpoint; per dropped parent, a commit there; one commit here.
    """
    current = manifests.current
    if not current.parents:
        return []
    store = stores.main.with_cause("clone")
    named = current.table_ids() | held
    for pinned in {each.manifest_id for each in current.checkpoints}:
        named |= load_version(store, pinned, current.database).table_ids()
    gone = [each for each in current.parents if named.isdisjoint(each.tables)]
    for parent in gone:
        kept = ManifestStore.load(stores.parent(parent.url).with_cause("clone"), runtime)
        # The parent's checkpoint goes first: after an interrupt in between, the deletion is repeated, which is no error.
        if kept is not None and kept.current.database == parent.database:
            delete_checkpoint(kept, parent.checkpoint_id)

    def edit(manifest: Manifest) -> Manifest | None:
        left = tuple(each for each in manifest.parents if each not in gone)
        return None if left == manifest.parents else msgspec.structs.replace(manifest, parents=left)

    if gone:
        manifests.update(edit)
    return gone
