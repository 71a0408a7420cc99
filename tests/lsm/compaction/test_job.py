"""Jobs in parts: cut by key, resumed where one was cut off, in slots of their own."""

from __future__ import annotations

import random
from concurrent.futures import CancelledError, Future
from typing import Any

import msgspec
import pytest

import lsm
from lsm.compaction.block_places import places
from lsm.compaction.completion_markers import decode_marker, encode_marker, finished_tables, put_marker
from lsm.compaction.job import CompactionJob, compact
from lsm.compaction.job_edits import continued, new_record, with_claim, with_result, without_claim
from lsm.compaction.plan import CompactionSpec, Sources, check_spec
from lsm.compaction.running_job import RunningJob
from lsm.compaction.split import key_ranges
from lsm.compaction.workplace import Workplace
from lsm.errors import CompactorFencedError, CorruptionError, InvalidError
from lsm.manifest.job_record import JobPart, JobRecord
from lsm.object_store import MemoryStore
from lsm.object_store.reliable import ReliableStore
from lsm.rows.chunk import series_key
from lsm.runtime import Runtime
from lsm.sst.block import SeriesBlock
from lsm.sst.builder import TableFormat, TableInfo
from lsm.sst.cache import Caches
from lsm.sst.table import TableReader
from lsm.sst.table_rules import Rules
from tests.lsm.support import Lists, TwoBytes, append, open_db, read_rows, tiny

RUNTIME = Runtime()
Row = tuple[Any, ...]


class Bench:
    """A database with level-0 tables that overlap in every way, and jobs run on them by hand."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.memory = MemoryStore()
        number = 0
        with open_db(self.memory, tiny(compaction_enabled=False, l0_sst_size_bytes=1 << 20)) as db:
            for _ in range(4):
                for _ in range(60):
                    key = b"p0%c%02d" % (chance.choice(b"AKMZ"), chance.randrange(40))
                    if chance.random() < 0.2:
                        db.delete(key)
                    else:
                        db.put(key, chance.randbytes(chance.randrange(40)))
                rows = [(b"s%d" % chance.randrange(3), chance.randbytes(20)) for _ in range(chance.randrange(1, 60))]
                append(db, b"p0L", rows, number)
                number += len(rows)
                db.flush(lsm.FlushType.MEMTABLE)
            self.manifest = db.manifest
            self.rows = read_rows(db)
        self.store = ReliableStore(self.memory, RUNTIME, op_timeout=5, request_timeout=5)
        self.tables = TableReader(self.store, self.manifest.database, RUNTIME, caches=Caches(runtime=RUNTIME))
        table_format = TableFormat(block_bytes=96, min_filter_keys=4)
        self.rules = Rules(self.manifest.database, table_format, TwoBytes(), Lists())
        partition = self.manifest.partition(b"p0")
        assert partition is not None
        self.spec = CompactionSpec(b"p0", tuple(table.number for table in partition.l0), (), 1)
        self.sources = check_spec(self.manifest, self.spec)

    def job(self, first: int, low: bytes | None = None, high: bytes | None = None, **changes: Any) -> CompactionJob:
        numbers = (first, first + 1000)
        return CompactionJob(self.rules, self.sources, (), 600, numbers, low, high, **changes)

    def content(self, tables: list[TableInfo]) -> list[Row]:
        found: list[Row] = []
        for table in tables:
            for at in range(len(self.tables.index(table).keys)):
                block = self.tables.block(table, at)
                if isinstance(block, SeriesBlock):
                    chunk = block.chunk()
                    names = [n for n, count in zip(chunk.names, chunk.counts, strict=True) for _ in range(count)]
                    found += zip(names, chunk.positions, chunk.values, strict=True)
                else:
                    found += zip(block.keys, block.seqs, block.kinds, block.values, strict=True)
        return found


@pytest.mark.parametrize("seed", range(8))
def test_parts_make_the_rows_one_job_makes_wherever_it_is_cut(seed: int) -> None:
    bench = Bench(seed)
    chance = random.Random(seed)
    whole = compact(bench.store, RUNTIME, bench.job(10_000))
    keys = [series_key(b"p0L", b"s1", chance.randrange(80)), b"p0L", b"p0K%02d" % chance.randrange(40), b"p0M10\x00"]
    cuts = sorted({*keys, *(table.last_key + b"\x00" for table in whole[:-1])})

    parts: list[TableInfo] = []
    for at, (low, high) in enumerate(zip([None, *cuts], [*cuts, None], strict=True)):
        part = compact(bench.store, RUNTIME, bench.job(20_000 + 1000 * at, low, high))
        assert all((low or b"") <= t.first_key and (high is None or t.last_key < high) for t in part)
        parts += part

    assert bench.content(parts) == bench.content(whole)
    assert len(bench.content(whole)) > 100


def test_cuts_a_job_into_ranges_of_about_a_size() -> None:
    bench = Bench(1)
    blocks = [place for table in bench.sources.tables for place in places(0, table, bench.tables.index(table))]
    total = sum(block.size for block in blocks)

    ranges = key_ranges(blocks, total // 4)

    assert len(ranges) in (4, 5)
    assert ranges[0][0] is ranges[-1][1] is None
    assert [high for _, high in ranges[:-1]] == [low for low, _ in ranges[1:]]
    for low, high in ranges:
        size = sum(b.size for b in blocks if (low is None or b.low >= low) and (high is None or b.low < high))
        assert size < total / 2
    assert key_ranges(blocks, 2 * total) == [(None, None)]
    assert key_ranges([block._replace(low=b"same") for block in blocks], 100) == [(None, b"same"), (b"same", None)]


def test_a_cancelled_job_ends_between_two_slices() -> None:
    bench = Bench(2)
    asked = iter([False, False, False, True])

    with pytest.raises(CancelledError):
        compact(bench.store, RUNTIME, bench.job(10_000), lambda: next(asked))

    assert next(asked, "asked no more") == "asked no more"


def test_a_job_cut_off_goes_on_behind_its_last_finished_table() -> None:
    bench = Bench(3)
    whole = compact(bench.store, RUNTIME, bench.job(10_000))
    assert len(whole) > 4
    turns = 0

    def is_cancelled() -> bool:
        nonlocal turns
        turns += 1
        return finished_tables(bench.store, bench.manifest.database, 20_000, 21_000)[2:] != []

    with pytest.raises(CancelledError):
        compact(bench.store, RUNTIME, bench.job(20_000, keeps_markers=True), is_cancelled)
    done = finished_tables(bench.store, bench.manifest.database, 20_000, 21_000)
    rest = compact(bench.store, RUNTIME, bench.job(30_000, done[-1].last_key + b"\x00"))

    assert bench.content(done + rest) == bench.content(whole)
    assert [table.number for table in done] == [20_000, 20_001, 20_002]


# -- notes ----------------------------------------------------------------------------------------------------------------

TABLE = TableInfo(7, 500, 9, b"a", b"z", 300, 350, 420)


def test_notes_are_found_up_to_the_first_that_is_missing() -> None:
    store = ReliableStore(MemoryStore(), RUNTIME, op_timeout=5, request_timeout=5)
    for number in (7, 8, 10):
        put_marker(store, b"d" * 16, msgspec.structs.replace(TABLE, number=number))

    assert [table.number for table in finished_tables(store, b"d" * 16, 7, 99)] == [7, 8]
    assert [table.number for table in finished_tables(store, b"d" * 16, 7, 8)] == [7]
    assert finished_tables(store, b"d" * 16, 9, 99) == []
    with pytest.raises(CorruptionError, match="belongs to database"):
        finished_tables(store, b"e" * 16, 7, 99)


def test_a_damaged_note_is_refused_at_every_byte() -> None:
    data = b"".join(encode_marker(b"d" * 16, TABLE))
    assert decode_marker(data, number=7, database=b"d" * 16) == TABLE

    for at in range(len(data)):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(CorruptionError):
            decode_marker(damaged, number=7, database=b"d" * 16)


# -- claims ---------------------------------------------------------------------------------------------------------------


def claimed() -> tuple[lsm.Manifest, JobRecord, Sources]:
    bench = Bench(4)
    manifest = msgspec.structs.replace(bench.manifest, compactor_epoch=9)
    record = new_record(
        bench.spec, bench.sources, [(None, b"p0K"), (b"p0K", None)], first=500, count=50, epoch=9, where="w", now_ms=1
    )
    found = with_claim(manifest, record)
    assert found is not None
    return found, record, bench.sources


def out(number: int, first: bytes, last: bytes) -> TableInfo:
    return TableInfo(number, 100, 1, first, last, 0, 0, 100)


def test_a_claim_keeps_its_numbers_from_the_collector() -> None:
    manifest, record, _ = claimed()
    manifest = msgspec.structs.replace(manifest, gc_horizon=10_000)

    assert record.parts == (JobPart(None, b"p0K", 500, 550), JobPart(b"p0K", None, 550, 600))
    assert [manifest.is_given_up(number) for number in (499, 500, 599, 600)] == [True, False, False, True]
    assert with_claim(manifest, record) is None


def test_a_job_goes_on_under_new_numbers_and_keeps_what_is_finished() -> None:
    manifest, record, _ = claimed()
    late = msgspec.structs.replace(manifest, compactor_epoch=10)
    done = [out(500, b"p0A", b"p0B"), out(501, b"p0C", b"p0D")]

    goes_on = continued(record, [done, []], first=9000, count=50, epoch=10, where="v")
    taken = with_claim(late, goes_on, replaces=record)

    assert taken is not None
    assert taken.jobs == (goes_on,)
    assert goes_on.parts == (JobPart(b"p0D\x00", b"p0K", 9000, 9050, tuple(done)), JobPart(b"p0K", None, 9050, 9100))
    assert [taken.is_claimed(number) for number in (500, 501, 502, 550, 9000, 9099)] == [
        True,
        True,
        False,
        False,
        True,
        True,
    ]
    with pytest.raises(CompactorFencedError):
        with_result(taken, record, [])
    with pytest.raises(InvalidError, match="not claimed any more"):
        with_claim(without_claim(late, record.id, 10) or late, goes_on, replaces=record)


def test_a_result_takes_the_claim_away_and_is_committed_once() -> None:
    manifest, record, _ = claimed()
    outputs = [out(500, b"p0A", b"p0B"), out(550, b"p0K", b"p0Z")]

    done = with_result(manifest, record, outputs)

    assert done is not None
    done.check()
    assert done.jobs == ()
    partition = done.partition(b"p0")
    assert partition is not None
    assert partition.runs[0].tables == tuple(outputs)
    assert with_result(done, record, outputs) is None


def test_two_claims_share_no_source_and_deletes_wait_for_what_is_below() -> None:
    manifest, record, _ = claimed()
    other = msgspec.structs.replace(record, id=900)

    with pytest.raises(InvalidError, match="another one is merging"):
        with_claim(manifest, other)
    below = lsm.Run(5, (out(77, b"p0A", b"p0Z"),))
    partition = manifest.partition(b"p0")
    assert partition is not None
    deeper = manifest.with_partition(msgspec.structs.replace(partition, runs=(below,)))
    with pytest.raises(InvalidError, match="older rows lie below"):
        with_result(deeper, record, [])


# -- slots ----------------------------------------------------------------------------------------------------------------


class Held:
    """An executor that runs nothing."""

    def submit(self, *_: object, **__: object) -> Future[Any]:
        return Future()


def workplace(slots: int) -> Workplace:
    store = ReliableStore(MemoryStore(), RUNTIME, op_timeout=5, request_timeout=5)
    held: Any = Held()
    return Workplace(RUNTIME, store, threads=held, workers=None, address=None, slots=slots, stall_seconds=None)


def running(*, is_level0_priority: bool, parts: int) -> RunningJob:
    l0, deep = out(1, b"a", b"b"), out(2, b"a", b"b")
    spec = CompactionSpec(b"", (1,), (), 1) if is_level0_priority else CompactionSpec(b"", (), (2,), 1)
    sources = Sources(((l0 if is_level0_priority else deep,),), True)
    job: Any = None
    return RunningJob(spec, sources, None, [job] * parts, first=1, started_at=0.0, where="here")


@pytest.mark.parametrize("slots", [2, 3])
def test_deep_jobs_leave_a_slot_for_level_0(slots: int) -> None:
    place = workplace(slots)
    deep, level0_job = running(is_level0_priority=False, parts=9), running(is_level0_priority=True, parts=1)

    assert place.has_room([], is_level0_priority=False)
    for job, part in place.waiting([deep]):
        place.start(job, part, lambda _: None)

    assert sum(part.is_running for part in deep.parts) == slots - 1
    assert not place.has_room([deep], is_level0_priority=False)
    assert place.has_room([deep], is_level0_priority=True)
    assert [job for job, _ in place.waiting([deep, level0_job])] == [level0_job]
    for job, part in place.waiting([deep, level0_job]):
        place.start(job, part, lambda _: None)
    assert place.waiting([deep, level0_job]) == []
    assert not place.has_room([deep, level0_job], is_level0_priority=True)


@pytest.mark.parametrize(("size", "is_level0_priority"), [(250, True), ((8 << 20) - 1000, True), (8 << 20, False)])
def test_a_small_share_of_level_0_makes_no_relief_unless_the_job_is_done_in_a_moment(
    size: int, *, is_level0_priority: bool
) -> None:
    deep = msgspec.structs.replace(out(2, b"a", b"b"), size=size)
    spec = CompactionSpec(b"", (1,), (2,), 1)

    job = RunningJob(spec, Sources(((out(1, b"a", b"b"),), (deep,)), True), None, [], first=1, started_at=0, where="")

    assert job.is_level0_priority == is_level0_priority
