"""A network that loses every tenth reply, beside a store that answers every third request with 503: nobody is fenced for it,
every call ends within its deadline, and when it is over all goes on at full speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lsm
import opendata_log
from lsm.testing.simulated import SimulatedRuntime
from lsm.testing.simulated_bucket import Faults
from lsm.testing.simulation import Simulation
from lsm.testing.stores import Fault
from opendata_log import Config, LogDb, LogDbBuilder, LogDbReader, ReaderConfig

SEEDS = 40
ROUNDS = 40
OP_TIMEOUT, REQUEST_TIMEOUT = 10.0, 1.0
RECOVERY_SECONDS = 5.0
BAD = Faults(probability=0.4, kinds=(Fault.REPLY_LOST, Fault.BUSY, Fault.BUSY, Fault.BUSY))
ENGINE = lsm.Settings(
    op_timeout=OP_TIMEOUT,
    request_timeout=REQUEST_TIMEOUT,
    l0_sst_size_bytes=2000,
    max_sst_size=1000,
    compaction_placement="thread",
    flush_placement="thread",
    gc_interval=0.5,
    gc_min_age=0.0,
)


class Run:
    """A writer and a reader, for so many rounds with faults and then without; how long each call took, in virtual time."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self.seconds: list[float] = []
        self.failed = self.fenced = 0
        self.healthy_seconds = 0.0
        with Simulation(seed, faults) as simulation:
            self._simulation = simulation
            simulation.run(self._life)

    def _life(self, runtime: SimulatedRuntime, store: Any) -> None:
        builder = LogDbBuilder(Config(storage="memory://", engine=ENGINE))
        log = self._opened(lambda: builder.with_object_store(store).with_runtime(runtime).build())
        config = ReaderConfig(storage="memory://", engine=ENGINE, refresh_interval=0.5)
        reader = self._opened(lambda: LogDbReader(config, object_store=store, runtime=runtime))
        for at in range(ROUNDS):
            self._round(log, reader, runtime, at)
        self._simulation.bucket.faults.probability = 0.0
        runtime.sleep(RECOVERY_SECONDS)
        failed, began = self.failed, runtime.monotonic()
        for at in range(ROUNDS):
            self._round(log, reader, runtime, at)
        self.healthy_seconds = runtime.monotonic() - began
        assert self.failed == failed
        reader.close()
        log.close()

    def _opened(self, build: Callable[[], Any]) -> Any:
        while True:  # What the product's own deadlines end, a caller begins again.
            try:
                return build()
            except opendata_log.FencedError:
                raise
            except opendata_log.StorageError:
                self.failed += 1

    def _round(self, log: LogDb, reader: LogDbReader, runtime: SimulatedRuntime, at: int) -> None:
        self._timed(runtime, lambda: log.try_append([(b"k", b"%d" % at * 20)]))
        self._timed(runtime, log.flush)
        self._timed(runtime, reader.refresh)

    def _timed(self, runtime: SimulatedRuntime, call: Callable[[], object]) -> None:
        began = runtime.monotonic()
        try:
            call()
        except opendata_log.FencedError:
            self.fenced += 1
        except (opendata_log.StorageError, opendata_log.QueueFullError):
            self.failed += 1
        self.seconds.append(runtime.monotonic() - began)


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_nobody_is_fenced_no_call_is_late_and_speed_is_back(first: int) -> None:
    for seed in range(first, first + 10):
        well = Run(seed, Faults())
        bad = Run(seed, Faults(**vars(BAD)))

        assert bad.fenced == well.fenced == well.failed == 0, seed
        assert max(bad.seconds) <= OP_TIMEOUT + REQUEST_TIMEOUT, seed
        assert sum(bad.seconds[: 3 * ROUNDS]) > 2 * sum(well.seconds[: 3 * ROUNDS]), "the faults were felt"
        assert bad.healthy_seconds < 1.5 * well.healthy_seconds, seed
