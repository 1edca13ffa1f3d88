"""Same seed, same packets at the same times: in one process, in two, compiled and interpreted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tcp.scenes import SCENES, attacked, play

ROOT = Path(__file__).resolve().parents[2]


def captures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def two(tmp_path: Path) -> tuple[Path, Path]:
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
    return folders


@pytest.mark.parametrize("name", SCENES)
def test_same_seed_same_capture(name: str, tmp_path: Path) -> None:
    first, second = two(tmp_path)
    assert play(name, 3, first) == play(name, 3, second)
    assert captures(first) == captures(second)


def test_another_seed_is_another_capture(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    play("rough", 3, first)
    play("rough", 4, second)
    assert captures(first).keys() == captures(second).keys()
    assert all(captures(first)[name] != captures(second)[name] for name in captures(first))


def test_an_attack_is_repeatable() -> None:
    assert attacked(5) == attacked(5) != attacked(6)


def run(jit: str, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.tcp.scenes", str(folder)],
        env=os.environ | {"STACKCORE_JIT": jit}, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_compiled_and_interpreted_give_the_same_packets(tmp_path: Path) -> None:
    """The interpreted run also finds what the compiled one would not notice: an index outside of its array."""
    compiled, interpreted = two(tmp_path)
    counted, again = run("1", compiled), run("0", interpreted)
    assert (counted["compiled"], again["compiled"]) == (True, False)
    assert counted["counted"] == again["counted"]
    assert captures(compiled) == captures(interpreted)
    assert len(captures(compiled)) == 2 * len(SCENES)
