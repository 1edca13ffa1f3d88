"""The commands, from the command line's side."""

import json
import os
import signal

import pytest
from click.testing import CliRunner

from bench import cli
from bench.campaign import Campaign
from bench.compare import compare_files
from bench.lockfile import machine_lock
from bench.results import write_pyperf
from bench.runner import BenchError
from bench.suites import Plan, get_suite


@pytest.fixture
def lock(monkeypatch, tmp_path):
    monkeypatch.setattr("bench.lockfile.lock_path", lambda: tmp_path / "lock")


@pytest.fixture
def bench(monkeypatch, runner, lock, tmp_path):
    """Invoke `stackcore bench` with stand-in processes."""
    monkeypatch.setattr(cli.run_suites, "__kwdefaults__", {"report": True, "runner": runner})
    return lambda *words: CliRunner().invoke(cli.bench_command, [*words, "-o", str(tmp_path / "out")])


def folder_of(runner, folder, suite="floor"):
    records = Campaign(get_suite(suite), Plan.make(quick=True), folder, {"cpus": 2, "machine": {}}, runner=runner).run()
    return write_pyperf(folder, records)


def test_bench_runs_the_named_suites_only(bench, tmp_path):
    result = bench("floor", "--suite", "events", "--quick", "--rounds", "1")
    assert result.exit_code == 0, result.output
    assert {p.stem for p in (tmp_path / "out" / "raw").iterdir()} == {"floor", "events"}
    assert "D2: events beyond maxevents" in result.output


def test_bench_without_report_writes_none(bench, tmp_path):
    assert bench("floor", "--quick", "--rounds", "1", "--no-report").exit_code == 0
    assert not (tmp_path / "out" / "report.html").exists()


def test_seconds_reach_the_visits(bench, runner):
    bench("floor", "--quick", "--rounds", "1", "--seconds", "0.1")
    assert all(argv[argv.index("--duration") + 1] == "0.1" for argv in runner.visits)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nope"], "no suite is called 'nope'; choose from floor, listener, events, calls"),
        (["--suite", "nope"], "choose from"),
        (["--rounds", "0"], "0 is not in the range"),
        (["--seconds", "0"], "0.0 is not in the range"),
        (["--seconds", "x"], "not a valid float"),
    ],
)
def test_bad_arguments_are_named_and_nothing_runs(bench, runner, words, complaint):
    result = bench(*words)
    assert result.exit_code == 2
    assert complaint in result.output
    assert runner.commands == []


def test_a_second_benchmark_is_refused(bench, runner, tmp_path):
    with machine_lock(tmp_path / "lock"):
        result = bench("floor", "--quick")
    assert result.exit_code == 1
    assert "another benchmark is running on this machine: process" in result.output
    assert runner.commands == []


def test_report_prints_the_tables_and_writes_the_page(runner, tmp_path):
    folder_of(runner, tmp_path)
    result = CliRunner().invoke(cli.report_command, [str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "Distance to plain C" in result.output
    assert (tmp_path / "report.html").exists()


def test_report_of_a_folder_without_results_says_what_to_do(tmp_path):
    result = CliRunner().invoke(cli.report_command, [str(tmp_path)])
    assert result.exit_code == 1
    assert "make some with 'stackcore bench" in result.output


def test_a_damaged_record_is_named_by_file_and_line(runner, tmp_path):
    folder_of(runner, tmp_path)
    with (tmp_path / "raw" / "floor.jsonl").open("a") as file:
        file.write('{"kind": "visit"}\n')
    result = CliRunner().invoke(cli.report_command, [str(tmp_path)])
    assert result.exit_code == 1
    assert "floor.jsonl, line 20, is not a record" in result.output


def test_compare_gives_ratios_with_intervals(runner, tmp_path):
    a = folder_of(runner, tmp_path / "a", "calls")
    slower = json.loads(a.read_text())
    for benchmark in slower["benchmarks"]:
        for run in benchmark["runs"]:
            run["values"] = [2 * value for value in run["values"]]
    b = tmp_path / "b.json"
    b.write_text(json.dumps(slower))
    rows = {row[0]: row for row in compare_files(a, b).rows}
    recv = rows["calls 1p duplicated recv"]
    assert recv[3].startswith("0.50 [0.4")
    assert recv[4] == "A is faster"
    result = CliRunner().invoke(cli.compare_command, [str(a), str(b)])
    assert result.exit_code == 0
    assert "Comparison" in result.output


def test_compare_names_what_it_cannot_read(runner, tmp_path):
    a = folder_of(runner, tmp_path / "a")
    b = folder_of(runner, tmp_path / "b", "events")
    other = json.loads(b.read_text())
    other["benchmarks"] = [x for x in other["benchmarks"] if not x["metadata"]["name"].startswith("native")]
    b.write_text(json.dumps(other))
    with pytest.raises(BenchError, match="no benchmark in common"):
        compare_files(a, b)
    b.write_text("{}")
    result = CliRunner().invoke(cli.compare_command, [str(a), str(b)])
    assert result.exit_code == 1
    assert "is not a pyperf result file" in result.output


def test_ctrl_c_before_the_first_visit_ends_quietly(bench, runner):
    def interrupt(argv):
        raise KeyboardInterrupt

    runner.override = interrupt
    result = bench("floor", "--quick")
    assert result.exit_code == cli.INTERRUPTED
    assert "Traceback" not in result.output


def test_sigterm_ends_the_visit_and_the_benchmark(bench, runner):
    runner.override = lambda argv: os.kill(os.getpid(), signal.SIGTERM) if len(runner.visits) == 2 else None
    before = signal.getsignal(signal.SIGTERM)
    assert bench("floor", "--quick").exit_code == 128 + signal.SIGTERM
    assert len(runner.visits) == 2
    assert signal.getsignal(signal.SIGTERM) is before
