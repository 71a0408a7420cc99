"""A separate process that writes a log, and dies or is fenced. The parent reads its ledger from a pipe.

    python -m tests.crashes.child < specification, one line of JSON

Lines it prints, each written at once, so that nothing it claims is lost with it:

    opened                    the log is open
    accepted FIRST            the sequence of the first batch of this process; with `says_all`, of each
    durable WATERMARK         `durable_sequence`, after a flush
    fenced CALL CLASSES...    another writer took over; the call that said so, the classes of its error
    done                      every batch was appended and flushed
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from typing import Any

import lsm
from opendata_log import Config, FencedError, LogDb, SegmentConfig, StorageConfig

Pair = tuple[bytes, bytes]


def batches(seed: int, *, keys: int = 30) -> Iterator[list[Pair]]:
    """An endless stream of batches, equal for equal seeds."""
    chance = random.Random(seed)
    while True:
        yield [
            (b"key-%d" % chance.randrange(keys), chance.randbytes(chance.choice((0, 5, 40, 200, 3000))))
            for _ in range(chance.randint(1, 40))
        ]


def large_batches(records: int) -> Iterator[list[Pair]]:
    """Batches of 100 records of 100 bytes over 10,000 keys."""
    filler = random.Random(1).randbytes(1200)
    for start in range(0, records, 100):
        yield [
            (b"key-%05d" % (at * 7919 % 10_000), b"%012d" % at + filler[at % 1000 : at % 1000 + 88])
            for at in range(start, start + 100)
        ]


def write_and_wait(spec: dict[str, Any]) -> None:
    """Append a large log with default settings, flush, report it, and wait for the kill."""
    log = LogDb.open(storage=StorageConfig(url=spec["url"], storage_options=spec.get("storage_options", {})))
    for batch in large_batches(spec["large"]):
        log.append_timeout(batch, 60)
    log.flush()
    say("durable", log.durable_sequence)
    sys.stdin.readline()


def config_of(spec: dict[str, Any]) -> Config:
    """The configuration of a specification. Its tables are small, so that a second's work passes through every stage."""
    return Config(
        storage=StorageConfig(url=spec["url"], storage_options=spec.get("storage_options", {})),
        segmentation=SegmentConfig(seal_byte_limit=spec.get("seal_byte_limit", 1 << 20)),
        engine=lsm.Settings(
            **{
                "l0_sst_size_bytes": 64 << 10,
                "max_unflushed_bytes": 1 << 20,
                "wal_object_bytes": 16 << 10,
                "flush_interval": 0.01,
                "sst_block_size": 2048,
                "max_sst_size": 256 << 10,
                "l0_max_ssts": 6,
                "l0_compaction_min": 2,
                "gc_interval": 0.05,
                "gc_min_age": 0.0,
                "compaction_placement": "thread",
                "flush_placement": "thread",
                "op_timeout": 30.0,
                **spec.get("engine", {}),
            }
        ),
    )


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def main() -> None:
    spec = json.loads(sys.stdin.readline())
    if "large" in spec:
        write_and_wait(spec)
        return
    if spec.get("waits"):
        say("ready")
        sys.stdin.readline()
    call = "open"
    try:
        log = LogDb.open(config_of(spec))
        say("opened")
        chance = random.Random(spec["seed"])
        for number, batch in enumerate(batches(spec["seed"])):
            if number == spec.get("batches"):
                break
            call = "append"
            first = log.append_timeout(batch, 30).start_sequence
            if not number or spec.get("says_all"):
                say("accepted", first)
            if chance.random() < spec.get("flushes", 0.3):
                call = "flush"
                log.flush()
                say("durable", log.durable_sequence)
        call = "flush"
        log.flush()
        say("durable", log.durable_sequence)
        call = "close"
        log.close()
        say("done")
    except FencedError as error:
        say("fenced", call, *(kind.__name__ for kind in type(error).__mro__))
        os._exit(0)


if __name__ == "__main__":
    main()
