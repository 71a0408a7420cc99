"""The benchmark a new user runs, and the comparison's adapters: small sizes, no timing asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import lines, table
from benchmarks.rounds import Outcome
from benchmarks.scenarios import BY_NAME
from benchmarks.stores import NAMES, missing, open_store
from benchmarks.workloads import VALUE_KINDS, Workload
from opendata_log.bench.measure import Measure
from opendata_log.bench.program import main
from opendata_log.bench.table import Style, render

SMALL = ["--records", "3000", "--keys", "30", "--batch", "50", "--value-size", "40"]


def test_bench_reports_every_phase_and_says_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "result.json"

    status = main([*SMALL, "--storage", "memory://", "--json", str(kept)])

    shown = capsys.readouterr().out
    assert status == 0
    for phase in ("ingest", "flush", "scan, warm", "poll, caught up", "poll, one new", "follow, woken", "reopen"):
        assert phase in shown
    assert shown.count("verified") >= 5
    result = json.loads(kept.read_text())
    assert result["verified"] is True
    assert result["machine"]["python"] == sys.version.split()[0]
    phases = {phase["name"]: phase for phase in result["phases"]}
    assert phases["ingest"]["count"] == phases["scan, reopened"]["count"] == 3000
    assert phases["poll, caught up"]["p99_seconds"] >= phases["poll, caught up"]["p50_seconds"] > 0


def test_bench_leaves_nothing_behind_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--storage", str(tmp_path / "gone")]) == 0
    assert not list((tmp_path / "gone").glob("*"))

    assert main([*SMALL, "--storage", str(tmp_path / "kept"), "--keep"]) == 0
    assert [path.name.startswith("bench-") for path in (tmp_path / "kept").iterdir()] == [True]
    assert "stays at" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--records", "many"], "not a number: 'many'"),
        (["--keys", "0"], "must be at least 1"),
        (["--storage-option", "region"], "expected name=value"),
        (["--json", "/no/such/directory/out.json"], "no such directory"),
        (["--colour"], "unrecognized arguments"),
    ],
)
def test_bench_refuses_bad_options_in_one_line(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert reason in said
    assert said.count("\n") == 1


def test_bench_says_in_one_line_that_storage_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--storage", "nosuchstore://bucket"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert "error:" in said[-1]


def test_bench_needs_no_extras() -> None:
    script = (
        "import sys\n"
        "for name in ('rich', 'matplotlib', 'slatedb', 'rocksdict', 'lmdb'): sys.modules[name] = None\n"
        "from opendata_log.bench.program import main\n"
        f"sys.exit(main({[*SMALL, '--storage', 'memory://']!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout


@pytest.mark.parametrize("width", [72, 80, 100, 120])
def test_table_fits_its_width(width: int) -> None:
    bulk = Measure("ingest", "", seconds=0.5, count=500_000, bytes=55_000_000, calls=[1e-4] * 10)
    slow = Measure("scan, reopened", "", seconds=12.5, count=500_000, bytes=55_000_000, calls=[0.9] * 3, verified=True)
    rest = Measure("reopen", "", seconds=0.03, note="close 20 ms, open 10 ms")

    shown = render([bulk, slow, rest], Style(width=width))

    assert max(map(len, shown.splitlines())) <= width
    assert "✓ verified" in shown
    assert render([bulk, slow, rest], Style(width=width, unicode=False)).isascii()
    assert "\x1b" not in shown


@pytest.mark.parametrize("kind", VALUE_KINDS)
def test_workload_spreads_distinct_values_evenly(kind: str) -> None:
    workload = Workload(2_500, keys=50, value_bytes=64, batch=100, kind=kind)

    records = [record for batch in workload.batches() for record in batch]

    assert len(records) == len({value for _, value in records}) == 2_500
    assert {len(value) for _, value in records} == {64}
    for number in range(50):
        entries = [
            (key, sequence, value) for sequence, (key, value) in enumerate(records) if key == workload.key(number)
        ]
        workload.verify(number, entries)
        with pytest.raises(AssertionError):
            workload.verify(number, entries[:-1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("durable", [False, True])
def test_adapters_meet_the_log_contract(name: str, durable: bool, tmp_path: Path) -> None:
    reason = missing(name)
    if reason is not None:
        pytest.skip(reason)
    workload = Workload(400, keys=7, batch=10)

    store = open_store(name, str(tmp_path), durable=durable)
    for batch in workload.batches():
        store.append(batch)
    store.flush()
    for number in range(7):
        workload.verify(number, store.scan(workload.key(number)))
    expected = [sequence for sequence in workload.sequences(3) if sequence >= 100][:5]
    assert [sequence for _, sequence, _ in store.scan(workload.key(3), 100, 5)] == expected
    assert list(store.scan(b"stream-unknown!!")) == []
    store.settle()
    store.close()

    if name != "floor":
        store = open_store(name, str(tmp_path), durable=durable)
        for number in range(7):
            workload.verify(number, store.scan(workload.key(number)))
        store.append([(b"stream-afterward", b"value")])
        assert [tuple(entry) for entry in store.scan(b"stream-afterward")] == [(b"stream-afterward", 400, b"value")]
        store.close()


def test_report_pairs_rounds_and_judges_goals() -> None:
    scenario = BY_NAME["recovery"]
    rounds = {
        "ours": [{"recovery_ms": 50.0}, {"recovery_ms": 100.0}, None],
        "rocksdict": [{"recovery_ms": 100.0}, {"recovery_ms": 100.0}, {"recovery_ms": 1.0}],
    }

    (line,) = lines([Outcome(scenario, rounds, {})])

    assert (line.ratio, line.low, line.high, line.met) == (1.5, 1.0, 2.0, True)
    assert "1 of 1 goals met" in table([line], colour=False)
