"""What a commit costs when the manifest is large, and whom a commit may believe when its process is late."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
import pytest

from lsm.errors import CorruptionError, InternalError
from lsm.manifest.codec import GROUP_PARTITIONS, ManifestEncoder, decode_manifest
from lsm.manifest.model import Manifest, Partition, Run
from lsm.manifest.store import ManifestStore
from lsm.object_store import MemoryStore, ObjectStore
from lsm.object_store.contract import ObjectMissing
from lsm.object_store.names import manifest_name
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime
from lsm.sst.builder import TableInfo
from tests.doubles import CountingStore, WrappedStore

T = TypeVar("T")

PARTITIONS, TABLES = 1000, 10


def large() -> Manifest:
    partitions = []
    for at in range(PARTITIONS):
        prefix = b"%06d" % at
        tables = tuple(
            TableInfo(
                (1 << 40) + at * TABLES + each, 1000, 10, prefix + b"k%02da" % each, prefix + b"k%02dz" % each, 5, 6, 7
            )
            for each in range(TABLES)
        )
        partitions.append(Partition(prefix, (), (Run(1, tables),), ((prefix + b"L", 17),)))
    return Manifest(1, b"d" * 16, writer_epoch=1, partitions=tuple(partitions))


def reliable(store: ObjectStore) -> ReliableStore:
    return ReliableStore(store, Runtime(), op_timeout=5, request_timeout=5)


def with_table(manifest: Manifest, prefix: bytes, number: int) -> Manifest:
    partition = manifest.partition(prefix) or Partition(prefix)
    table = TableInfo(number, 1000, 10, prefix + b"a", prefix + b"b", 5, 6, 7)
    return manifest.with_partition(msgspec.structs.replace(partition, l0=(table, *partition.l0)))


def test_a_commit_encodes_and_checks_what_it_changed() -> None:
    store = CountingStore(MemoryStore())
    manifests = ManifestStore.create(reliable(store), Runtime(), large())
    manifests.update(lambda manifest: with_table(manifest, b"000500", 1 << 41))
    assert manifests.encoded_partitions == PARTITIONS  # The first commit of a process has nothing to take over.
    encoded, checked = manifests.encoded_partitions, manifests.checked_partitions
    store.reset()

    for number in range(10):
        manifests.update(lambda manifest, number=number: with_table(manifest, b"000500", (1 << 41) + 1 + number))

    assert manifests.checked_partitions - checked == 10
    assert manifests.encoded_partitions - encoded <= 10 * 8 * GROUP_PARTITIONS
    assert store.counts == {"put_if_absent": 10, "get_range": 10, "list": 10}


def test_frames_of_unchanged_partitions_survive_one_that_comes_or_goes() -> None:
    encoder, manifest = ManifestEncoder(), large()
    encoder.encode(manifest, epoch=1, nonce=b"n" * 16)
    before = encoder.encoded_partitions

    manifest = msgspec.structs.replace(manifest, partitions=manifest.partitions[1:])  # Retention takes the oldest.
    manifest = with_table(manifest, b"001000", 1 << 41)
    data = b"".join(encoder.encode(manifest, epoch=1, nonce=b"n" * 16))

    assert encoder.encoded_partitions - before < PARTITIONS // 4
    assert decode_manifest(data, number=1, database=b"d" * 16) == manifest


def test_refuses_a_table_that_an_unchanged_partition_names() -> None:
    manifests = ManifestStore.create(reliable(MemoryStore()), Runtime(), large())
    elsewhere = large().partitions[3].runs[0].tables[0].number

    with pytest.raises(InternalError, match="named twice"):
        manifests.update(lambda manifest: with_table(manifest, b"000500", elsewhere))
    assert manifests.current.number == 1
    # A number may move: it is gone from where it was in the same commit.
    moved = manifests.update(
        lambda manifest: with_table(manifest.with_partition(Partition(b"000003")), b"000500", elsewhere)
    )
    assert moved.partition(b"000003") is None


def stamp(manifest: Manifest, floor: int) -> Manifest:
    return msgspec.structs.replace(manifest, last_seq=manifest.last_seq + floor)


def test_a_process_that_slept_is_not_misled_by_one_that_slept_a_version_longer() -> None:
    """Two processes at versions 2 and 3 sleep while the database goes on to 20 and the collector deletes up to 12.
    The older sleeper's late version 3 must not vouch for the younger one's late version 4."""
    memory = MemoryStore()
    live = ManifestStore.create(reliable(memory), Runtime(), Manifest(1, b"d" * 16))
    live.update(lambda manifest: stamp(manifest, 1))
    older = ManifestStore.load(reliable(memory), Runtime())
    live.update(lambda manifest: stamp(manifest, 1))
    younger = ManifestStore.load(reliable(memory), Runtime())
    assert older is not None
    assert younger is not None
    while live.current.number < 20:
        live.update(lambda manifest: stamp(manifest, 1))
    for number in range(1, 13):
        memory.delete(manifest_name(number), timeout=1)

    older.update(lambda manifest: stamp(manifest, 1000))  # Leaves its version 3 behind, on its way to the newest.
    assert older.current.number == 21
    assert memory.head(manifest_name(3), timeout=1).size
    found = younger.update(lambda manifest: stamp(manifest, 5000))

    assert (found.number, found.last_seq) == (22, 19 + 1000 + 5000)
    fresh = ManifestStore.load(reliable(memory), Runtime())
    assert fresh is not None
    assert fresh.current == found


def slept_at_two() -> tuple[MemoryStore, ManifestStore, bytes]:
    """A store whose newest version is 20, with 13 to 20 in it; a process that is still at version 2, and what 2 was."""
    memory = MemoryStore()
    live = ManifestStore.create(reliable(memory), Runtime(), Manifest(1, b"d" * 16))
    live.update(lambda manifest: stamp(manifest, 1))
    sleeper = ManifestStore.load(reliable(memory), Runtime())
    assert sleeper is not None
    second = memory.get(manifest_name(2), timeout=1)
    while live.current.number < 20:
        live.update(lambda manifest: stamp(manifest, 1))
    for number in range(1, 13):
        memory.delete(manifest_name(number), timeout=1)
    return memory, sleeper, second


@pytest.mark.parametrize("look", [ManifestStore.poll, ManifestStore.refresh, ManifestStore.check_owner])
def test_a_look_is_not_misled_either(look: Callable[[ManifestStore], Manifest]) -> None:
    memory, sleeper, second = slept_at_two()
    again = ManifestEncoder().encode(sleeper.current, epoch=0, nonce=b"another process.")
    memory.put_if_absent(manifest_name(2), again, timeout=1)
    assert b"".join(again) != second

    assert look(sleeper).number == 20


@pytest.mark.parametrize("look", [ManifestStore.refresh, ManifestStore.check_owner])
def test_the_second_copy_of_a_create_comes_after_the_deletion_and_misleads_nobody(
    look: Callable[[ManifestStore], Manifest],
) -> None:
    memory, sleeper, second = slept_at_two()
    memory.put_if_absent(manifest_name(2), [second], timeout=1)

    assert look(sleeper).number == 20


def test_a_commit_behind_a_second_copy_does_not_count() -> None:
    memory, sleeper, second = slept_at_two()
    memory.put_if_absent(manifest_name(2), [second], timeout=1)

    found = sleeper.update(lambda manifest: stamp(manifest, 1000))

    assert (found.number, found.last_seq) == (21, 19 + 1000)
    fresh = ManifestStore.load(reliable(memory), Runtime())
    assert fresh is not None
    assert fresh.current == found


class Swapped(WrappedStore):
    """Before the first version is read, it is deleted, others take over, and another process puts its own in its place."""

    def __init__(self, store: MemoryStore, stranger: Manifest) -> None:
        super().__init__(store)
        self._stranger: Manifest | None = stranger

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        if call == "get" and name == manifest_name(1) and self._stranger is not None:
            stranger, self._stranger = self._stranger, None
            live = ManifestStore.load(reliable(self.store), Runtime())
            assert live is not None
            while live.current.number < 9:
                live.update(lambda manifest: stamp(manifest, 1))
            self.store.delete(name, timeout=1)
            late = ManifestEncoder().encode(stranger, epoch=0, nonce=b"another process.")
            self.store.put_if_absent(name, late, timeout=1)
        return request()


def test_what_a_listing_showed_counts_only_if_it_cannot_have_been_replaced_since() -> None:
    memory = MemoryStore()
    ManifestStore.create(reliable(memory), Runtime(), Manifest(1, b"d" * 16))

    found = ManifestStore.load(reliable(Swapped(memory, Manifest(1, b"e" * 16))), Runtime())

    assert found is not None
    assert (found.current.number, found.current.database) == (9, b"d" * 16)


def test_a_database_that_was_put_back_to_an_older_version_is_told() -> None:
    memory = MemoryStore()
    live = ManifestStore.create(reliable(memory), Runtime(), Manifest(1, b"d" * 16))
    live.update(lambda manifest: stamp(manifest, 1))
    memory.delete(manifest_name(2), timeout=1)

    with pytest.raises(CorruptionError, match="newest manifest is 1, but 2 was seen before"):
        live.refresh()
    memory.delete(manifest_name(1), timeout=1)
    with pytest.raises(CorruptionError, match="every manifest is gone"):
        live.refresh()


def test_a_first_version_that_no_listing_shows_is_asked_for_again_where_one_answer_lacks_it() -> None:
    class Lagging(WrappedStore):
        """Lists nothing, and answers once in the store's place that version 1 is missing."""

        lies = 1

        def __init__(self, store: ObjectStore) -> None:
            super().__init__(store)
            self.is_near = False

        def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
            answer = request()
            if call == "list":
                answer.clear()  # type: ignore[attr-defined]
            if call == "get" and self.lies:
                self.lies -= 1
                raise ObjectMissing(name)
            return answer

    store = Lagging(MemoryStore())

    assert ManifestStore.create(reliable(store), Runtime(), Manifest(1, b"d" * 16, writer_epoch=1)).current.number == 1
    assert not store.lies
