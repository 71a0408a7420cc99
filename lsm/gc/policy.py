"""What the collector may delete, and why. Pure.

docs/protocol.md, rules G1 to G8. What can go once can go for ever: later versions name only what an earlier one names or
pins, and tables above its horizons. So every decision here holds however old the manifest is that it was made on.
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
    note_number,
    pinned_number,
    table_number,
    wal_number,
)


class Garbage(msgspec.Struct, frozen=True):
    """An object that can go, and why."""

    name: str
    size: int
    reason: str


def dead_tables(
    tables: Iterable[ObjectInfo], manifest: Manifest, horizons: Mapping[int, int], live: Collection[int]
) -> Iterator[Garbage]:
    """Tables that nobody can publish any more and that `live` does not hold (rules G1, G4).

    `horizons`: for epochs in use, those the manifest holds, or is about to hold.
    """
    for info in tables:
        number, note = table_number(info.name), note_number(info.name)
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
    """Log objects whose rows are all in tables, no fences among them, and that no checkpoint needs (rule G5)."""
    for info in objects:
        number = wal_number(info.name)
        # Rule W6: a fence stays for ever, or the writer it stopped could write its number after all.
        if number is None or number >= manifest.replay_after or number in manifest.fences:
            continue
        if not any(each.needs_log(number) for each in manifest.checkpoints):
            why = (
                f"all its rows are in tables (replay starts after {manifest.replay_after}), and no checkpoint needs it"
            )
            yield Garbage(info.name, info.size, why)


def dead_manifests(objects: Iterable[ObjectInfo], old: Collection[str], manifest: Manifest) -> Iterator[Garbage]:
    """Versions before the newest eight, as far as they are in `old`: ascending, none left out (rule M4)."""
    for info in sorted(objects, key=lambda info: info.name):
        number = manifest_number(info.name)
        if number is None:
            continue
        if number > manifest.number - MANIFESTS_KEPT or info.name not in old:
            return
        yield Garbage(info.name, info.size, f"manifest {manifest.number} is the newest")


def dead_copies(objects: Iterable[ObjectInfo], manifest: Manifest) -> Iterator[Garbage]:
    """Copies of versions that no checkpoint of `manifest` names; of later versions it knows nothing (rule G6)."""
    pinned = {each.manifest_id for each in manifest.checkpoints}
    for info in objects:
        number = pinned_number(info.name)
        if number is not None and number not in pinned and number <= manifest.number:
            yield Garbage(info.name, info.size, f"no checkpoint of manifest {manifest.number} names version {number}")


def wanted_horizons(manifest: Manifest, known: Mapping[int, int]) -> dict[int, int]:
    """For each epoch in use: no table of it at or below that number is on its way into the manifest (rule G3).

    `known`: of epochs of this process. Of others the commits say how far they are settled.
    """
    settled = {**dict(manifest.settled), **known}
    return {epoch: settled.get(epoch, epoch << COUNTER_BITS) for epoch in _in_use(manifest)}


def _in_use(manifest: Manifest) -> list[int]:
    return sorted({manifest.writer_epoch, manifest.compactor_epoch} - {0})


def is_dead_epoch(manifest: Manifest, epoch: int) -> bool:
    """Whether nobody can commit a table of that epoch any more: it belongs to no writer and no compactor, and as epochs are
    claimed in ascending order, it never will (rule M3)."""
    in_use = _in_use(manifest)
    return epoch not in in_use and epoch < max(in_use, default=0)


def with_horizons(manifest: Manifest, wanted: Mapping[int, int]) -> Manifest | None:
    """The manifest with these tables given up; None where they are."""
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
    """The manifest without these very records: one that was refreshed meanwhile stays."""
    kept = tuple(each for each in manifest.checkpoints if each not in gone)
    if len(kept) == len(manifest.checkpoints):
        return None
    return msgspec.structs.replace(manifest, checkpoints=kept)


def protected_by_age(objects: Iterable[ObjectInfo], limit_ms: int) -> int | None:
    """The number of the version that was current at `limit_ms`, as far as the listing can tell."""
    known = [
        (info.modified_ms is None or info.modified_ms <= limit_ms, number)
        for info in objects
        if (number := manifest_number(info.name)) is not None
    ]
    old = [number for is_old, number in known if is_old]
    return max(old, default=min((number for _, number in known), default=None))
