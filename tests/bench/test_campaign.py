"""A whole benchmark with a stand-in for its processes: what is visited, written and concluded."""

import json
import subprocess
import sys

import pytest
from rich.console import Console

from bench.campaign import GIVE_UP_AFTER, Campaign
from bench.cli import INTERRUPTED, run_suites
from bench.results import load_folder, load_records
from bench.runner import BenchError, Outcome
from bench.suites import Plan, get_suite, suite_names
from bench.suites.events import CHECKED_EVENTS

QUICK = Plan.make(quick=True)


@pytest.fixture
def console(tmp_path):
    with (tmp_path / "terminal.txt").open("w") as file:
        yield Console(file=file, width=100)


def printed(tmp_path) -> str:
    return (tmp_path / "terminal.txt").read_text()


def argument(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def run(name, runner, folder, plan=QUICK):
    return Campaign(get_suite(name), plan, folder, {"cpus": 2, "machine": {}}, runner=runner).run()


def test_all_suites_run_print_and_write_their_files(runner, tmp_path, console):
    assert run_suites(suite_names(), QUICK, tmp_path / "out", console, runner=runner) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"floor.json", "listener.json", "events.json", "calls.json", "peers.json", "tcp.json",
                     "recovery.json", "raw", "report.html"}  # fmt: skip
    console.file.flush()
    for title in (
        "Distance to plain C",
        "D3: duplicated listeners",
        "D2: events beyond maxevents",
        "Socket calls",
        "D1: entries",
    ):
        assert title in printed(tmp_path)


def test_result_files_open_with_pyperf(runner, tmp_path, console):
    run_suites(["listener"], QUICK, tmp_path, console, runner=runner, report=False)
    shown = subprocess.run(
        [sys.executable, "-m", "pyperf", "show", "-q", str(tmp_path / "listener.json")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "listener 2w 1K work=0 duplicated: Mean +- std dev: 79" in shown
    assert "native stream: Mean +- std dev: 100 ns" in shown


def test_each_process_is_one_pyperf_run_with_its_modes(runner, tmp_path):
    import pyperf

    from bench.results import write_pyperf

    records = run("listener", runner, tmp_path)
    suite = pyperf.BenchmarkSuite.load(str(write_pyperf(tmp_path, records)))
    bench = suite.get_benchmark("listener 2w 1K work=0 shared-rwlock/spin-rw")
    assert bench.get_nrun() == 6
    metadata = bench.get_runs()[0].get_metadata()
    assert metadata["loops"] == 300_000
    assert (metadata["bench_listener"], metadata["bench_lock"], metadata["bench_workers"]) == ("shared-rwlock", "spin-rw", 2)
    assert "--listener shared-rwlock" in metadata["bench_command"]


def test_modes_alternate_and_the_reference_is_timed_in_front_of_each_round(runner, tmp_path):
    run("floor", runner, tmp_path)
    kinds = ["visit" if "-m" in argv else argument(argv, "--mode") for argv in runner.commands]
    assert kinds[:10] == ["stream", "pingpong", "http", "visit", "visit"] * 2
    listener = runner.__class__()
    run("listener", listener, tmp_path)
    headline = [argument(argv, "--listener") for argv in listener.visits if argument(argv, "--workers") == "2"]
    headline = [mode for mode in headline if mode != "unlocked-shared"]
    assert headline[:2] == ["duplicated", "shared-rwlock"]
    assert headline.count("duplicated") == headline.count("shared-rwlock") == 8


def test_raw_records_come_back_as_they_were(runner, tmp_path):
    records = run("events", runner, tmp_path)
    loaded = load_folder(tmp_path)["events"]
    assert loaded.visits == records.visits
    assert loaded.references == records.references
    assert loaded.session["cpus"] == 2


def test_a_negative_control_may_fail_and_is_a_finding(runner, tmp_path):
    records = run("events", runner, tmp_path)
    assert not records.problems()
    assert {v.exit_status for v in records.visits if v.mode == "two-queue"} == {1}
    findings = get_suite("events").analyse(records).findings
    assert findings[0] == "two-queue: 102 stale in 3,000,000 events delivered."
    assert "no stale" in findings[2]


def test_a_correct_mode_that_shows_an_error_does_not_count_but_its_errors_do(runner, tmp_path, console):
    wrong = {"errors": {"stale": 0, "lost": 5}, "events": {"count": 100, "ns_per_event": 90.0}, "requests": 100}

    def lose(argv):
        return Outcome(1, json.dumps(wrong), "") if "single-queue" in argv and "fanout" in argv else None

    runner.override = lose
    assert run_suites(["events"], QUICK, tmp_path, console, runner=runner, report=False) == 1
    console.file.flush()
    assert "does not count: events maxevents=64 ring=256 single-queue, round 0: exit status 1: lost 5" in printed(tmp_path)
    records = load_folder(tmp_path)["events"]
    assert records.seconds("events maxevents=64 ring=256 single-queue") == []
    assert any("single-queue: 30 lost" in finding for finding in get_suite("events").analyse(records).findings)


def test_one_broken_visit_is_reported_and_the_rest_goes_on(runner, tmp_path):
    def crash_once(argv):
        return Outcome(-11, "", "") if len(runner.visits) == 3 and "-m" in argv else None

    runner.override = crash_once
    records = run("floor", runner, tmp_path)
    assert [visit.problem for visit in records.problems()] == ["no result: killed by SIGSEGV"]
    assert len(records.visits) == 12
    assert "5" in [row[-1] for row in get_suite("floor").analyse(records).tables[0].rows]


def test_visits_that_all_fail_end_the_benchmark_with_the_reason(runner, tmp_path):
    runner.override = lambda argv: Outcome(1, "", "No module named stackcore") if "-m" in argv else None
    with pytest.raises(BenchError, match="No module named stackcore"):
        run("floor", runner, tmp_path)
    assert len(load_records(tmp_path / "raw" / "floor.jsonl").visits) == GIVE_UP_AFTER


def test_a_failing_native_reference_is_named(runner, tmp_path):
    runner.override = lambda argv: Outcome(1, "{}", "the second process died") if "--mode" in argv else None
    with pytest.raises(BenchError, match=r"native reference 'stream' failed: the second process died"):
        run("floor", runner, tmp_path)


def test_ctrl_c_writes_what_there_is(runner, tmp_path, console):
    def interrupt(argv):
        if len(runner.visits) == 4:
            raise KeyboardInterrupt
        return

    runner.override = interrupt
    assert run_suites(suite_names(), QUICK, tmp_path, console, runner=runner) == INTERRUPTED
    assert len(load_folder(tmp_path)["floor"].visits) == 3
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "floor.json").exists()


def test_kernels_are_compiled_before_anything_is_timed(runner, tmp_path, console):
    run_suites(["floor"], QUICK, tmp_path, console, runner=runner, report=False)
    assert runner.commands[0][2:] == ["stackcore", "warmup"]
    runner.override = lambda argv: Outcome(1, "", "no compiler") if "warmup" in argv else None
    with pytest.raises(BenchError, match="'stackcore warmup' failed: no compiler"):
        run_suites(["floor"], QUICK, tmp_path, console, runner=runner)


def test_too_few_processes_give_no_interval_and_call_no_win(runner, tmp_path):
    records = run("listener", runner, tmp_path, Plan.make(quick=True, rounds=2))
    analysis = get_suite("listener").analyse(records)
    assert "no interval is given and no win is called" in analysis.findings[0]
    assert all("[" not in row[6] for row in analysis.tables[0].rows)


def test_the_listener_suite_shows_ratio_draft_and_control(runner, tmp_path):
    records = run("listener", runner, tmp_path)
    analysis = get_suite("listener").analyse(records)
    two_workers = next(row for row in analysis.tables[0].rows if row[0] == "2*" and row[2] == "0")
    assert two_workers[6].startswith("1.25 [1.2")
    assert two_workers[7].startswith("1.25 [1.2")
    assert two_workers[8] == "1.22"
    assert "Shape over 1, 2, 4 workers at 1 KB: 1.25, 1.25, 1.25 here, 1.13, 1.22, 2.26 in the draft" in analysis.findings[-2]
    assert "With 2 CPUs" in analysis.findings[-2]
    assert "2 workers accepted 0 connections, all 64 stayed without service" in analysis.findings[-1]
    cost = next(row for row in analysis.tables[1].rows if row[0] == "2*" and row[2] == "0")
    assert cost[4:] == ["2", "2", "1", "1", "4", "2"]


def test_the_full_events_set_goes_on_until_enough_events_were_checked(runner, tmp_path):
    few = {"errors": {}, "requests": 1, "events": {"count": 70_000, "ns_per_event": 90.0}}
    many = {**few, "events": {"count": 700_000, "ns_per_event": 90.0}}

    def answer(argv):
        if "fanout" not in argv:
            return None
        return Outcome(0, json.dumps(many if argument(argv, "--duration") == "5.0" else few), "")

    runner.override = answer
    records = run("events", runner, tmp_path, Plan.make(quick=False))
    for mode in ("bounded", "single-queue"):
        delivered = sum(v.result["events"]["count"] for v in records.visits if v.mode == mode)
        assert CHECKED_EVENTS <= delivered < CHECKED_EVENTS + 700_000


def test_the_full_events_set_does_not_go_on_for_ever(runner, tmp_path):
    nothing = {"errors": {}, "requests": 0, "events": {"count": 0, "ns_per_event": 0.0}}
    runner.override = lambda argv: Outcome(0, json.dumps(nothing), "") if "fanout" in argv else None
    records = run("events", runner, tmp_path, Plan.make(quick=False))
    planned = sum(cell.rounds for cell in get_suite("events").cells(Plan.make(quick=False)))
    assert planned < len(records.visits) <= planned + 42


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_copes_with_records_of_nothing(name):
    from bench.results import Records

    analysis = get_suite(name).analyse(Records(name))
    assert analysis.findings
    for table in analysis.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_the_quick_plan_gives_every_question_its_six_processes():
    for name in suite_names():
        assert max(cell.rounds for cell in get_suite(name).cells(QUICK)) >= 6
    full = get_suite("listener").cells(Plan.make(quick=False))
    assert {(c.factors["workers"], c.factors["work"]) for c in full if not c.control} == {
        (w, work) for w in (1, 2, 4) for work in (0, 5000)
    }
    assert len({c.factors["size"] for c in full}) == 10


def test_unknown_suites_list_the_choices():
    with pytest.raises(KeyError, match="choose from floor, listener, events, calls"):
        get_suite("nope")


def test_the_distance_to_plain_c_is_taken_round_by_round(runner, tmp_path):
    """A machine that halves its speed for a round moves both; the share stays."""
    halved = set(range(6, 13))

    def drifting(argv):
        slow = 2 if len(runner.visits) in halved else 1
        if "--mode" in argv:
            return Outcome(0, json.dumps({"operations": 9, "per_second": 10e6 / slow}), "")
        result = {"requests": 9, "requests_per_s": 2e6 / (2 if len(runner.visits) - 1 in halved else 1), "errors": {}}
        return Outcome(0, json.dumps(result), "")

    runner.override = drifting
    findings = get_suite("floor").analyse(run("floor", runner, tmp_path)).findings
    assert "0.200 (95 % interval 0.200 to 0.200) of the native stream's message rate (goal: 0.1, reached)" in findings[0]
