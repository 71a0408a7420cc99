"""One bit of any byte of what keeps more than the newest version: pinned manifests, and the manifest of a clone."""

from __future__ import annotations

import random
from collections.abc import Callable

import lsm
from lsm.object_store import MemoryStore
from tests.lsm.support import copy_of, objects_of, open_plain, read_rows, tiny


def sweep(store: MemoryStore, victim: str, read: Callable[[MemoryStore], object]) -> int:
    """Flip a bit of every byte: what is read is what was there, or CorruptionError names the object. How often it did."""
    wanted = read(copy_of(store))
    chance = random.Random(1)
    refused = 0
    for at in range(len(objects_of(store)[victim])):
        damaged = copy_of(store)
        content = bytearray(objects_of(damaged)[victim])
        content[at] ^= 1 << chance.randrange(8)
        objects_of(damaged)[victim] = bytes(content)
        try:
            assert read(damaged) == wanted
        except lsm.CorruptionError as error:
            assert error.object_name == victim
            refused += 1
    return refused


def test_a_pinned_version_is_right_or_refused_at_every_byte() -> None:
    store = MemoryStore()
    with open_plain(store, tiny(compaction_enabled=False)) as db:
        db.put(b"a", b"1")
        kept = db.create_checkpoint(name="kept")
        for at in range(12):
            db.put(b"a", b"%d" % at)
            db.flush(lsm.FlushType.MEMTABLE)
        db.collect_garbage(min_age=0)
    pinned = [name for name in objects_of(store) if name.startswith("pinned/")]
    assert len(pinned) == 1

    def read(found: MemoryStore) -> object:
        with lsm.DbReader.open("memory://", object_store=found, checkpoint=kept.id) as reader:
            return read_rows(reader)

    assert read(store) == [(b"a", b"1")]
    assert sweep(store, pinned[0], read) == len(objects_of(store)[pinned[0]])


def test_a_manifest_with_a_checkpoint_and_a_parent_is_right_or_refused_at_every_byte() -> None:
    try:
        with lsm.Db.open("memory://care-parent", tiny(compaction_enabled=False)) as parent:
            parent.put(b"a", b"1")
            parent.flush(lsm.FlushType.MEMTABLE)
            checkpoint = parent.create_checkpoint()
        with lsm.Admin("memory://care-parent") as admin:
            admin.create_clone("memory://care-clone", checkpoint.id)
        with lsm.Db.open("memory://care-clone", tiny(compaction_enabled=False)) as clone:
            clone.create_checkpoint(name="of the clone")
            assert clone.manifest.parents
            assert clone._engine.manifests.current.checkpoints
        live = MemoryStore.shared("care-clone")
        store = copy_of(live)
        victim = max(name for name in objects_of(store) if name.startswith("manifest/"))

        def read(found: MemoryStore) -> object:
            objects_of(live).clear()
            objects_of(live).update(objects_of(found))
            with lsm.DbReader.open("memory://care-clone") as reader:
                return read_rows(reader)

        assert read(store) == [(b"a", b"1")]
        assert sweep(store, victim, read) == len(objects_of(store)[victim])
    finally:
        MemoryStore.forget("care-parent")
        MemoryStore.forget("care-clone")
