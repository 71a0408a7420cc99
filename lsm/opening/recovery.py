"""Write walk, first station: opens or creates a database, fences older writers, replays the log.

docs/protocol.md, rules O1 to O8. Source: SlateDB's open. SlateDB's fence is an empty object, and a galloping search with HEADs
finds the end of its log. Here a fence is a full object with epoch and nonce, and one LIST finds the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import msgspec

from lsm.checks import text
from lsm.coding import KIND_WAL_FENCE, seal_envelope
from lsm.errors import CorruptionError, FencedError, InvalidError
from lsm.manifest.model import Manifest
from lsm.manifest.store import ManifestStore
from lsm.object_store.contract import ObjectExists
from lsm.object_store.names import (
    MANIFESTS,
    PREFIXES,
    WAL,
    is_foreign,
    is_probe,
    manifest_name,
    manifest_number,
    wal_name,
)
from lsm.object_store.nested_roots import refuse_neighbours
from lsm.object_store.probe import probe_conditional_create, put_on_proof
from lsm.object_store.reliable import ReliableStore
from lsm.observe import events
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime
from lsm.wal.frames import WAL_VERSION, encode_mark
from lsm.wal.gaps import first_gap
from lsm.wal.place import check_place
from lsm.wal.replay import LogEntries, apply_frames, read_wal, read_wal_object


@dataclass(frozen=True, slots=True)
class Identity:
    """Values that must be the same at every open of a database. `wal_url` may change if the log was moved."""

    extractor_name: str
    series_name: str
    wal_url: str = ""

    def __post_init__(self) -> None:
        text(self.extractor_name, "a prefix extractor's name")
        text(self.series_name, "a series layout's name")
        text(self.wal_url, "the URL of the log's store")


@dataclass(slots=True)
class Recovered:
    """An opened database. This process owns it under `epoch`. `memtables` (newest first) hold the replayed log."""

    manifests: ManifestStore
    epoch: int
    memtables: list[Memtable]
    last_seq: int
    next_wal_number: int
    fences: tuple[int, ...]
    positions: dict[bytes, int] = field(default_factory=dict)


def open_database(
    store: ReliableStore,
    wal_store: ReliableStore,
    runtime: Runtime,
    identity: Identity,
    *,
    is_compactor: bool,
    memtable_bytes: int,
) -> Recovered:
    """Claim the database and replay its log into memory.

    Cost: to open, with n log objects before the fence and any number of tables: 5 LIST, 1 + n GET, 1 GET of 64 bytes, 2 PUT,
    and one PUT per store for the probe. To create: the same, plus 3 LIST and 1 PUT, and 4 requests per store for the probe.
    Raises: InvalidError: the store does not honour the conditional create, or the identity differs.
    Raises: FencedError: another process opened the database at the same time and won.
    """
    stores = {id(store): store, id(wal_store): wal_store}.values()
    for each in stores:
        each.finish_creates()  # Rule O7.
    manifests = ManifestStore.load(store, runtime, is_claimed_next=True)
    if manifests is None:
        manifests = _create(store, wal_store, runtime, identity)
    check_identity(manifests.current, identity)
    check_place(wal_store.with_cause("open"), identity.wal_url, manifests.current)
    for each in stores:
        if each.proof.generation < 0:
            probe_conditional_create(each)  # Rule O2: before the first commit, and before any writer is fenced.
    previous = manifests.current.writer_epoch
    epoch = manifests.claim_writer(compactor=is_compactor)
    try:
        fence = _fence(wal_store, runtime, manifests, epoch)
        manifests.check_owner()
        recovered = _replay(wal_store, runtime, manifests, epoch, fence, memtable_bytes)
        _record_place(manifests, identity.wal_url, recovered.fences)
    except CorruptionError as error:
        # The cause may be a still newer writer: it flushes, and its collector deletes log objects that this one looks for.
        raise manifests.explain(error) from error
    if previous:
        replayed = fence - 1 - manifests.current.replay_after
        events.tell(events.OPENED, url=store.url, epoch=epoch, previous=previous, log_objects=replayed)
    else:
        events.tell(events.CREATED, url=store.url, epoch=epoch)
    return recovered


def _create(store: ReliableStore, wal_store: ReliableStore, runtime: Runtime, identity: Identity) -> ManifestStore:
    main, log = store.with_cause("open"), wal_store.with_cause("open")
    listed = [info for prefix in PREFIXES for info in main.list(prefix)]
    if wal_store is not store:
        listed += [info for prefix in (MANIFESTS, WAL) for info in log.list(prefix)]
    if any(not is_foreign(info.name) and not is_probe(info.name) for info in listed):
        # Another process may have created the database since this one looked for it.
        created = ManifestStore.load(store, runtime)
        if created is not None:
            return created
        if wal_store is not store and any(manifest_number(info.name) for info in listed):
            raise InvalidError(
                f"wal_url: {wal_store.url} holds a database: choose a place of its own for this one's log"
            )
        raise CorruptionError(
            f"{store.url} holds log objects or tables but no manifest: it is damaged, or half deleted",
            object_name=manifest_name(1),
        )
    refuse_neighbours(store, wal_store, listed)
    for each in {id(store): store, id(wal_store): wal_store}.values():
        probe_conditional_create(each)
    manifest = Manifest(
        number=1,
        database=runtime.random_bytes(16),
        extractor_name=identity.extractor_name,
        series_name=identity.series_name,
        wal_url=identity.wal_url,
    )
    return ManifestStore.create(store, runtime, manifest)


def check_identity(manifest: Manifest, identity: Identity) -> None:
    """Check the identity (rule O3). Raises: InvalidError that names the difference."""
    for what, found, wanted in (
        ("prefix extractor", manifest.extractor_name, identity.extractor_name),
        ("series layout", manifest.series_name, identity.series_name),
    ):
        if found != wanted:
            raise InvalidError(f"the database was created with {what} {found!r}; it cannot be opened with {wanted!r}")


def _record_place(manifests: ManifestStore, wal_url: str, fences: tuple[int, ...]) -> None:
    """Record the place of a log with a separate store, and a fence that no other place has (rule B2)."""

    def edit(manifest: Manifest) -> Manifest | None:
        if manifest.wal_url == wal_url and manifest.fences:
            return None
        return msgspec.structs.replace(manifest, wal_url=wal_url, fences=tuple(sorted({*manifest.fences, *fences})))

    if wal_url:
        manifests.update(edit)


def _fence(wal_store: ReliableStore, runtime: Runtime, manifests: ManifestStore, epoch: int) -> int:
    """Put a fence at the first gap of the log and return its number. The old writer cannot continue after that: its objects
    have consecutive numbers, and the next one is taken (rule W2)."""
    store, manifest = wal_store.with_cause("open"), manifests.current
    number = first_gap(
        store, manifest.replay_after + 1, manifest.database, lambda: manifests.check_owner().replay_after
    )
    # Rule O5: if a newer writer wrote before the listing, the gap in the listing is that writer's next number,
    # and a fence there would stop it.
    manifests.check_owner()
    while True:
        parts = seal_envelope(
            wal_name(number),
            KIND_WAL_FENCE,
            WAL_VERSION,
            database=manifest.database,
            number=number,
            epoch=epoch,
            nonce=runtime.random_bytes(16),
            body=[encode_mark(number - 1)],
        )
        try:
            put_on_proof(store, wal_name(number), parts)
            return number
        except ObjectExists:
            # The old writer stored one more object, or a newer writer is opening and put its fence here.
            found = read_wal_object(store, number, manifest.database, is_known=True)
            if found is not None and found.is_fence and found.epoch == epoch:
                return number
            if found is not None and found.epoch > epoch:
                raise FencedError(
                    f"another process opened the database at the same time (epoch {found.epoch})"
                ) from None
            number += 1


def _replay(
    wal_store: ReliableStore,
    runtime: Runtime,
    manifests: ManifestStore,
    epoch: int,
    fence: int,
    memtable_bytes: int,
) -> Recovered:
    manifest = manifests.current
    tables: list[Memtable] = []
    table = _new_table(runtime, manifest.replay_after + 1, manifest.wal_epoch_floor)
    last_seq = manifest.last_seq
    # Rule W6: objects that replay leaves out are kept like fences. Without them an older writer could still write
    # those numbers.
    fences = set(range(manifest.replay_after + 1, fence + 1))
    numbers: Sequence[int] = range(manifest.replay_after + 1, fence)
    log = read_wal(
        wal_store.with_cause("open"), runtime, numbers, manifest.database, epoch_floor=manifest.wal_epoch_floor
    )
    # The fence is not read back, because this process wrote it.
    for entries in chain(log, (LogEntries(fence, epoch, True, fence - 1, ()),)):
        if not entries.is_fence:
            fences.remove(entries.number)
        last_seq = max(last_seq, apply_frames(table, entries.frames, after_seq=last_seq))
        table.wal_last, table.wal_epoch = entries.number, entries.epoch
        if table.size >= memtable_bytes:
            tables.append(table)
            table = _new_table(runtime, entries.number + 1, entries.epoch)
    # The last memtable takes new writes. An empty one is replaced by one without a log range.
    tables.append(table if not table.is_empty else Memtable(runtime))
    recovered = Recovered(
        manifests, epoch, tables[::-1], last_seq, fence + 1, tuple(sorted(fences)), manifest.series_ends()
    )
    for each in tables:
        recovered.positions.update((family, series.next_position) for family, series in each.series.items())
    return recovered


def _new_table(runtime: Runtime, wal_first: int, wal_floor: int) -> Memtable:
    table = Memtable(runtime)
    table.wal_first, table.wal_floor = wal_first, wal_floor
    return table
