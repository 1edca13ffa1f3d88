"""Compiled and interpreted kernels do the same, byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def digest(jit: str) -> str:
    """Of everything that ``wire_digest`` did with STACKCORE_JIT set like this."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.wire.wire_digest"], env=os.environ | {"STACKCORE_JIT": jit}, cwd=ROOT, capture_output=True,
        text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ran, found = done.stdout.split()
    assert ran == jit
    return found


def test_compiled_and_interpreted_do_the_same() -> None:
    assert digest("0") == digest("1")
