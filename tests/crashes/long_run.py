"""Kill writers for hours: `python -m tests.crashes.long_run`, or `make kills`. After a stop it continues where it was.

A lot is one log: some writers in a row, each killed at a random moment, every fifth while it opens; then one is stopped
(SIGSTOP), overtaken, and woken up. What was durable must be there after each. A finished lot is a row in the file of the
state; one that was cut off is run again. At the end it says kills, records compared, and what was lost, and fails where
anything was.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.crashes.ledger import Ledger
from tests.crashes.rounds import killed_while_it_opens, round_of_death, stop_and_go
from tests.servers.s3 import Ministack

LOT = 10
"""Kills per log."""
TELL_SECONDS = 10.0


def run_lot(place: dict[str, Any], number: int, kills: int) -> dict[str, Any]:
    """Run a lot and return its row of the report. Raises AssertionError if the log is wrong."""
    chance, ledger = random.Random(number), Ledger()
    began = time.monotonic()
    for at in range(kills):
        spec = {**place, "seed": 1000 * number + at}
        if at % 5 == 4:
            killed_while_it_opens(spec, ledger, chance)
        else:
            round_of_death(spec, ledger, chance)
    stop_and_go({**place, "url": place["url"] + "-stopped"})
    return {"lot": number, "kills": kills, "records": len(ledger.rows), "seconds": round(time.monotonic() - began, 2)}


class State:
    """The finished lots, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text("utf-8").split("\n")[:-1]:  # A last line that was cut off is ignored.
                self.add(json.loads(line))

    def add(self, row: dict[str, Any]) -> None:
        self.rows[row["store"], row["lot"]] = row

    def keep(self, row: dict[str, Any]) -> None:
        self.add(row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def kills(self, store: str) -> int:
        return sum(row["kills"] for (where, _), row in self.rows.items() if where == store)


def lots(kills: int) -> list[tuple[int, int]]:
    """Number and kills of each lot."""
    return [(number, min(LOT, kills - number * LOT)) for number in range(-(-kills // LOT))]


def run_store(store: str, kills: int, state: State, place: dict[str, Any]) -> None:
    told = time.monotonic()
    for number, count in lots(kills):
        if state.rows.get((store, number), {}).get("kills", 0) >= count:
            continue
        root = (
            tempfile.mkdtemp(prefix="kills-") if store == "files" else f"{place['url']}/lot-{number}-{time.time_ns()}"
        )
        try:
            row = run_lot({**place, "url": f"{root}/log"}, number, count)
        except Exception:
            row = {"lot": number, "kills": count, "failure": traceback.format_exc()[-2000:], "left": root}
            print(f"{store}, lot {number}, kept at {root}:\n{row['failure']}", file=sys.stderr, flush=True)
        else:
            if store == "files":
                shutil.rmtree(root)
        state.keep({"store": store, **row})
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            print(f"{store}: {state.kills(store)} of {kills} kills", file=sys.stderr, flush=True)


def report(state: State) -> list[str]:
    lines = []
    for store in sorted({where for where, _ in state.rows}):
        rows = [row for (where, _), row in state.rows.items() if where == store]
        lines.append(
            f"{store}: {state.kills(store)} kills, {len(rows)} writers stopped and overtaken, "
            f"{sum(row.get('records', 0) for row in rows):,} records compared, "
            f"{sum(row.get('seconds', 0) for row in rows):,.0f} s, lots that failed: {sum('failure' in row for row in rows)}"
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crashes.long_run", description=__doc__)
    parser.add_argument("--kills", type=int, default=2000, help="on local files")
    parser.add_argument("--s3-kills", type=int, default=200, help="on an S3 server, which is started")
    parser.add_argument("--state", type=Path, default=Path(".kills.jsonl"), help="what is done; it goes on from there")
    options = parser.parse_args(arguments)
    state = State(options.state)
    run_store("files", options.kills, state, {})
    if options.s3_kills:
        server = Ministack()
        try:
            server.start()
            place = {"url": server.url("kills"), "storage_options": server.storage_options}
            run_store("s3", options.s3_kills, state, place)
        finally:
            server.stop()
    print("\n".join(report(state)))
    return 1 if any("failure" in row for row in state.rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
