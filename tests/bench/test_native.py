"""The native reference program itself."""

import json
import os
import subprocess

import pytest

from bench.native import MODES, PROGRAM, reference_figures, time_reference
from bench.runner import run_process

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="the native reference is not built beside the sources (run 'make')")


def ref(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(PROGRAM), *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_counts_what_it_checked(mode):
    outcome = ref("--mode", mode, "--count", "5000")
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["mode"] == mode
    assert result["operations"] >= 5000
    assert result["wrong"] == 0
    assert result["checked"] >= result["operations"]
    assert result["per_second"] == pytest.approx(result["operations"] / result["seconds"], rel=1e-3)


@pytest.mark.parametrize(
    "words",
    [
        ["--mode", "stream", "--size", "8", "--batch", "3", "--capacity", "4"],
        ["--mode", "stream", "--size", "1000", "--batch", "64", "--capacity", "64"],
        ["--mode", "pingpong", "--size", "4096", "--capacity", "2"],
        ["--mode", "http", "--size", "8192", "--clients", "3", "--batch", "1"],
        ["--mode", "http", "--size", "100", "--clients", "512", "--batch", "256"],
    ],
)
def test_odd_sizes_and_batches_lose_nothing(words):
    outcome = ref(*words, "--count", "3000")
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout)["wrong"] == 0


def test_both_ends_on_one_cpu_make_progress():
    cpu = min(os.sched_getaffinity(0))
    outcome = ref("--mode", "http", "--count", "1000", "--cpus", f"{cpu},{cpu}")
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--mode", "nope"], "--mode is one of"),
        (["--size", "4"], "the record must hold 8 bytes"),
        (["--mode", "http", "--size", "9000"], "half a fifo"),
        (["--capacity", "3"], "power of two"),
        (["--capacity", "2", "--batch", "4"], "at least --batch"),
        (["--seconds", "x"], "--seconds is between"),
        (["--cpus", "0"], "two CPU numbers"),
        (["--cpus", "1000,1000"], "cannot pin"),
        (["extra"], "options only"),
    ],
)
def test_bad_options_are_one_sentence(words, complaint):
    outcome = ref(*words)
    assert outcome.returncode == 2
    assert complaint in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_the_three_shapes_are_timed_together():
    figures = reference_figures(time_reference(run_process, 0.02))
    assert len(figures) == 3
    assert all(figure > 0 for figure in figures)
