"""Which jobs begin next: abandoned jobs, then requested ones, then the scheduler's proposals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lsm.compaction.block_places import places
from lsm.compaction.job_commits import Claims
from lsm.compaction.job_edits import SourcesClaimedError
from lsm.compaction.loop_state import LoopState
from lsm.compaction.plan import CompactionScheduler, CompactionSpec, Sources, check_form, check_spec, is_move
from lsm.compaction.running_job import is_level0_priority
from lsm.compaction.running_jobs import RunningJobs
from lsm.compaction.split import KeyRange, key_ranges
from lsm.errors import InvalidError
from lsm.manifest.model import Manifest
from lsm.observe.health import BackgroundHealth
from lsm.runtime import Runtime
from lsm.sst.table import TableReader

Planner = Callable[[Manifest, frozenset[int]], Sequence[CompactionSpec]]
"""Returns proposals, from the manifest and the tables that running jobs work on. Empty: nothing is left to do."""


class NextJobs:
    """Checks proposals, claims jobs and begins them. Only the compactor's thread uses it, except for `requests`, which other
    threads change under the loop's lock.

    `refused`: number of proposals that would have lost or reordered rows. `last_refusal`: the error of the last one.
    """

    def __init__(
        self,
        runtime: Runtime,
        state: LoopState,
        claims: Claims,
        running: RunningJobs,
        scheduler: CompactionScheduler,
        tables: TableReader,
        *,
        table_bytes: int,
        part_bytes: int,
        health: BackgroundHealth,
    ) -> None:
        self._runtime = runtime
        self._state = state
        self._claims = claims
        self._running = running
        self._scheduler = scheduler
        self._tables = tables.for_cause("compaction")
        self._table_bytes = table_bytes
        self._part_bytes = part_bytes
        self._health = health
        self.requests: list[Planner] = []
        self.refused = 0
        self.last_refusal: InvalidError | None = None

    # -- abandoned jobs -----------------------------------------------------------------------------------------------

    def take_up_claims(self) -> None:
        """Take up the claims in the manifest that no running job works on."""
        known = self._running.claim_ids
        for record in self._claims.manifest.jobs:
            if record.id not in known and not self._state.is_closing:
                claimed = self._claims.take_up(record)
                if claimed is not None:
                    self._running.begin(*claimed, is_claimed=True)

    # -- new jobs -----------------------------------------------------------------------------------------------------

    def start_new(self) -> None:
        """Begin the requested jobs, then the scheduler's proposals, while there is room."""
        with self._state.changed:
            requests = list(self.requests)
        for plan in [*requests, self._scheduler.propose]:
            busy = self._running.busy
            seen = self._claims.manifest
            for spec in plan(seen, busy):
                if self._state.is_closing:
                    return
                try:
                    check_form(spec)
                    if spec.numbers & busy and not spec.is_drain:
                        continue
                    self._start(spec)
                except SourcesClaimedError:
                    # This process claimed them, in a commit whose reply was lost. The manifest shows the claim by now;
                    # the next step takes it up.
                    self._state.wake()
                except InvalidError as error:
                    if self._claims.manifest is not seen:
                        # The proposal was for an older tree: a commit counted although its reply was lost.
                        self._state.wake()
                        continue
                    # The proposal would lose or reorder rows. The next change of the tree brings other proposals.
                    self.last_refusal = error
                    self.refused += 1
                    self._health.refused(error)
                busy = self._running.busy

    def _start(self, spec: CompactionSpec) -> None:
        sources = check_spec(self._claims.manifest, spec)
        if is_move(sources):
            # A move takes no slot, so it waits for no job.
            self._claims.move(spec, sources)
            if spec.is_drain:
                self._cut_off(spec.prefix)
            return
        if not self._running.has_room(is_level0_priority=is_level0_priority(spec, sources)):
            return
        size = sum(table.size for table in sources.tables)
        record = self._claims.new_record(spec, sources, self._ranges(sources, size))
        # A job that makes a single table is not claimed, because no other compactor could continue it.
        is_claimed = size > self._table_bytes
        if is_claimed:
            self._claims.claim(record)
        self._running.begin(record, sources, is_claimed=is_claimed)

    def _cut_off(self, prefix: bytes) -> None:
        """End the jobs of a dropped partition. Tables that they made or still make are garbage."""
        for job in self._running.listed():
            if job.spec.prefix == prefix:
                self._running.end(job)
                self._claims.release(job.first)

    def _ranges(self, sources: Sources, size: int) -> list[KeyRange]:
        if not self._running.is_parallel or size < 2 * self._part_bytes:
            return [(None, None)]
        indexes = self._runtime.map(self._tables.index, sources.tables)
        pairs = zip(sources.tables, indexes, strict=True)
        return key_ranges((place for table, index in pairs for place in places(0, table, index)), self._part_bytes)
