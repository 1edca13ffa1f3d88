"""Compiled and interpreted kernels do the same, byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def digest(module: str, jit: str) -> str:
    """Of everything that ``module`` did with STACKCORE_JIT set like this."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.wire.{module}"], env=os.environ | {"STACKCORE_JIT": jit}, cwd=ROOT, capture_output=True,
        text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ran, found = done.stdout.split()
    assert ran == jit
    return found


@pytest.mark.parametrize("module", ["wire_digest", "player_digest"])
def test_compiled_and_interpreted_do_the_same(module: str) -> None:
    assert digest(module, "0") == digest(module, "1")
