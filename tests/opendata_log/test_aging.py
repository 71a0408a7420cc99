"""A month of a log in virtual time, hour by hour: what is stored stops growing when retention begins to take."""

from __future__ import annotations

from collections import Counter

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.testing.simulated import SimulatedRuntime
from lsm.testing.simulation import Simulation
from opendata_log import Config, LogDb, LogDbBuilder, LogDbReader, ReaderConfig, RetentionConfig, SegmentConfig
from opendata_log.fsck import fsck
from tests.lsm.gc.test_collector import reachable

HOUR = 3600.0
KEPT_DAYS = 7
KEYS = [b"key-%d" % at for at in range(3)]
ENGINE = lsm.Settings(
    flush_interval=1.0,
    l0_sst_size_bytes=3000,
    sst_block_size=512,
    max_sst_size=4096,
    l0_compaction_min=2,
    l0_compaction_max=4,
    min_filter_keys=4,
    gc_interval=2 * HOUR,
    compaction_placement="thread",
    flush_placement="thread",
)
CONFIG = Config(
    storage="memory://",
    segmentation=SegmentConfig(seal_interval=HOUR),
    retention=RetentionConfig(retention=KEPT_DAYS * 24 * HOUR, check_interval=HOUR / 6),
    engine=ENGINE,
)


class Month:
    """What was appended, and how much was stored at the end of each day."""

    def __init__(self, simulation: Simulation, length: int) -> None:
        self.simulation = simulation
        self.length = length
        self.appended: list[tuple[bytes, int, bytes]] = []
        self.days: list[dict[str, int]] = []
        self.most_stored: list[int] = []
        """Before a collection: its own come when they come."""
        self.reads = 0

    # -- processes ----------------------------------------------------------------------------------------------------

    def write(self, runtime: SimulatedRuntime, store: lsm.ObjectStore) -> None:
        """A day at a time, until the month is over. Every day a checkpoint is made that lasts for an hour."""
        with LogDbBuilder(CONFIG).with_object_store(store).with_runtime(runtime).build() as log:
            while len(self.days) < self.length:
                for _ in range(24):
                    self.one_hour(log, runtime)
                self.check(log)
                self.most_stored.append(self.stored(log)["bytes"])
                log.collect_garbage(min_age=0)
                self.days.append(self.stored(log))
                log.create_checkpoint(lifetime=HOUR, name="daily")

    def collect(self, runtime: SimulatedRuntime, store: lsm.ObjectStore) -> None:
        """When everybody is gone, until there is nothing left to do."""
        with lsm.Admin("memory://", object_store=store, runtime=runtime) as admin:
            while admin.run_gc_once(min_age=0):
                pass

    def one_hour(self, log: LogDb, runtime: SimulatedRuntime) -> None:
        for _ in range(2):
            number = len(self.appended)
            batch = [(key, b"%06d of %s" % (number + at, key * 3)) for at, key in enumerate(KEYS)]
            first = log.try_append(batch).start_sequence
            self.appended += [(key, first + at, value) for at, (key, value) in enumerate(batch)]
            runtime.sleep(HOUR / 2)

    def read(self, runtime: SimulatedRuntime, store: lsm.ObjectStore) -> None:
        """A look every other day, by a reader that keeps up."""
        config = ReaderConfig(storage="memory://", refresh_interval=HOUR)
        with LogDbReader(config, object_store=store, runtime=runtime) as reader:
            runtime.sleep(HOUR / 4)
            while True:
                runtime.sleep(48 * HOUR)
                reader.refresh()
                self.check(reader)
                self.reads += 1

    def forget_what_was_not_durable(self, simulation: Simulation) -> None:
        """What a killed writer had appended since its last upload."""

        def look(runtime: SimulatedRuntime, store: lsm.ObjectStore) -> set[int]:
            config = ReaderConfig(storage="memory://", refresh_interval=HOUR)
            with LogDbReader(config, object_store=store, runtime=runtime) as reader:
                return {entry.sequence for key in KEYS for entry in reader.scan(key)}

        durable = simulation.run(look, name="look")
        self.appended = [row for row in self.appended if row[1] in durable]

    # -- what must hold -----------------------------------------------------------------------------------------------

    def check(self, log: LogDb | LogDbReader) -> None:
        """Exactly the records of the segments listed, whichever way one asks; and those are the last days'."""
        while True:
            segments = log.list_segments()
            found = {key: [(entry.sequence, entry.value) for entry in log.scan(key)] for key in KEYS}
            counts = {key: log.count(key) for key in KEYS}
            total = log.inspect(KEYS[0]).total
            names = [each.key for each in log.list_keys()]
            if log.list_segments() == segments:
                break  # Or retention came in between.
        expected: dict[bytes, list[tuple[int, bytes]]] = {key: [] for key in KEYS}
        for key, sequence, value in self.appended:
            if sequence >= segments[0].start_seq:
                expected[key].append((sequence, value))
        assert found == expected
        assert counts == {key: len(rows) for key, rows in expected.items()}
        assert total == counts[KEYS[0]]
        assert names == KEYS
        assert [one.id for one in segments] == list(range(segments[0].id, segments[-1].id + 1))
        assert len(segments) <= KEPT_DAYS * 24 + 2
        if segments[0].id > 1:
            assert len(segments) >= KEPT_DAYS * 24, "no hour goes early"

    def stored(self, log: LogDb) -> dict[str, int]:
        objects = self.simulation.bucket.objects
        kinds = Counter(name.split("/")[0] for name in objects)
        summary = log.tree_summary()
        return {
            **kinds,
            "bytes": sum(map(len, objects.values())),
            "manifest bytes": len(objects[max(name for name in objects if name.startswith("manifest/"))]),
            "partitions": len(summary.segments),
            "checkpoints": len(log._db.manifest.checkpoints),
            "claims": len(log._db.manifest.jobs),
        }

    def objects_are_those_that_are_needed(self) -> None:
        memory = MemoryStore.shared("aging")
        memory._objects.update(self.simulation.bucket.objects)
        try:
            assert fsck("memory://aging").problems == []
            assert fsck("memory://aging").orphans == []
            assert set(memory._objects) == reachable(memory)
        finally:
            MemoryStore.forget("aging")


@pytest.mark.parametrize("days", [16, pytest.param(30, marks=pytest.mark.slow)])
def test_nothing_grows_once_retention_takes_as_much_as_comes_in(days: int) -> None:
    with Simulation(seed=1) as simulation:
        month = Month(simulation, days)
        first = simulation.start(month.write, name="first writer")
        while len(month.days) < 3:
            simulation.sleep(HOUR)
        first.kill()  # With whatever it had under way: flushes, compactions, collections.
        month.forget_what_was_not_durable(simulation)
        reader = simulation.start(month.read, name="reader")
        simulation.start(month.write, name="second writer").join()
        assert month.reads >= days // 2 - 3
        reader.kill()
        simulation.run(month.collect, name="collector")
        month.objects_are_those_that_are_needed()

        for what, bound in month.days[8].items():
            largest = max(day[what] for day in month.days[9:])
            assert largest <= 1.1 * bound + 3, (what, bound, largest)
        # Between two collections there is garbage of two hours, and no more of it from day to day.
        assert max(month.most_stored[9:]) <= 1.1 * month.most_stored[8]
