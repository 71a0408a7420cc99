"""A compactor with the log's policy that runs alone, beside a writer opened with `compaction_enabled=False`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import lsm
from opendata_log.maintain.policy import LiveSegments, LogScheduler
from opendata_log.model.config import Config, writer_settings
from opendata_log.model.errors import CorruptionError, translate
from opendata_log.model.keys import SEGMENT_META_PREFIX, SYSTEM_SEGMENT_ID, LogPartitions, LogSeries, routing_prefix
from opendata_log.model.segment import SegmentTable, last_retired
from opendata_log.model.storage_config import StorageConfig

WHAT = "compact a log beside a writer that does not; SIGTERM ends it cleanly"


class SegmentsInTables:
    """Loads the segments that have metadata in the tables of a version, before the scheduler's proposals for that version.

    A segment's metadata is in the same batch as its first records, so one flush puts both into tables, which are durable. A
    segment that the writer retired after the last flush is still live here until the next flush.
    """

    def __init__(self, live: LiveSegments) -> None:
        self._live = live
        self._seen: frozenset[int] | None = None

    def __call__(self, tables: lsm.TableReads) -> None:
        """Load them from `tables`. Cost: no request unless the system segment's tables changed."""
        system = tables.manifest.partition(routing_prefix(SYSTEM_SEGMENT_ID))
        numbers = frozenset(table.number for table in system.tables()) if system is not None else frozenset()
        if numbers != self._seen:
            try:
                self._live.load(SegmentTable.stored(tables.scan_prefix(SEGMENT_META_PREFIX)), last_retired(tables))
            except CorruptionError as error:
                raise lsm.CorruptionError(str(error), object_name=error.object_name, offset=error.offset) from error
            self._seen = numbers


def open_compactor(config: Config, **components: Any) -> lsm.DbCompactor:
    """Take over the compaction of the log that `config` names.

    `run()` compacts until it is stopped, `run_once()` until nothing is due. `components`: those of the engine, such as
    `compaction_executor`. Raises: StorageError, InvalidInputError, CorruptionError.
    """
    settings = writer_settings(config)
    storage = config.storage_config
    live = LiveSegments()
    try:
        return lsm.DbCompactor.open(
            storage.url,
            settings,
            storage_options=storage.storage_options,
            wal_url=storage.wal_url,
            parent_storage_options=storage.parent_storage_options,
            prefix_extractor=LogPartitions(),
            series_layout=LogSeries(),
            scheduler=LogScheduler(
                config.compaction, live, segmentation=config.segmentation, l0_max_ssts=settings.l0_max_ssts
            ),
            before_proposals=SegmentsInTables(live),
            **components,
        )
    except lsm.Error as error:
        raise translate(error) from error


def add_command(commands: Any) -> None:
    """Add the command to `commands`, the result of `ArgumentParser.add_subparsers`. It sets `run`, which returns the exit
    status."""
    command = commands.add_parser("compactor", help=WHAT, description=WHAT)
    lsm.add_compactor_options(command)
    command.add_argument("--config", metavar="FILE", help="the log's Config as TOML or JSON; its storage is not used")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    config = Config.from_file(options.config) if options.config else Config()
    storage = StorageConfig(
        url=options.url,
        storage_options=lsm.compactor_storage_options(options),
        wal_url=options.wal_url,
        parent_storage_options=options.parent_storage_options,
    )
    config = replace(config, storage=storage)
    if options.workers is not None:
        config = replace(config, engine=replace(writer_settings(config), compaction_workers=options.workers))
    return lsm.run_compactor(lambda: open_compactor(config), once=options.once)
