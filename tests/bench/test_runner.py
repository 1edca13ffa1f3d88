"""Processes that a benchmark starts: their outcome in words, and none left behind."""

import os
import signal
import sys
import time

import pytest

import bench
from bench.runner import Outcome, run_process


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_output_and_status_come_back():
    outcome = run_process(python("import sys; print('out'); print('no room', file=sys.stderr); sys.exit(3)"), 30)
    assert (outcome.status, outcome.stdout, outcome.complaint()) == (3, "out\n", "no room")


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(None, "", ""), "did not end in time"),
        (Outcome(-11, "", "\n"), "killed by SIGSEGV"),
        (Outcome(2, "", ""), "exit status 2"),
        (Outcome(2, "", "first\nlast\n"), "last"),
    ],
)
def test_a_failure_is_told_in_a_sentence(outcome, words):
    assert words in outcome.complaint()


def gone(pid: int) -> bool:
    """True when no such process runs; a zombie whose parent has not looked yet counts as gone."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        os.sched_yield()


GRANDCHILD = """
import os, signal, sys, time
child = os.fork()
if child == 0:
    signal.pause()
print(child, flush=True)
signal.pause()
"""


def test_a_process_that_takes_too_long_is_ended_with_its_children():
    outcome = run_process(python(GRANDCHILD), 1.0)
    assert outcome.status is None
    wait_until_gone(int(outcome.stdout))


def test_a_process_that_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr("bench.runner.GRACE_SECONDS", 0.1)
    program = "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); signal.pause()"
    outcome = run_process(python(program), 1.0)
    assert outcome.status is None
    assert gone(int(outcome.stdout))


def test_an_interrupt_ends_the_visit_and_goes_on_to_the_caller(tmp_path):
    marker = tmp_path / "pid"
    program = f"import os, signal; open({str(marker)!r}, 'w').write(str(os.getpid())); os.kill(os.getppid(), signal.SIGINT); "
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run_process(python(program + "signal.pause()"), 30)
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert gone(int(marker.read_text()))


def test_signals_that_end_a_process_have_names():
    outcome = run_process(python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), 30)
    assert outcome.status == -signal.SIGKILL
    assert outcome.complaint() == "killed by SIGKILL"


def test_a_visit_imports_the_packages_that_the_benchmark_itself_came_from(tmp_path, monkeypatch):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    outcome = run_process(python("import bench; print(bench.__file__)"), 30)
    assert outcome.stdout.strip() == bench.__file__
