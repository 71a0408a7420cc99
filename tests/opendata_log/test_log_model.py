"""Any sequence of calls: the log answers as one list of rows would, however its tables and segments are cut."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lsm.object_store import MemoryStore
from opendata_log import (
    Config,
    CountOptions,
    LogCompactionOptions,
    LogDb,
    LogDbReader,
    ReadVisibility,
    ScanOptions,
    Segment,
    SegmentConfig,
)
from tests.opendata_log.support import tiny

KEYS = [b"a", b"a\x00", b"ab", b"b\xff\xff", b"\x00", b"\xff", b"k" * 300]
keys = st.sampled_from(KEYS)
values = st.one_of(st.binary(max_size=12), st.integers(0, 900).map(lambda size: b"v" * size))
batches = st.lists(st.tuples(keys, values), min_size=1, max_size=25)
bounds = st.one_of(st.none(), st.integers(0, 400))


class LogMachine(RuleBasedStateMachine):
    """`rows` is what was appended, `durable` how many of them were flushed, `segments` where segments begin."""

    visibility = ReadVisibility.MEMORY
    name = "log-model"
    engine = tiny()

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, bytes, bytes]] = []
        self.durable = 0
        self.segments: list[Segment] = []
        self.is_sealed = True
        self.open_scan: tuple[Any, list[tuple[int, bytes]]] | None = None

    @initialize(limit=st.sampled_from([None, 500, 4000]), l0_only=st.booleans())
    def begin(self, limit: int | None, l0_only: bool) -> None:
        MemoryStore.forget(self.name)
        self.config = Config(
            storage=f"memory://{self.name}",
            segmentation=SegmentConfig(seal_byte_limit=limit),
            read_visibility=self.visibility,
            compaction=LogCompactionOptions(min_l0_per_compaction=2, max_l0_per_compaction=3, l0_only=l0_only),
            engine=self.engine,
        )
        self.limit = limit
        self.segment_bytes = 0
        self.log = LogDb.open(self.config)

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close()
        MemoryStore.forget(self.name)

    @property
    def visible(self) -> list[tuple[int, bytes, bytes]]:
        return self.rows if self.visibility is ReadVisibility.MEMORY else self.rows[: self.durable]

    def wanted(self, key: bytes, start: int = 0, end: int | None = None) -> list[tuple[int, bytes]]:
        return [
            (sequence, value)
            for sequence, name, value in self.visible
            if name == key and start <= sequence and (end is None or sequence < end)
        ]

    # -- writing ------------------------------------------------------------------------------------------------------

    @rule(batch=batches)
    def append(self, batch: list[tuple[bytes, bytes]]) -> None:
        first = self.log.append_timeout(batch, 10).start_sequence

        assert first == (self.rows[-1][0] + 1 if self.rows else 0)
        if self.is_sealed or (self.limit is not None and self.segment_bytes >= self.limit):
            self.is_sealed, self.segment_bytes = False, 0
            self.segments.append(Segment(len(self.segments) + 1, first, 0))
        self.segment_bytes += sum(len(key) + len(value) for key, value in batch)
        self.rows += [(first + at, key, value) for at, (key, value) in enumerate(batch)]
        self.durable = max(self.durable, self.log.durable_sequence)

    @rule()
    def flush(self) -> None:
        self.log.flush()

        self.durable = len(self.rows)
        assert self.log.durable_sequence == len(self.rows)

    @rule()
    def seal(self) -> None:
        assert self.log.seal_segment() == len(self.segments)
        self.is_sealed = True

    @rule()
    def reopen(self) -> None:
        self.drop_scan()
        self.log.close()
        self.log = LogDb.open(self.config)

        self.durable = len(self.rows)
        self.segment_bytes = 0
        assert self.log.durable_sequence == len(self.rows)

    @rule()
    def compact_and_collect(self) -> None:
        assert self.log.wait_idle(30)
        self.log.collect_garbage(min_age=0)

    # -- reading ------------------------------------------------------------------------------------------------------

    @rule(key=keys, start=st.integers(0, 400), end=bounds, limit=st.one_of(st.none(), st.integers(0, 30)))
    def scan(self, key: bytes, start: int, end: int | None, limit: int | None) -> None:
        wanted = self.wanted(key, start, end)

        found = self.log.scan(key, start, end, options=ScanOptions(limit=limit))
        rows = [(entry.sequence, entry.value) for entry in found]

        assert rows == wanted[:limit]
        frontier = len(self.visible) if end is None else min(end, len(self.visible))
        if limit is None or limit > len(wanted):
            assert found.next_sequence == max(start, frontier)
        elif limit < len(wanted):
            assert found.next_sequence == (rows[-1][0] + 1 if rows else start)

    @rule(
        key=keys,
        start=st.integers(0, 400),
        end=bounds,
        reverse=st.booleans(),
        last=st.one_of(st.none(), st.integers(0, 40)),
        limit=st.one_of(st.none(), st.integers(0, 30)),
        in_reader=st.integers(0, 5).map(lambda number: not number),
    )
    def scan_from_the_end(
        self,
        key: bytes,
        start: int,
        end: int | None,
        reverse: bool,
        last: int | None,
        limit: int | None,
        in_reader: bool,
    ) -> None:
        if in_reader:
            self.flush()
        wanted = self.wanted(key, start, end)
        if last is not None:
            wanted = wanted[max(0, len(wanted) - last) :]
        if reverse:
            wanted.reverse()
        options = ScanOptions(limit=limit)
        source = (
            LogDbReader.open(storage=self.config.storage, refresh_interval=3600, engine=self.engine)
            if in_reader
            else nullcontext(self.log)
        )

        with source as log:
            found = log.scan(key, start, end, reverse=reverse, last=last, options=options)
            rows = [(entry.sequence, entry.value) for entry in found]

        assert rows == wanted[:limit]
        frontier = len(self.visible) if end is None else min(end, len(self.visible))
        if limit is None or limit > len(wanted):
            assert found.next_sequence == max(start, frontier)
        elif limit < len(wanted):
            assert found.next_sequence == (rows[-1][0] + 1 if rows and not reverse else start)

    @rule(key=keys, step=st.integers(1, 7), batch=batches)
    def follow_by_resuming(self, key: bytes, step: int, batch: list[tuple[bytes, bytes]]) -> None:
        at, rows = 0, []
        for turn in range(1000):
            found = self.log.scan(key, at)
            part = found.fetchmany(step)
            rows += [(entry.sequence, entry.value) for entry in part]
            at = found.next_sequence
            if turn == 1:
                self.append(batch)
            if len(part) < step and turn > 1:
                break

        assert rows == self.wanted(key)

    @rule(key=keys, start=st.integers(0, 400), end=bounds)
    def count(self, key: bytes, start: int, end: int | None) -> None:
        wanted = len(self.wanted(key, start, end))

        assert self.log.count(key, start, end) == wanted
        roughly = self.log.count(key, start, end, options=CountOptions(approximate=True))
        assert 0 <= roughly <= len(self.rows)

    @rule(low=st.one_of(st.none(), st.integers(0, 6)), high=st.one_of(st.none(), st.integers(0, 6)))
    def list_keys(self, low: int | None, high: int | None) -> None:
        chosen = [one for one in self.segments if (low or 0) <= one.id and (high is None or one.id < high)]
        starts = [one.start_seq for one in self.segments] + [1 << 60]
        spans = [range(one.start_seq, starts[one.id]) for one in chosen]
        wanted = {key for sequence, key, _ in self.visible if any(sequence in span for span in spans)}

        found = [item.key for item in self.log.list_keys(low, high)]

        assert found == sorted(wanted)

    @rule(start=st.integers(0, 400), end=bounds)
    def list_segments(self, start: int, end: int | None) -> None:
        starts = [one.start_seq for one in self.segments] + [1 << 60]
        wanted = [
            one.id
            for one in self.segments
            if one.start_seq < len(self.visible)
            and starts[one.id] > start
            and (end is None or (one.start_seq < end and start < end))
        ]

        assert [one.id for one in self.log.list_segments(start, end)] == wanted

    @precondition(lambda self: self.open_scan is None)
    @rule(key=keys)
    def begin_scan(self, key: bytes) -> None:
        self.open_scan = (self.log.scan(key), self.wanted(key))

    @precondition(lambda self: self.open_scan is not None)
    @rule(count=st.integers(0, 40))
    def go_on_with_scan(self, count: int) -> None:
        assert self.open_scan is not None
        scan, wanted = self.open_scan
        found = [(entry.sequence, entry.value) for entry in scan.fetchmany(count)]

        assert found == wanted[:count]
        self.open_scan = (scan, wanted[count:]) if wanted[count:] else None

    def drop_scan(self) -> None:
        if self.open_scan is not None:
            self.open_scan[0].close()
            self.open_scan = None

    @invariant()
    def segments_are_where_they_began(self) -> None:
        if hasattr(self, "log") and self.visibility is ReadVisibility.MEMORY:
            assert [(one.id, one.start_seq) for one in self.log.list_segments()] == [
                (one.id, one.start_seq) for one in self.segments
            ]


class RemoteMachine(LogMachine):
    """The same with reads that see only what is durable."""

    visibility = ReadVisibility.REMOTE
    name = "log-model-remote"
    engine = tiny(l0_sst_size_bytes=1 << 20)  # Nothing becomes durable behind the model's back.


def run(machine: type[LogMachine], examples: int, *, derandomize: bool) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=derandomize,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("machine", [LogMachine, RemoteMachine])
def test_any_sequence_of_calls_it_answers_as_a_list_would(machine: type[LogMachine]) -> None:
    run(machine, 80, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("machine", [LogMachine, RemoteMachine])
def test_many_sequences_of_calls_it_answers_as_a_list_would(machine: type[LogMachine]) -> None:
    run(machine, 2000, derandomize=False)
