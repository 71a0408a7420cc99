"""Stores whose conditional create stops working: refused before a record counts on it (rules O2 and O8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.object_store.names import PROBE
from lsm.object_store.probe import PROOF_SECONDS
from lsm.runtime import Runtime
from tests.doubles import CountingStore
from tests.lsm.support import abandon, open_plain, tiny

IGNORED = "ignores conditional writes"


class Bucket(CountingStore):
    """Objects in memory behind a server that can stop honouring the condition."""

    def __init__(self, memory: MemoryStore | None = None) -> None:
        super().__init__(memory if memory is not None else MemoryStore())
        self.decides_itself = False
        self.honours = True
        self.generations = 0
        self.replaced: list[str] = []

    @property
    def generation(self) -> int:
        return self.generations

    def put_if_absent(self, name: str, parts: Sequence[bytes], *, timeout: float) -> None:
        if not self.honours and self.holds(name):
            self.replaced.append(name)
            self.store.delete(name, timeout=timeout)
        super().put_if_absent(name, parts, timeout=timeout)

    def holds(self, name: str) -> bool:
        return any(info.name == name for info in self.store.list("", timeout=1.0))

    def objects(self) -> dict[str, bytes]:
        names = [info.name for info in self.store.list("", timeout=1.0)]
        return {name: self.store.get(name, timeout=1.0) for name in names if name != PROBE}


class ShiftedRuntime(Runtime):
    """A monotonic clock that can be put forward."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.shift


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def runtime() -> Iterator[ShiftedRuntime]:
    made = ShiftedRuntime()
    yield made
    made.close()


def quiet(**changes: object) -> lsm.Settings:
    return tiny(compaction_enabled=False, gc_interval=None, l0_sst_size_bytes=1 << 20, op_timeout=2.0, **changes)


def written(store: Bucket, keys: Sequence[bytes]) -> None:
    with open_plain(store, quiet()) as db:
        for key in keys:
            db.put(key, b"x", await_durable=True)


def content(store: Bucket) -> list[bytes]:
    with open_plain(store, quiet()) as db:
        return [key for key, _ in db.scan()]


# -- at every open ----------------------------------------------------------------------------------------------------


def test_a_store_that_changed_between_two_opens_is_refused_and_nothing_is_touched(bucket: Bucket) -> None:
    written(bucket, [b"a"])
    before = bucket.objects()
    bucket.honours = False

    for _ in range(2):
        with pytest.raises(lsm.InvalidError, match=IGNORED):
            open_plain(bucket, quiet())

    assert bucket.objects() == before
    bucket.honours = True
    assert content(bucket) == [b"a"]


def test_a_copy_on_a_server_that_ignores_the_condition_is_refused_also_without_the_probe(bucket: Bucket) -> None:
    written(bucket, [b"a"])
    bucket.delete(PROBE, timeout=1.0)
    bucket.honours = False

    with pytest.raises(lsm.InvalidError, match=IGNORED):
        open_plain(bucket, quiet())


def test_the_second_of_two_writers_is_refused_and_the_first_loses_nothing(bucket: Bucket) -> None:
    first = open_plain(bucket, quiet())
    first.put(b"a", b"x", await_durable=True)
    bucket.honours = False

    with pytest.raises(lsm.InvalidError, match=IGNORED):
        open_plain(bucket, quiet())
    first.put(b"b", b"x", await_durable=True)  # Nobody else can be writing.
    bucket.honours = True
    first.close()

    assert content(bucket) == [b"a", b"b"]
    assert set(bucket.replaced) == {PROBE}


def test_the_store_of_the_log_is_probed_as_well(bucket: Bucket) -> None:
    log = Bucket()
    with open_plain(bucket, quiet(), wal_object_store=log) as db:
        db.put(b"a", b"x", await_durable=True)
    assert bucket.holds(PROBE)
    assert log.holds(PROBE)
    log.honours = False
    before = bucket.objects(), log.objects()

    with pytest.raises(lsm.InvalidError, match=IGNORED):
        open_plain(bucket, quiet(), wal_object_store=log)

    assert (bucket.objects(), log.objects()) == before  # No epoch was claimed: the writer that is there goes on.


def test_a_caller_who_asserts_a_single_writer_is_not_asked(bucket: Bucket) -> None:
    bucket.honours = False

    with open_plain(bucket, quiet(assume_single_writer=True)) as db:
        db.put(b"a", b"x", await_durable=True)

    assert not bucket.holds(PROBE)


def test_a_database_from_before_gets_its_probe_at_the_next_open(bucket: Bucket) -> None:
    written(bucket, [b"a"])
    bucket.delete(PROBE, timeout=1.0)
    costs = []

    for _ in range(2):
        with open_plain(bucket, quiet()) as db:
            requests = db.status().requests
            costs.append({kind: row.requests for (kind, cause), row in requests.items() if cause == "probe"})
            assert db.get(b"a") == b"x"

    assert costs == [{"put": 2, "get": 1, "list": 1}, {"put": 1}]
    assert bucket.holds(PROBE)


def test_an_open_costs_twelve_requests_at_most_one_of_them_the_probe(bucket: Bucket) -> None:
    written(bucket, [])
    bucket.reset()

    with open_plain(bucket, quiet()):
        assert bucket.counts.total() <= 12
        assert [name for call, name in bucket.log if name.startswith("probe/")] == [PROBE]


class FoldingBucket(Bucket):
    """Folds `a//b` into `a/b`, as SeaweedFS does: what is created is read, and never listed under its name."""

    def list(self, prefix: str, *, timeout: float) -> list[object]:
        super().list(prefix, timeout=timeout)
        return []


def test_a_prefix_that_the_store_folds_is_found_out(runtime: ShiftedRuntime) -> None:
    runtime.sleep = lambda seconds: None  # type: ignore[method-assign]
    bucket = FoldingBucket()

    with pytest.raises(lsm.InvalidError, match=r"not listed under it.*'//'"):
        open_plain(bucket, quiet(), runtime=runtime)

    assert bucket.objects() == {}


# -- while it is open -------------------------------------------------------------------------------------------------


def test_a_commit_is_refused_before_it_is_created(bucket: Bucket) -> None:
    db = open_plain(bucket, quiet())
    db.put(b"a", b"x", await_durable=True)
    bucket.honours = False
    before = [name for name in bucket.objects() if name.startswith("manifest/")]

    with pytest.raises(lsm.InvalidError, match=IGNORED):
        db.flush(lsm.FlushType.MEMTABLE)

    assert [name for name in bucket.objects() if name.startswith("manifest/")] == before
    with pytest.raises(lsm.Error, match=IGNORED):
        db.put(b"b", b"x")
    abandon(db)
    bucket.honours = True
    assert content(bucket) == [b"a"]


def test_a_log_object_is_refused_once_the_proof_is_old(bucket: Bucket, runtime: ShiftedRuntime) -> None:
    db = open_plain(bucket, quiet(), runtime=runtime)
    db.put(b"a", b"x", await_durable=True)
    before = bucket.objects()
    bucket.honours = False
    runtime.shift += PROOF_SECONDS + 1

    handle = db.put(b"b", b"x")
    with pytest.raises(lsm.InvalidError, match=IGNORED):
        handle.await_durable()

    assert bucket.objects() == before
    abandon(db)
    bucket.honours = True
    assert content(bucket) == [b"a"]


def test_a_fenced_writer_overwrites_nothing_after_a_pause(bucket: Bucket, runtime: ShiftedRuntime) -> None:
    old = open_plain(bucket, quiet(), runtime=runtime)
    old.put(b"old", b"x", await_durable=True)
    new = open_plain(bucket, quiet())
    for at in range(3):
        new.put(b"new%d" % at, b"x", await_durable=True)
    bucket.honours = False
    runtime.shift += PROOF_SECONDS + 1

    with pytest.raises(lsm.InvalidError, match=IGNORED):
        old.put(b"late", b"x", await_durable=True)

    abandon(old)
    abandon(new)
    bucket.honours = True
    assert content(bucket) == [b"new0", b"new1", b"new2", b"old"]


def test_a_changed_server_is_asked_before_what_it_took_counts(bucket: Bucket) -> None:
    db = open_plain(bucket, quiet())
    db.put(b"a", b"x", await_durable=True)
    bucket.honours, bucket.generations = False, 1

    handle = db.put(b"b", b"x")
    with pytest.raises(lsm.InvalidError, match=IGNORED):
        handle.await_durable()

    assert db.durable_seq < handle.seqnum
    abandon(db)


def test_a_changed_server_that_honours_the_condition_costs_one_request(bucket: Bucket) -> None:
    with open_plain(bucket, quiet()) as db:
        bucket.generations = 1
        bucket.reset()

        for at in range(3):
            db.put(b"%d" % at, b"x", await_durable=True)

        assert bucket.counts == Counter(put_if_absent=4)


def test_an_object_of_our_own_that_was_replaced_is_asked_about(bucket: Bucket) -> None:
    db = open_plain(bucket, quiet())
    newest = max(name for name in bucket.objects() if name.startswith("manifest/"))
    body = bucket.get(newest, timeout=1.0)
    bucket.delete(newest, timeout=1.0)
    # Another process's create of the same number, nonce and all different, as a store without the condition lets it through.
    bucket.put_if_absent(newest, [body[:40] + bytes(24) + body[64:]], timeout=1.0)
    bucket.reset()

    db.put(b"a", b"x")
    db.flush(lsm.FlushType.MEMTABLE)

    assert bucket.log.count(("put_if_absent", PROBE)) >= 2  # One for the commit, and one for what it found.
    db.close()


def outside_commits(store: Bucket) -> list[Callable[[], object]]:
    def admin() -> object:
        with lsm.Admin("memory://", object_store=store) as opened:
            return opened.create_detached_checkpoint()

    def collect() -> object:
        with lsm.Admin("memory://", object_store=store) as opened:
            return opened.run_gc_once(min_age=0)

    def compactor() -> object:
        with lsm.DbCompactor.open("memory://", object_store=store):
            return None

    return [admin, collect, compactor]


@pytest.mark.parametrize("which", range(3), ids=["checkpoint", "collection", "compactor"])
def test_whoever_commits_from_outside_asks_first(bucket: Bucket, which: int) -> None:
    with open_plain(bucket, quiet()) as db:
        for at in range(4):
            db.put(b"%d" % at, b"x")
            db.flush(lsm.FlushType.MEMTABLE)
    bucket.put_if_absent("sst/00000000000000000001.sst", [b"an orphan"], timeout=1.0)
    before = bucket.objects()
    bucket.honours = False

    with pytest.raises(lsm.InvalidError, match=IGNORED):
        outside_commits(bucket)[which]()

    assert bucket.objects() == before
    assert set(bucket.replaced) == {PROBE}


def test_a_clone_goes_to_no_store_that_ignores_the_condition(bucket: Bucket) -> None:
    written(bucket, [b"a"])
    target = Bucket()
    target.url = "memory://a-clone"
    target.honours = False

    with lsm.Admin("memory://", object_store=bucket) as admin, pytest.raises(lsm.InvalidError, match=IGNORED):
        admin.create_clone("memory://", object_store=target)

    assert target.objects() == {}


# -- what it costs ----------------------------------------------------------------------------------------------------


def test_a_busy_writer_asks_once_in_a_while_and_an_idle_one_never(bucket: Bucket, runtime: ShiftedRuntime) -> None:
    with open_plain(bucket, quiet(), runtime=runtime) as db:
        bucket.reset()
        for _ in range(3):
            for at in range(5):
                db.put(b"%d" % at, b"x", await_durable=True)
            assert bucket.counts == Counter(put_if_absent=5)
            runtime.shift += PROOF_SECONDS + 1
            assert bucket.counts == Counter(put_if_absent=5)
            db.put(b"again", b"x", await_durable=True)
            assert bucket.log[-2:-1] == [("put_if_absent", PROBE)]
            assert bucket.counts == Counter(put_if_absent=7)
            bucket.reset()


def test_each_commit_asks_once_but_the_first_of_an_open(bucket: Bucket) -> None:
    with open_plain(bucket, quiet()) as db:
        assert bucket.log.count(("put_if_absent", PROBE)) == 2  # It was not there yet.
        for at in range(3):
            db.put(b"%d" % at, b"x", await_durable=True)
            bucket.reset()

            db.flush(lsm.FlushType.MEMTABLE)

            assert bucket.log.count(("put_if_absent", PROBE)) == 1


def test_stores_of_this_machine_are_asked_at_opens_only() -> None:
    memory = MemoryStore()
    with open_plain(memory, quiet()) as db:
        for at in range(3):
            db.put(b"%d" % at, b"x", await_durable=True)
            db.flush(lsm.FlushType.MEMTABLE)

        assert db.status().requests["put", "probe"].requests == 2


def test_nobody_collects_the_probe_and_fsck_knows_it(bucket: Bucket) -> None:
    written(bucket, [b"a"])
    with open_plain(bucket, quiet()) as db:
        db.collect_garbage(min_age=0)
    with lsm.Admin("memory://", object_store=bucket) as admin:
        admin.run_gc_once(min_age=0)

    assert bucket.holds(PROBE)
    report = lsm.fsck("memory://", object_store=bucket)
    assert report.is_sound
    assert not any("probe" in note for note in report.notes)
    assert report.orphans == []
