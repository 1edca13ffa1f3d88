"""The peers: every installed adapter carries messages, what is wrong is seen, and the suite says what the figures show."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.campaign import Campaign
from bench.native import PROGRAM
from bench.peers import adapter_names, get_adapter
from bench.peers.base import Adapter
from bench.peers.run import main, measure_one, status_of
from bench.results import Records, load_records
from bench.runner import Outcome
from bench.suites import Plan, get_suite
from bench.suites.peers import FULL, QUICK, TARGETS, group_name
from shmq.measure import KINDS, MeasureError

SUITE = get_suite("peers")
QUICK_PLAN = Plan.make(quick=True)
INSTALLED = [name for name in adapter_names() if get_adapter(name).missing() is None]
CONFORMANCE = [
    pytest.param(name, kind, id=f"{name}-{kind}")
    for name in INSTALLED
    for kind in KINDS
    if get_adapter(name).can(kind, 32) and not (kind == "idle" and get_adapter(name).role == "floor")
]
LARGE = [name for name in INSTALLED if get_adapter(name).can("single", 65536)]


@pytest.fixture
def nothing_left_behind():
    before = set(os.listdir("/dev/shm"))
    yield
    assert set(os.listdir("/dev/shm")) <= before


# ---- the adapters ----


@pytest.mark.parametrize(("name", "kind"), CONFORMANCE)
@pytest.mark.usefixtures("nothing_left_behind")
def test_an_adapter_carries_messages(name, kind):
    result = measure_one(get_adapter(name), kind, 32, 0.01)
    assert "problem" not in result
    assert result["operations"] > 0
    assert result["ns"] > 0
    errors = result["errors"]
    assert errors["corrupt"] == errors["duplicate"] == 0
    if get_adapter(name).lossless:
        assert result["lossless"]
        assert not any(errors.values())
    if kind in ("busy", "blocking") and name != "C":
        assert 0 < result["p50_ns"] <= result["p99_ns"]
        assert result["trip_ns"] > 0
    if kind == "idle":
        assert 0 <= result["cpu_share"] < 1.1


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.usefixtures("nothing_left_behind")
def test_an_adapter_carries_large_messages(name):
    result = measure_one(get_adapter(name), "single", 65536, 0.01)
    assert "problem" not in result
    assert result["errors"]["corrupt"] == 0


@pytest.mark.parametrize("name", adapter_names())
def test_an_adapter_says_what_it_is(name):
    adapter = get_adapter(name)
    assert adapter.role in ("floor", "shmq", "peer")
    assert adapter.kinds <= set(KINDS)
    assert bool(adapter.package) == bool(adapter.module)
    assert not adapter.can("no such kind", 32)


def test_every_package_is_in_the_extra_named_peers():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name in adapter_names():
        assert f'"{get_adapter(name).package}' in text


def test_unknown_peers_list_the_choices():
    with pytest.raises(KeyError, match=r"choose from C, shmq.Ring"):
        get_adapter("nope")


class Absent(Adapter):
    name, package, module = "absent", "absent-ipc", "no_such_module_here"
    kinds = frozenset({"single"})

    def link(self, size, kind):
        raise AssertionError("must not be imported")


def test_a_peer_that_is_not_installed_is_skipped_with_a_word():
    result = measure_one(Absent(), "single", 32, 0.01)
    assert result["skipped"] == "absent-ipc is not installed"
    assert status_of(Absent(), result) == 0


def test_a_kind_that_a_peer_cannot_is_skipped():
    assert measure_one(get_adapter("multiprocessing.Pipe"), "array", 32, 0.01)["skipped"] == "it has no array of 32 bytes"


class Failing(Absent):
    def missing(self):
        return None

    def measure(self, kind, size, seconds):
        raise MeasureError("the other end is gone")


def test_a_peer_that_fails_is_a_problem():
    result = measure_one(Failing(), "single", 32, 0.01)
    assert result["problem"] == "the other end is gone"
    assert status_of(Failing(), result) == 1


class Losing(Failing):
    def measure(self, kind, size, seconds):
        return {"ns": 1.0, "operations": 1, "errors": {"lost": 7, "duplicate": 0, "misplaced": 1, "corrupt": 0}}


def test_a_peer_that_loses_is_marked_and_shmq_would_fail(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1.0")
    result = measure_one(Losing(), "single", 32, 0.01)
    assert result["lossless"] is False
    assert status_of(Losing(), result) == 0
    monkeypatch.setattr(Losing, "role", "shmq")
    assert status_of(Losing(), result) == 1


def test_the_command_prints_one_object(capsys):
    assert main(["os.pipe", "--kind", "array", "--seconds", "0.01", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["peer"], result["kind"], result["size"], result["batch"]) == ("os.pipe", "array", 32, 256)
    assert main(["os.pipe", "--seconds", "0.01"]) == 0
    assert "lossless: True" in capsys.readouterr().out


def test_a_visit_is_a_process_of_its_own():
    cell = next(cell for cell in SUITE.cells(QUICK_PLAN) if cell.mode == "shmq.Ring")
    done = subprocess.run([sys.executable, "-m", *cell.argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["lossless"]


# ---- the suite ----


def answer(argv, rates, **more):
    """Answer for a visit with a rate by peer, or None for another command."""
    if "bench.peers.run" not in argv:
        return None
    peer, kind = argv[argv.index("bench.peers.run") + 1], argv[argv.index("--kind") + 1]
    ns = 1e9 / rates.get(peer, 1e5)
    errors = {"lost": 0, "duplicate": 0, "misplaced": 0, "corrupt": 0, **more.get(peer, {}).get("errors", {})}
    result = {"peer": peer, "kind": kind, "operations": 1000, "ns": ns, "errors": errors, **more.get(peer, {}).get("set", {})}
    if kind in ("busy", "blocking"):
        result |= {"trip_ns": ns, "p50_ns": ns, "p99_ns": 3 * ns}
    if kind == "idle":
        result["cpu_share"] = 0.002
    return Outcome(0, json.dumps(result), "")


RATES = {"C": 20e6, "shmq.Ring": 10e6, "cloudtoid-interprocess": 5e6, "kickmsg": 40e6, "os.pipe": 4e6}


@pytest.fixture
def everything(monkeypatch):
    """Every peer counts as installed."""
    for name in adapter_names():
        monkeypatch.setattr(type(get_adapter(name)), "missing", lambda self: None)


def run(runner, folder, plan=QUICK_PLAN):
    return Campaign(SUITE, plan, folder, {"cpus": 2, "machine": {}}, runner=runner).run()


@pytest.mark.usefixtures("everything")
def test_the_suite_names_the_best_peer_and_the_distance_to_c(runner, tmp_path):
    runner.override = lambda argv: answer(argv, RATES, kickmsg={"errors": {"lost": 5, "misplaced": 1}})
    analysis = SUITE.analyse(run(runner, tmp_path))
    table = next(table for table in analysis.tables if table.title.startswith("single 32 B"))
    rows = {row[0]: row for row in table.rows}
    assert list(rows)[:3] == ["kickmsg *", "C", "shmq.Ring"]
    assert rows["shmq.Ring"][1:] == ["10,000,000", "2.00 [2.00, 2.00]", "0.50 [0.50, 0.50]"]
    assert table.notes[0].startswith("Best peer: cloudtoid-interprocess.")
    lost = 5 * sum(cell.rounds for cell in SUITE.cells(QUICK_PLAN) if cell.mode == "kickmsg")
    assert f"kickmsg is not lossless here: {lost:,} lost, {lost // 5:,} misplaced." in analysis.findings
    verdict = "single messages of 32 B: shmq.Ring is 2.00 times as fast as cloudtoid-interprocess"
    assert f"{verdict} (95 % interval 2.00 to 2.00); goal 1.5, reached." in analysis.findings
    assert any(line.endswith("uses 0.20 % of a CPU; goal below 1 %, reached.") for line in analysis.findings)
    assert any(line.startswith("contiguous batches: shmq.Ring is 0.50 times as fast as C") for line in analysis.findings)
    assert any(line.endswith("goal 0.7, missed by 29 %.") for line in analysis.findings)


@pytest.mark.usefixtures("everything")
def test_too_few_rounds_give_no_interval(runner, tmp_path):
    runner.override = lambda argv: answer(argv, RATES)
    analysis = SUITE.analyse(run(runner, tmp_path, Plan.make(quick=True, rounds=2)))
    assert "(no interval: fewer than 6 rounds); goal 1.5, reached, without an interval." in analysis.findings[0]


@pytest.mark.usefixtures("everything")
def test_a_goal_inside_the_interval_is_not_decided(runner, tmp_path):
    def noisy(argv):
        drift = 1 + len(runner.commands) % 5
        return answer(argv, {**RATES, "shmq.Ring": 3e6 * drift})

    runner.override = noisy
    analysis = SUITE.analyse(run(runner, tmp_path))
    assert any("but the interval includes the goal" in line for line in analysis.findings)


def test_what_is_not_installed_gets_one_visit_and_a_word(runner, tmp_path, monkeypatch):
    for name in adapter_names():
        reason = "kickmsg is not installed" if name == "kickmsg" else None
        monkeypatch.setattr(type(get_adapter(name)), "missing", lambda self, reason=reason: reason)
    skip = {"kickmsg": {"set": {"skipped": "kickmsg is not installed"}}}
    runner.override = lambda argv: answer(argv, RATES, **skip)
    records = run(runner, tmp_path)
    assert len([visit for visit in records.visits if visit.mode == "kickmsg"]) == 1
    analysis = SUITE.analyse(records)
    assert analysis.findings[-1] == "Left out: kickmsg (kickmsg is not installed)."
    assert not any("kickmsg" in row[0] for table in analysis.tables for row in table.rows)


@pytest.mark.usefixtures("everything")
def test_a_failed_visit_does_not_count_and_the_rest_goes_on(runner, tmp_path):
    def fail(argv):
        if "tachyon-ipc" in argv:
            return Outcome(1, json.dumps({"peer": "tachyon-ipc", "problem": "it did not end in time"}), "")
        return answer(argv, RATES)

    runner.override = fail
    records = run(runner, tmp_path)
    assert {visit.problem for visit in records.problems()} == {"it did not end in time"}
    assert {visit.mode for visit in records.problems()} == {"tachyon-ipc"}
    assert load_records(tmp_path / "raw" / "peers.jsonl").visits == records.visits


@pytest.mark.usefixtures("everything")
def test_peers_and_the_reference_take_turns_in_every_round(runner, tmp_path):
    runner.override = lambda argv: answer(argv, RATES)
    records = run(runner, tmp_path, Plan.make(quick=True, rounds=2))
    order = [visit.mode for visit in records.visits if visit.group == "single 32 B"]
    assert order == [*adapter_names(), *reversed(adapter_names())]


def test_a_round_trip_is_measured_by_its_median_and_idling_is_no_time():
    cells = {(cell.factors["kind"], cell.mode): cell for cell in SUITE.cells(QUICK_PLAN)}
    trip = cells["busy", "shmq.Ring"]
    figures = SUITE.measure(trip, {"kind": "busy", "trip_ns": 400.0, "ns": 900.0, "operations": 10})
    assert figures[trip.name].seconds == pytest.approx(400e-9)
    assert SUITE.measure(cells["idle", "shmq.Ring"], {"kind": "idle", "ns": 5e8, "operations": 1}) == {}


def test_the_goals_are_measured_by_the_quick_plan():
    assert {(target.kind, target.size) for target in TARGETS} <= set(QUICK) <= set(FULL)
    assert group_name("single", 32) == "single 32 B"
    assert group_name("view", 65536) == "view 64 KB"
    assert SUITE.analyse(Records("peers")).findings == ["No visit of this suite ended well."]


@pytest.mark.skipif(not PROGRAM.exists(), reason="the native reference is not built")
def test_the_floor_sees_large_records_in_a_short_run():
    """Records of a megabyte, a twentieth of a second: a look at the clock only every 4096 of them would come too late."""
    command = [str(PROGRAM), "--mode", "stream", "--size", str(1 << 20), "--capacity", "16", "--seconds", "0.05"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert 0 < said["operations"] < 4096
    assert said["wrong"] == 0


@pytest.mark.skipif(not PROGRAM.exists(), reason="the native reference is not built")
def test_a_floor_that_saw_nothing_is_a_problem(monkeypatch):
    from bench.peers import plain_c

    monkeypatch.setattr(plain_c, "_run", lambda command: None)
    assert "too little" in measure_one(get_adapter("C"), "view", 65536, 0.01)["problem"]


def test_the_quick_plan_sends_large_messages_only_through_peers_made_for_bytes():
    def carriers(quick):
        return {cell.mode for cell in SUITE.cells(Plan.make(quick=quick)) if cell.group == "single 64 KB"}

    assert carriers(quick=False) - carriers(quick=True) >= {"multiprocessing.Queue", "multiprocessing.SimpleQueue", "shmq.Queue"}
    assert carriers(quick=True) >= {"shmq.Ring", "shmq.Channel", "os.pipe"}
