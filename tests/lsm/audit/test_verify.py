"""fsck: silent on a sound database, whatever is in it; every damaged byte and every missing object is told."""

from __future__ import annotations

import contextlib
import json
import random
import re
from typing import Any

import msgspec
import pytest

import lsm
from lsm.audit.tables import _row_problem, _series_problem
from lsm.manifest.codec import decode_manifest, encode_manifest
from lsm.object_store import MemoryStore, ObjectStore
from lsm.object_store.names import PROBE, manifest_name, marker_name, table_name
from lsm.rows.chunk import RowChunk
from lsm.rows.kind import TOMBSTONE, VALUE
from lsm.sst.block import SeriesBlock, encode_series
from tests.doubles import CrashAt, CrashingStore, SimulatedCrash, number_of
from tests.lsm.checkpoint.test_checkpoints import churn, open_admin
from tests.lsm.checkpoint.test_clone import Named
from tests.lsm.support import FAMILIES, Lists, TwoBytes, append, copy_of, layouts, objects_of, open_db, tiny


def verify(store: ObjectStore, **components: Any) -> lsm.FsckReport:
    return lsm.fsck("memory://", object_store=store, settings=tiny(op_timeout=1), series_layout=Lists(), **components)


def everything() -> MemoryStore:
    """A database with every kind of object: tables of rows and series, a log, fences, a pinned version and its copy."""
    store = MemoryStore()
    with open_db(store) as db:
        churn(db, 2)
        append(db, FAMILIES[0], [(b"s%d" % (at % 3), b"value %d" % at) for at in range(40)], 0)
        db.flush(lsm.FlushType.MEMTABLE)
        db.create_checkpoint(name="kept")
        append(db, FAMILIES[0], [(b"s%d" % (at % 3), b"value %d" % at) for at in range(40)], 40)
        churn(db, 10, start=50)
        db.put(b"p2log", b"in the log", await_durable=True)
        append(db, FAMILIES[1], [(b"t", b"in the log")], 0)
        db.flush()
        db.collect_garbage(min_age=0)
        return copy_of(store)


SOUND = everything()


def test_finds_nothing_in_a_sound_database() -> None:
    seen: list[tuple[int, int]] = []
    report = verify(SOUND, progress=lambda done, total: seen.append((done, total)))

    assert report.problems == []
    assert report.orphans == []
    assert report.is_sound
    assert report.checkpoints == 1
    assert min(report.tables, report.blocks, report.log_objects, report.manifests, report.rows) > 1
    assert seen[-1][0] == seen[-1][1] == max(done for done, _ in seen)
    told = json.loads(report.to_json())
    assert told["is_sound"] is True
    assert told["rows"] == report.rows


@pytest.mark.parametrize("part", range(4))
def test_tells_every_object_that_is_damaged_cut_or_missing(part: int) -> None:
    silent = []
    # What the probe holds is nobody's: only that it is there counts, and the next writer's open puts it back.
    for name in sorted(objects_of(SOUND).keys() - {PROBE})[part::4]:
        whole = objects_of(SOUND)[name]
        for change in ("flip first", "flip middle", "flip last", "cut", "extend", "empty", "missing"):
            store = copy_of(SOUND)
            damaged = bytearray(whole)
            if change.startswith("flip"):
                damaged[{"first": 0, "middle": len(whole) // 2, "last": -1}[change.split()[1]]] ^= 0x40
            elif change == "cut":
                del damaged[-1]
            elif change == "extend":
                damaged += b"x"
            elif change == "empty":
                damaged.clear()
            objects_of(store)[name] = bytes(damaged)
            if change == "missing":
                del objects_of(store)[name]
            report = verify(store)
            is_told = any(each.object == name for each in report.problems)
            if not is_told and not (change == "missing" and may_be_missing(name)):
                silent.append((name, change, report.problems))
    assert silent == []


def may_be_missing(name: str) -> bool:
    """What a collector may delete, and the newest objects: nothing that is left knows of them."""
    newest = lsm.Admin("memory://", object_store=SOUND).read_manifest()
    number = number_of(name)
    assert number is not None
    if name.startswith("manifest/"):
        return number == newest.number
    if name.startswith("wal/"):
        last = max(at for each in objects_of(SOUND) if each.startswith("wal/") and (at := number_of(each)) is not None)
        needed = any(each.needs_log(number) for each in newest.checkpoints) or number in newest.fences
        return not needed and (number == newest.replay_after or number >= last - 1)
    return name.startswith("pinned/") and manifest_name(number) in objects_of(SOUND)


@pytest.mark.parametrize("at", range(0, 1000, 37))
def test_tells_a_flip_of_any_byte_of_a_table(at: int) -> None:
    name = max(
        (name for name in objects_of(SOUND) if name.startswith("sst/")), key=lambda name: len(objects_of(SOUND)[name])
    )
    whole = bytearray(objects_of(SOUND)[name])
    whole[at % len(whole)] ^= 1
    store = copy_of(SOUND)
    objects_of(store)[name] = bytes(whole)

    assert [each.object for each in verify(store).problems] == [name]


def forged(change: Any) -> MemoryStore:
    """The database with its newest manifest edited, checksums right."""
    store = copy_of(SOUND)
    newest = lsm.Admin("memory://", object_store=store).read_manifest()
    name = manifest_name(newest.number)
    found = decode_manifest(objects_of(store)[name], number=newest.number, database=None)
    objects_of(store)[name] = b"".join(encode_manifest(change(found), epoch=1, nonce=b"n" * 16))
    return store


def edit_table(**changes: Any) -> Any:
    """Changes what the manifest says of a table that holds several numbers, wherever compaction has left it."""

    def change(manifest: lsm.Manifest) -> lsm.Manifest:
        partition = manifest.partitions[0]
        chosen = max(partition.tables(), key=lambda table: table.last_position - table.first_position)

        def edited(tables: tuple[lsm.TableInfo, ...]) -> tuple[lsm.TableInfo, ...]:
            return tuple(msgspec.structs.replace(each, **changes) if each == chosen else each for each in tables)

        runs = tuple(msgspec.structs.replace(run, tables=edited(run.tables)) for run in partition.runs)
        return manifest.with_partition(msgspec.structs.replace(partition, l0=edited(partition.l0), runs=runs))

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (edit_table(rows=1), "does not agree"),
        (edit_table(last_key=b"p0zzz"), "holds keys from"),
        (edit_table(size=100_000), "the manifest says 100000 in all"),
        (edit_table(first_position=3, last_position=3), "outside what the manifest says"),
        (lambda manifest: msgspec.structs.replace(manifest, last_seq=5), "goes back"),
        (lambda manifest: msgspec.structs.replace(manifest, fences=()), "forgets the fences"),
        (lambda manifest: msgspec.structs.replace(manifest, fences=(*manifest.fences, 3)), "fence"),
        (
            lambda manifest: manifest.with_partition(
                msgspec.structs.replace(manifest.partitions[0], series_ends=((FAMILIES[0], 3),))
            ),
            "says it ends before",
        ),
    ],
)
def test_tells_what_contradicts_itself_behind_a_right_checksum(change: Any, why: str) -> None:
    report = verify(forged(change))

    assert any(why in each.message for each in report.problems), report.problems


def test_tells_a_series_out_of_order_between_tables() -> None:
    def swap(manifest: lsm.Manifest) -> lsm.Manifest:
        partition = manifest.partition(b"p0")
        assert partition is not None
        tables = sorted(partition.tables(), key=lambda table: table.number)
        level0 = tuple(tables)  # Oldest first, where newest first belongs.
        return manifest.with_partition(msgspec.structs.replace(partition, l0=level0, runs=()))

    store = MemoryStore()
    with open_db(store, tiny(compaction_enabled=False)) as db:
        for turn in range(3):
            append(db, FAMILIES[0], [(b"s", b"%d" % turn)], turn)
            db.flush(lsm.FlushType.MEMTABLE)
    assert verify(store).problems == []
    newest = lsm.Admin("memory://", object_store=store).read_manifest()
    name = manifest_name(newest.number)
    objects_of(store)[name] = b"".join(encode_manifest(swap(newest), epoch=1, nonce=b"n" * 16))

    assert any("comes after" in each.message for each in verify(store).problems)


def test_tells_a_series_that_is_not_listed() -> None:
    class Unlisted(Lists):
        def directory(self, family: bytes) -> bytes | None:
            return None

    store = MemoryStore()
    with lsm.Db.open(
        "memory://", tiny(), object_store=store, prefix_extractor=TwoBytes(), series_layout=Unlisted()
    ) as db:
        append(db, FAMILIES[0], [(b"s", b"x")], 0)
    assert any("not listed" in each.message for each in verify(store).problems)


def test_lists_orphans_and_calls_them_no_damage() -> None:
    store = copy_of(SOUND)
    store.put_if_absent("sst/00000000000000000001.sst", [b"left by a crash"], timeout=1)

    report = verify(store)

    assert report.is_sound
    assert [each.object for each in report.orphans] == ["sst/00000000000000000001.sst"]


def test_a_clone_and_its_parent_are_sound() -> None:
    parent, child = Named("parent"), Named("child")
    objects_of(parent).update(objects_of(SOUND))
    with open_admin(parent) as admin:
        admin.create_clone("memory://", object_store=child)

    assert verify(parent).problems == []
    report = verify(child, parent_stores={parent.url: parent})
    assert report.problems == []
    assert report.tables > 1


# -- jobs under way -------------------------------------------------------------------------------------------------------


def cut_off(tables: int = 3) -> MemoryStore:
    """A database whose compactor died after some finished tables, and whose claim was taken up once by one that died, too."""
    store, chance = MemoryStore(), random.Random(1)
    with open_db(store, tiny(compaction_enabled=False, l0_sst_size_bytes=1 << 20)) as db:
        for turn in range(4):
            for at in range(60):
                db.put(b"p0k%03d" % (at * 7 % 60), chance.randbytes(60))
            append(db, FAMILIES[0], [(b"s%d" % (at % 3), b"value %d" % at) for at in range(40)], 40 * turn)
            db.flush(lsm.FlushType.MEMTABLE)
    for _ in range(2):
        counting = CrashingStore(copy_of(store))
        with open_compactor(counting) as compactor:
            compactor.run_once(20)
        notes = [at for at, (call, name) in enumerate(counting.log, 1) if call.startswith("put") and "done" in name]
        dying = CrashingStore(store, notes[tables - 1], CrashAt.AFTER)
        with contextlib.suppress(lsm.Error, SimulatedCrash), open_compactor(dying) as compactor:
            compactor.run_once(20)
        dying.kill()
    return store


def open_compactor(store: ObjectStore) -> lsm.DbCompactor:
    settings = tiny(l0_compaction_max=8, op_timeout=0.5)
    return lsm.DbCompactor.open("memory://", settings, object_store=store, poll_interval=20, **layouts())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_verifies_what_jobs_under_way_have_finished() -> None:
    sound = cut_off()
    (job,) = lsm.Admin("memory://", object_store=sound).read_manifest().jobs
    done = [table for part in job.parts for table in part.done]
    notes = [
        number
        for name in objects_of(sound)
        if name.endswith(".done") and (number := number_of(name)) is not None and job.parts[0].first <= number
    ]
    assert len(done) == 3
    assert len(notes) == 3
    report = verify(sound)
    assert report.problems == []
    assert report.is_sound

    for number in [*(table.number for table in done), *notes]:
        for change in ("flip", "missing"):
            store = copy_of(sound)
            damaged = bytearray(objects_of(store).pop(table_name(number)))
            damaged[len(damaged) // 2] ^= 1
            if change == "flip":
                objects_of(store)[table_name(number)] = bytes(damaged)
            assert [each.object for each in verify(store).problems] == [table_name(number)], change
    for number in notes:
        store = copy_of(sound)
        objects_of(store)[marker_name(number)] = objects_of(sound)[marker_name(number)][:-1]
        assert [each.object for each in verify(store).problems] == [marker_name(number)]


@pytest.mark.parametrize("name", ["sst/00000000000000000001.done", "pinned/00000000000000000001.manifest"])
def test_names_every_kind_of_orphan(name: str) -> None:
    store = copy_of(SOUND)
    store.put_if_absent(name, [b"left by a crash"], timeout=1)

    report = verify(store)

    assert report.is_sound
    assert [each.object for each in report.orphans] == [name]


def test_mentions_a_probe_that_was_left() -> None:
    store = copy_of(SOUND)
    store.put_if_absent("probe/00ff", [b"first"], timeout=1)

    report = verify(store)

    assert report.orphans == []
    assert any("probe/00ff" in note for note in report.notes)


def test_says_so_where_there_is_nothing() -> None:
    with pytest.raises(lsm.UnavailableError, match="no database"):
        verify(MemoryStore())


ROWS = RowChunk([b"a", b"a", b"b"], [5, 3, 4], [VALUE, TOMBSTONE, VALUE], [b"", b"", b""])


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (ROWS, None),
        (RowChunk([b"b", b"a"], [1, 2], [VALUE, VALUE], [b"", b""]), "keys are not sorted"),
        (RowChunk([b"a", b"a"], [3, 5], [VALUE, VALUE], [b"", b""]), "versions of a key are not newest first"),
        (RowChunk([b"a", b"a"], [3, 3], [VALUE, VALUE], [b"", b""]), "versions of a key are not newest first"),
        (RowChunk([b"a"], [6], [VALUE], [b""]), "holds batch 6, the manifest knows batches up to 5"),
    ],
)
def test_rows_that_a_checksum_holds_together_and_no_writer_wrote(rows: RowChunk, problem: str | None) -> None:
    found = _row_problem(rows, 5)

    assert found == problem or re.match(str(problem), str(found))


@pytest.mark.parametrize(
    ("names", "counts", "numbers", "problem"),
    [
        ([b"a", b"b"], [2, 1], [3, 9, 1], None),
        ([b"b", b"a"], [1, 1], [1, 2], "series names are not sorted"),
        ([b"a", b"a"], [1, 1], [1, 2], "series names are not sorted"),
        ([b"a"], [2], [2, 2], "the numbers of a series do not ascend"),
        ([b"a", b"b"], [2, 2], [1, 2, 9, 8], "the numbers of a series do not ascend"),
    ],
)
def test_series_that_a_checksum_holds_together_and_no_writer_wrote(
    names: list[bytes], counts: list[int], numbers: list[int], problem: str | None
) -> None:
    payload = encode_series(b"fL", names, counts, numbers, [b"v"] * len(numbers))

    assert _series_problem(SeriesBlock(payload, name="n", offset=0)) == problem
