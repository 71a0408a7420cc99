"""Compaction on a dask cluster: the writer plans and commits, the cluster's workers merge.

    python examples/dask_compaction.py

A `LocalCluster` stands for one that is elsewhere: `Client("tcp://scheduler:8786")`. Its workers need this package and access
to the store, and no access to the writer.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace

from distributed import Client, LocalCluster

from lsm import Settings
from opendata_log import Config, LogDb, LogDbBuilder, SegmentConfig


def main(url: str, client: Client) -> dict[int, int]:
    """Append some 40 MB, then have the cluster merge them; how many tables are left in each level."""
    engine = Settings(l0_sst_size_bytes=4 << 20, compaction_workers=2)
    config = Config(storage=url, segmentation=SegmentConfig(seal_byte_limit=32 << 20), engine=engine)
    with LogDb.open(config, engine=replace(engine, compaction_enabled=False)) as log:
        for _ in range(400):
            log.append_timeout([(b"sensor-%d" % (at % 50), os.urandom(800)) for at in range(125)], 60)
    with LogDbBuilder(config).with_compaction_executor(client.get_executor()).build() as log:
        log.wait_idle()
        return {level: count for each in log.status().partitions for level, count in each.levels.items()}


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as place,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        print(main(f"file://{place}", client))
