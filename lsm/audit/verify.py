"""`fsck`: every byte and every reference of a database.

It only reads, so it may run beside a writer. It distinguishes collected objects from lost ones. Orphans are no damage; the
collector deletes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

from lsm.audit.jobs import check_claims
from lsm.audit.report import FsckReport, Orphan, Problem, Progress
from lsm.audit.tables import SummedReader, TableCheck
from lsm.audit.wal import check_log, listed_log
from lsm.checkpoint.checkpoints import load_version
from lsm.components import Components, Stores
from lsm.errors import CorruptionError, InternalError, InvalidError, nothing_there
from lsm.manifest.codec import decode_manifest
from lsm.manifest.model import MANIFESTS_KEPT, Manifest
from lsm.manifest.store import ManifestStore
from lsm.object_store.contract import ObjectInfo, ObjectMissing
from lsm.object_store.names import (
    MANIFESTS,
    PINNED,
    PROBE,
    PROBES,
    TABLES,
    WAL,
    is_foreign,
    is_leftover,
    is_probe,
    manifest_name,
    manifest_number,
    marker_number,
    pinned_name,
    pinned_number,
    table_number,
)
from lsm.observe import events
from lsm.runtime import Runtime
from lsm.settings import Settings
from lsm.sst.cache import Caches
from lsm.wal.place import check_place

INDEX_CACHE_BYTES = 64 << 20
RUNS_MAX = 5
"""Maximum verifications of a changing database. Two in a row with the same problem end it earlier."""
FOREIGN_SHOWN = 50
"""Maximum names of other programs' files in a report. Further ones are only counted."""


def fsck(
    storage: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **components: Any,
) -> FsckReport:
    """Verify everything stored at `storage`, and repair nothing.

    `components`: as for `Db.open`. With the series layout, listings are verified, too.

    Cost: reads every byte; memory for the manifest, an index cache of 64 MiB and a megabyte per sorted source of a tree.
    Raises: UnavailableError if there is no database or the store fails. Damage is in the report.
    """
    try:
        parts = Components(storage_options=storage_options or {}, **components)
    except TypeError as error:
        raise InvalidError(f"fsck: {error}; components are {sorted(Components.__annotations__)}") from None
    settings = settings if settings is not None else Settings()
    runtime = parts.runtime if parts.runtime is not None else Runtime(parts.clock)
    try:
        report = _confirmed(
            lambda: Stores(os.fspath(storage), settings, parts, runtime, reads_only=True), runtime, parts, progress
        )
        if report.problems:
            first = report.problems[0]
            place = f"{first.object or 'rows'} at byte {first.offset}"
            total = report.problems_total
            events.tell(events.FSCK_FOUND_DAMAGE, url=report.url, problems=total, place=place)
        return report
    finally:
        runtime.close()


def _confirmed(
    open_stores: Callable[[], Stores], runtime: Runtime, parts: Components, progress: Progress | None
) -> FsckReport:
    """Verify until the result is certain. Beside a writer, an object may seem lost because a flush or a collector replaced
    it during the verification. So a problem counts if the manifest did not change, or if the next verification finds the same
    problem."""
    before: set[Problem] | None = None
    for left in reversed(range(RUNS_MAX)):
        stores = open_stores()
        try:
            check = _Fsck(stores, runtime, parts, progress)
            report = check.run()
            if report.is_sound or check.is_undisturbed():
                return report
        finally:
            stores.close()
        found = set(report.problems)
        if before is not None and (before & found or not left):
            report.keep(before & found)
            return report
        before = found
    raise AssertionError("the last run returns")


class _Fsck:
    """One verification."""

    def __init__(self, stores: Stores, runtime: Runtime, parts: Components, progress: Progress | None) -> None:
        self._stores = stores
        self._runtime = runtime
        self._parts = parts
        self._progress = progress
        self._done = self._total = 0
        self._report = FsckReport(url=stores.main.url)
        self._manifests: ManifestStore | None = None
        self._pinned: dict[int, Manifest] = {}

    def run(self) -> FsckReport:
        report = self._report
        main = self._stores.main.with_cause("fsck")
        listed = main.list(MANIFESTS)
        versions = {number: info for info in listed if (number := manifest_number(info.name)) is not None}
        try:
            self._manifests = ManifestStore.load(main, self._runtime)
        except CorruptionError as error:
            report.add_error(error)
            return report
        if self._manifests is None:
            raise nothing_there(main.url)
        newest = self._manifests.current
        check_place(self._stores.wal.with_cause("fsck"), self._stores.wal_url, newest)
        report.database, report.manifest_id = newest.database.hex(), newest.number
        report.checkpoints = len(newest.checkpoints)
        self._stores.attach(newest.parents)
        # Tables are listed first: a table created between the two listings is too new for this version to name it.
        tables = main.list(TABLES)
        log_objects = self._stores.wal.with_cause("fsck").list(WAL)
        log = listed_log(log_objects)
        self._total = sum(info.size for info in (*tables, *log.values()))
        self._check_versions(versions, newest)
        self._check_checkpoints(newest)
        check_log(self._stores.wal.with_cause("fsck"), newest, log, report, self._advance)
        self._check_tables(newest)
        check_claims(main, newest, tables, report, self._table_check(newest), self._is_claimed)
        others = [*main.list(PINNED), *main.list(PROBES)]
        self._find_orphans([*tables, *others], newest)
        self._note_foreign([*listed, *log_objects, *tables, *others])
        return report

    def is_undisturbed(self) -> bool:
        """Whether the manifest is still the one that was verified. Cost: as a refresh."""
        try:
            return self._manifests is None or self._manifests.refresh().number == self._report.manifest_id
        except CorruptionError:  # The report has it.
            return True

    def _advance(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)

    # -- manifests ----------------------------------------------------------------------------------------------------

    def _check_versions(self, versions: dict[int, ObjectInfo], newest: Manifest) -> None:
        """Verify every stored version, and that no version takes back what must only grow."""
        report = self._report
        found: list[Manifest] = []
        for number in sorted(
            versions.keys() | set(range(max(1, newest.number - MANIFESTS_KEPT + 1), newest.number + 1))
        ):
            name = manifest_name(number)
            report.manifests += 1
            try:
                size, manifest = self._stores.main.insist(partial(self._read_version, number, newest), is_known=True)
                manifest.check()
            except ObjectMissing:
                if number > newest.number - MANIFESTS_KEPT and not self._is_overtaken(number):
                    report.add("is missing: the newest versions are never deleted", object_name=name)
                continue
            except CorruptionError as error:
                report.add_error(error)
                continue
            except InternalError as error:
                report.add(str(error), object_name=name)
                continue
            report.bytes += size
            found.append(manifest)
        for older, newer in pairwise(found):
            if older.number + 1 < newer.number:
                # A process that slept may have created an old version again; the collector deletes it.
                report.notes.append(
                    f"manifests between {older.number} and {newer.number} are collected, {older.number} is not"
                )
            elif problem := _step_problem(older, newer):
                report.add(problem, object_name=manifest_name(newer.number))

    def _read_version(self, number: int, newest: Manifest) -> tuple[int, Manifest]:
        data = self._stores.main.with_cause("fsck").get(manifest_name(number))
        return len(data), decode_manifest(data, number=number, database=newest.database)

    def _is_overtaken(self, number: int) -> bool:
        """Whether a version may have been collected after this verification began."""
        assert self._manifests is not None
        return number <= self._manifests.refresh().number - MANIFESTS_KEPT

    def _check_checkpoints(self, newest: Manifest) -> None:
        for checkpoint in newest.checkpoints:
            number = checkpoint.manifest_id
            if number in self._pinned:
                continue
            try:
                pinned = load_version(self._stores.main.with_cause("fsck"), number, newest.database)
                pinned.check()
                self._pinned[number] = pinned
            except ObjectMissing:
                is_old = number <= newest.number - MANIFESTS_KEPT
                name = pinned_name(number) if is_old else manifest_name(number)
                self._report.add(f"is missing, and checkpoint {checkpoint.id} needs it", object_name=name)
            except CorruptionError as error:
                self._report.add_error(error)
            except InternalError as error:
                self._report.add(str(error), object_name=manifest_name(number))

    # -- tables -------------------------------------------------------------------------------------------------------

    def _check_tables(self, newest: Manifest) -> None:
        check = self._table_check(newest)
        for partition in newest.partitions:
            check.check_partition(partition)
        seen = newest.table_ids()
        for pinned in self._pinned.values():
            check = self._table_check(pinned)
            for partition in pinned.partitions:
                for table in partition.tables():
                    if table.number not in seen:
                        seen.add(table.number)
                        check.check_table(partition, table)

    def _table_check(self, manifest: Manifest) -> TableCheck:
        # Not the caller's caches and no disk cache, because the store's bytes are to be checked.
        caches = Caches(block_bytes=0, meta_bytes=INDEX_CACHE_BYTES, runtime=self._runtime)
        store = self._stores.main.with_cause("fsck")
        owners = manifest.owners()
        reader = SummedReader(store, manifest.database, self._runtime, caches=caches, owners=owners)
        return TableCheck(
            store,
            reader,
            manifest,
            self._report,
            layout=self._parts.series_layout,
            is_needed=self._is_needed,
            advance=self._advance,
        )

    def _is_needed(self, number: int) -> bool:
        """Whether the newest manifest, one of its claims or one of its checkpoints still names the table."""
        if self._is_claimed(number):
            return True
        assert self._manifests is not None
        now = self._manifests.current
        kept = {each.manifest_id for each in now.checkpoints}
        pinned = (manifest for at, manifest in self._pinned.items() if at in kept)
        return any(number in manifest.table_ids() for manifest in (now, *pinned))

    def _is_claimed(self, number: int) -> bool:
        """Whether a claimed compaction still needs the table."""
        assert self._manifests is not None
        return self._manifests.refresh().is_claimed(number)

    def _find_orphans(self, objects: list[ObjectInfo], newest: Manifest) -> None:
        report = self._report
        named = newest.table_ids().union(*(each.table_ids() for each in self._pinned.values()))
        pinned = {each.manifest_id for each in newest.checkpoints}
        for info in objects:
            table, note, copy = table_number(info.name), marker_number(info.name), pinned_number(info.name)
            is_stray_table = table is not None and table not in named and not newest.is_claimed(table)
            is_stray_marker = note is not None and not newest.is_claimed(note)
            if is_stray_table or is_stray_marker or (copy is not None and copy not in pinned):
                report.orphans.append(Orphan(info.name, info.size))
            if is_probe(info.name) and info.name != PROBE:
                report.notes.append(f"{info.name} was left by an interrupted create: it is harmless and may be deleted")
        stores = {store.url: store for store in (self._stores.main, self._stores.wal)}.values()
        left = (info for store in stores for info in store.leftovers() if is_leftover(info.name))
        report.orphans += [Orphan(info.name, info.size) for info in left]

    def _note_foreign(self, objects: list[ObjectInfo]) -> None:
        """Add notes about names that no database gives, which are other programs' files."""
        foreign = [info.name for info in objects if is_foreign(info.name)]
        for name in foreign[:FOREIGN_SHOWN]:
            self._report.notes.append(
                f"{name} is not this database's: it is never read or deleted, and may be moved away"
            )
        if len(foreign) > FOREIGN_SHOWN:
            self._report.notes.append(f"{len(foreign) - FOREIGN_SHOWN} more names are not this database's")


def _step_problem(older: Manifest, newer: Manifest) -> str | None:
    """Return the problem if a later version takes back what must only grow."""
    for field in ("writer_epoch", "replay_after", "wal_epoch_floor", "last_seq", "gc_horizon"):
        before, after = getattr(older, field), getattr(newer, field)
        if after < before:
            return f"{field} goes back from {before} to {after}"
    if not set(older.fences) <= set(newer.fences):
        return f"forgets the fences {sorted(set(older.fences) - set(newer.fences))}"
    born = newer.table_ids() - older.table_ids()
    late = sorted(number for number in born if older.is_given_up(number))
    return f"publishes tables {late} that were given up" if late else None
