"""Decides what the collector may delete, and why. Pure.

docs/protocol.md, rules G1 to G8. Garbage stays garbage: a later version can name only tables that an earlier version names or
pins, and new tables above the earlier version's horizons. So a decision stays right, even if it was made on an old manifest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from lsm.manifest.checkpoint import Checkpoint
from lsm.manifest.model import MANIFESTS_KEPT, Manifest
from lsm.object_store.contract import ObjectInfo
from lsm.object_store.names import (
    COUNTER_BITS,
    manifest_number,
    marker_number,
    pinned_number,
    table_number,
    wal_number,
)


class Garbage(msgspec.Struct, frozen=True):
    """An object that can be deleted, and the reason."""

    name: str
    size: int
    reason: str


def dead_tables(
    tables: Iterable[ObjectInfo], manifest: Manifest, horizons: Mapping[int, int], live: Collection[int]
) -> Iterator[Garbage]:
    """Yield tables that are not in `live` and that no process can publish any more (rules G1, G4).

    `horizons`: the horizon of each epoch in use, as the manifest has it or is about to have it.
    """
    for info in tables:
        number, note = table_number(info.name), marker_number(info.name)
        if number is not None and number in live:
            continue
        number = number if number is not None else note
        if number is None or manifest.is_claimed(number):
            continue
        epoch = number >> COUNTER_BITS
        unnamed = f"manifest {manifest.number} and its checkpoints do not name it"
        if is_dead_epoch(manifest, epoch):
            yield Garbage(info.name, info.size, f"{unnamed}, and epoch {epoch} is over")
        elif number <= max(manifest.gc_horizon, horizons.get(epoch, 0)):
            yield Garbage(info.name, info.size, f"{unnamed}, and it is at or below the horizon")


def dead_log(objects: Iterable[ObjectInfo], manifest: Manifest) -> Iterator[Garbage]:
    """Yield log objects whose rows are all in tables and that no checkpoint needs, but no fences (rule G5)."""
    for info in objects:
        number = wal_number(info.name)
        # Rule W6: a fence stays for ever. Without it, the writer that it stopped could still write that number.
        if number is None or number >= manifest.replay_after or number in manifest.fences:
            continue
        if not any(each.needs_log(number) for each in manifest.checkpoints):
            why = (
                f"all its rows are in tables (replay starts after {manifest.replay_after}), and no checkpoint needs it"
            )
            yield Garbage(info.name, info.size, why)


def dead_manifests(objects: Iterable[ObjectInfo], old: Collection[str], manifest: Manifest) -> Iterator[Garbage]:
    """Yield the versions before the newest eight in ascending order, up to the first that is not in `old` (rule M4)."""
    for info in sorted(objects, key=lambda info: info.name):
        number = manifest_number(info.name)
        if number is None:
            continue
        if number > manifest.number - MANIFESTS_KEPT or info.name not in old:
            return
        yield Garbage(info.name, info.size, f"manifest {manifest.number} is the newest")


def dead_copies(objects: Iterable[ObjectInfo], manifest: Manifest) -> Iterator[Garbage]:
    """Yield copies of versions up to `manifest` that none of its checkpoints names. Copies of later
    versions stay: `manifest` does not know them (rule G6)."""
    pinned = {each.manifest_id for each in manifest.checkpoints}
    for info in objects:
        number = pinned_number(info.name)
        if number is not None and number not in pinned and number <= manifest.number:
            yield Garbage(info.name, info.size, f"no checkpoint of manifest {manifest.number} names version {number}")


def wanted_horizons(manifest: Manifest, known: Mapping[int, int]) -> dict[int, int]:
    """Return, for each epoch in use, the number up to which it has no unpublished tables (rule G3).

    `known`: these numbers for epochs of this process. Other processes put theirs into the manifest with their commits.
    """
    settled = {**dict(manifest.settled), **known}
    return {epoch: settled.get(epoch, epoch << COUNTER_BITS) for epoch in _in_use(manifest)}


def _in_use(manifest: Manifest) -> list[int]:
    return sorted({manifest.writer_epoch, manifest.compactor_epoch} - {0})


def is_dead_epoch(manifest: Manifest, epoch: int) -> bool:
    """Whether no process can commit a table of `epoch` any more: it belongs to no writer and no compactor, and epochs are
    claimed in ascending order, so it never will (rule M3)."""
    in_use = _in_use(manifest)
    return epoch not in in_use and epoch < max(in_use, default=0)


def with_horizons(manifest: Manifest, wanted: Mapping[int, int]) -> Manifest | None:
    """Return the manifest with horizons raised to at least `wanted`; None: they already are."""
    per_epoch = dict(manifest.gc_horizons)
    for epoch, number in wanted.items():
        per_epoch[epoch] = max(number, per_epoch.get(epoch, 0))
    in_use = _in_use(manifest)
    line = max(manifest.gc_horizon, per_epoch.get(in_use[0], 0)) if in_use else manifest.gc_horizon
    rest = tuple((epoch, per_epoch[epoch]) for epoch in in_use[1:] if per_epoch.get(epoch, 0) > line)
    if line == manifest.gc_horizon and rest == manifest.gc_horizons:
        return None
    return msgspec.structs.replace(manifest, gc_horizon=line, gc_horizons=rest)


def without_checkpoints(manifest: Manifest, gone: Collection[Checkpoint]) -> Manifest | None:
    """Return the manifest without exactly these records; None: it has none of them. A record that was refreshed in the
    meantime stays."""
    kept = tuple(each for each in manifest.checkpoints if each not in gone)
    if len(kept) == len(manifest.checkpoints):
        return None
    return msgspec.structs.replace(manifest, checkpoints=kept)


def protected_by_age(objects: Iterable[ObjectInfo], limit_ms: int) -> int | None:
    """Return the version that was current at `limit_ms`, as far as the listing shows it."""
    known = [
        (info.modified_ms is None or info.modified_ms <= limit_ms, number)
        for info in objects
        if (number := manifest_number(info.name)) is not None
    ]
    old = [number for is_old, number in known if is_old]
    return max(old, default=min((number for _, number in known), default=None))
