"""A log's compactor by itself, with the log's policy: beside a writer opened with `compaction_enabled=False`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import lsm
from opendata_log.compaction import LiveSegments, LogScheduler
from opendata_log.config import Config, StorageConfig, writer_settings
from opendata_log.errors import translate
from opendata_log.keys import LogPartitions, LogSeries

WHAT = "compact a log beside a writer that does not; SIGTERM ends it cleanly"


def open_compactor(config: Config, **components: Any) -> lsm.DbCompactor:
    """Take over the compaction of the log that `config` names: with `run()` for good, with `run_once()` until nothing is due.

    `components`: of the engine, such as `compaction_executor`. Raises: StorageError, InvalidInputError, CorruptionError.
    """
    settings = writer_settings(config)
    storage = config.storage_config
    try:
        return lsm.DbCompactor.open(
            storage.url,
            settings,
            storage_options=storage.storage_options,
            wal_url=storage.wal_url,
            prefix_extractor=LogPartitions(),
            series_layout=LogSeries(),
            # Without a look at the log it does not know which segments expired: the log's writer drops those.
            scheduler=LogScheduler(
                config.compaction, LiveSegments(), segmentation=config.segmentation, l0_max_ssts=settings.l0_max_ssts
            ),
            **components,
        )
    except lsm.Error as error:
        raise translate(error) from error


def add_command(commands: Any) -> None:
    """Add it to what `ArgumentParser.add_subparsers` gave. It sets `run`, which returns the exit status."""
    command = commands.add_parser("compactor", help=WHAT, description=WHAT)
    lsm.add_compactor_options(command)
    command.add_argument("--config", metavar="FILE", help="the log's Config as TOML or JSON; its storage is not used")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    config = Config.from_file(options.config) if options.config else Config()
    storage = StorageConfig(url=options.url, storage_options=lsm.compactor_storage_options(options))
    config = replace(config, storage=storage)
    if options.workers is not None:
        config = replace(config, engine=replace(writer_settings(config), compaction_workers=options.workers))
    return lsm.run_compactor(lambda: open_compactor(config), once=options.once)
