"""The suites `tcp` and `recovery`: what they visit, what they say of figures, and that the programs behind them measure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.campaign import Campaign
from bench.report import write_report
from bench.runner import Outcome
from bench.suites import Plan, get_suite
from bench.suites.recovery import MODES, POINTS
from bench.suites.tcp import ENGINE, FRAMES, IDLE, MANY, idle_mode

QUICK, FULL = Plan.make(quick=True), Plan.make(quick=False)


def argument(argv, flag):
    return argv[argv.index(flag) + 1]


def run(name, runner, folder, plan=QUICK):
    return Campaign(get_suite(name), plan, folder, {"cpus": 2, "machine": {}}, runner=runner).run()


def findings(name, runner, folder, plan=QUICK):
    return get_suite(name).analyse(run(name, runner, folder, plan)).findings


def table(name, title, records):
    return next(t for t in get_suite(name).analyse(records).tables if t.title.startswith(title))


# ---- tcp ----


def test_the_engine_is_timed_for_every_frame_and_the_ends_of_the_curve_six_times(runner, tmp_path):
    records = run("tcp", runner, tmp_path)
    assert {visit.mode for visit in records.visits if visit.group == ENGINE} == {f"frame {n}" for n in FRAMES}
    assert len(records.of(ENGINE, "frame 1")) == len(records.of(ENGINE, "frame 256")) == 6
    assert len(records.of(IDLE, idle_mode(MANY, True))) == 6
    assert all(len(argv) < 20 for argv in runner.visits if "stackcore.tcp.speed" in argv)


def test_a_goal_is_judged_by_its_figure_and_interval(runner, tmp_path):
    said = findings("tcp", runner, tmp_path)
    assert any("frame 256: 2.4" in line and "goal at least 1, reached." in line for line in said)
    assert any("goes anywhere" in line and "goal at most 3, reached." in line for line in said)
    assert any("Bulk transfer" in line and "2 GB/s" in line and "reached." in line for line in said)
    assert any("memory beside its fifos: 750 bytes" in line for line in said)


def test_what_is_missed_is_said(runner, tmp_path):
    def slow(argv):
        if "stackcore.tcp.speed" not in argv:
            return None
        status, result = runner._speed(argv)
        scale = 5 if "--anywhere" in argv else 1
        return Outcome(status, json.dumps({**result, "ns_per_segment": 4000.0, "ns_per_request": 1000.0 * scale}), "")

    runner.override = slow
    said = findings("tcp", runner, tmp_path)
    assert any("frame 256: 0.25 million" in line and line.endswith("missed.") for line in said)
    assert any("goes anywhere" in line and "5 times as long" in line and line.endswith("missed.") for line in said)


def test_http_is_a_share_of_the_null_transports_rate_in_the_same_rounds(runner, tmp_path):
    def quarter(argv):
        if "--transport" not in argv or "http" not in argv:
            return None
        rate = 1e6 if argument(argv, "--transport") == "null" else 3e5
        return Outcome(0, json.dumps({"requests": 1000, "requests_per_s": rate, "errors": {}}), "")

    runner.override = quarter
    assert any("null transport's rate: 0.3 times (95 % interval" in line for line in findings("tcp", runner, tmp_path))


def test_the_simulators_goal_is_seconds_of_real_time(runner, tmp_path):
    said = findings("tcp", runner, tmp_path)
    assert any("3600 x 1 MB" in line and "40 s of wall time" in line and "reached." in line for line in said)


def test_pytcp_is_left_out_with_a_word(runner, tmp_path):
    assert any(line.startswith("Left out: PyTCP") for line in findings("tcp", runner, tmp_path))


# ---- recovery ----


def test_every_mode_sees_the_same_seeds_at_every_loss(runner, tmp_path):
    records = run("recovery", runner, tmp_path, FULL)
    seen = {}
    for argv in runner.visits:
        if "transfer" in argv:
            point = argument(argv, "--loss"), argument(argv, "--budget"), argument(argv, "--recovery")
            seen.setdefault(point, []).append(argument(argv, "--seed"))
    assert len(seen) == len(POINTS) * len(MODES)
    assert {tuple(seeds) for seeds in seen.values()} == {("1", "2", "3", "4", "5", "6")}
    assert not records.problems(), "unchecked is a control: its crashes are findings"


def test_modes_alternate_within_a_loss(runner, tmp_path):
    run("recovery", runner, tmp_path)
    first = [argument(argv, "--recovery") for argv in runner.visits if "transfer" in argv and argument(argv, "--loss") == "0.0"]
    assert tuple(first) == MODES


def test_crashes_of_unchecked_are_counted_and_the_others_have_none(runner, tmp_path):
    said = findings("recovery", runner, tmp_path)
    assert any(line.startswith("unchecked: 21 accesses to a freed connection") for line in said)
    assert any(line.startswith("generation: 0 accesses") and "as it must be" in line for line in said)


def test_a_correct_mode_that_serves_a_stranger_is_called_wrong(runner, tmp_path):
    def strange(argv):
        if "transfer" not in argv or argument(argv, "--recovery") not in ("purge", "state-aware"):
            return None
        status, result = runner._transfer(argv)
        result["recovery"]["strangers"] = 2
        return Outcome(status, json.dumps(result), "")

    runner.override = strange
    said = findings("recovery", runner, tmp_path)
    assert any(line.startswith("purge: ") and "WRONG" in line for line in said)
    assert any(line.startswith("state-aware: ") and "10 segments" in line and "new owner" in line for line in said)


def test_ratios_of_goodput_are_taken_seed_by_seed(runner, tmp_path):
    def by_seed(argv):
        if "transfer" not in argv:
            return None
        status, result = runner._transfer(argv)
        rate = 1e8 * int(argument(argv, "--seed")) * (1.5 if argument(argv, "--recovery") == "flag" else 1)
        return Outcome(status, json.dumps({**result, "bytes_per_s": rate}), "")

    runner.override = by_seed
    records = run("recovery", runner, tmp_path, FULL)
    rows = {tuple(row[:2]): row for row in table("recovery", "D1: what the clients see", records).rows}
    assert rows["1 % loss", "flag"][3] == "1.50 [1.50, 1.50]"
    assert rows["1 % loss", "purge"][3] == "1.00 [1.00, 1.00]"
    assert any("flag differs most" in line for line in get_suite("recovery").analyse(records).findings)


def test_the_cost_of_a_check_stands_beside_that_of_none(runner, tmp_path):
    records = run("recovery", runner, tmp_path)
    rows = {row[0]: row for row in table("recovery", "D1: what a mode costs", records).rows}
    assert rows["state-aware"][-1] == "+1.0" and rows["generation"][-1] == "+0.5"
    assert rows["purge"][4] == "4" and rows["generation"][4] == "0"


@pytest.mark.parametrize("name", ["tcp", "recovery"])
def test_the_page_shows_the_tables(runner, tmp_path, name):
    records = run(name, runner, tmp_path)
    page = write_report(tmp_path).read_text()
    for shown in get_suite(name).analyse(records).tables:
        assert shown.title.replace("'", "&#39;") in page


# ---- the programs that are visited, interpreted so that nothing is compiled ----


def visit(module, *flags):
    environment = {**os.environ, "STACKCORE_JIT": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", module, *flags, "--json"]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout)


def test_bulk_is_measured_and_checked():
    found = visit("stackcore.tcp.speed", "bulk", "--connections", "2", "--frame", "4", "--fifo", "16384", "--seconds", "0.1")
    assert found["segments"] > 0 and found["bytes_per_s"] > 0 and found["requests"] == 0
    assert 0 < found["segments_per_step"] <= 8, "a frame of four each way"
    assert found["step_ns_per_segment"]["p10"] <= found["step_ns_per_segment"]["p99"]


@pytest.mark.parametrize("anywhere", [(), ("--anywhere",)])
def test_requests_among_idle_connections_are_answered(anywhere):
    found = visit("stackcore.tcp.speed", "echo", "--connections", "40", "--active", "5", *anywhere, "--seconds", "0.1")
    assert found["requests"] > 0 and found["ns_per_request"] > 0
    assert found["record_bytes_per_connection"] > 400


def test_the_queues_steps_are_timed_for_every_mode():
    found = visit("stackcore.tcp.queue_cost", "--seconds", "0.01", "--connections", "64")["modes"]
    assert set(found) == set(MODES)
    assert all(one["served"]["alive"] == 64 for one in found.values()), "the living are served whatever the mode"
    stale = {mode: one["served"]["stale"] for mode, one in found.items()}
    assert stale["unchecked"] == 64 and stale["generation"] == stale["state-aware"] == stale["flag"] == 0
