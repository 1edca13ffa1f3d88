"""Against the Linux kernel's TCP: streams both ways over a good and a bad wire, refusals and resets, with fewer options."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tcp.linux_peer import SCENES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def has_own_network() -> bool:
    """A user may make a network namespace here, and a tun device in it."""
    if not shutil.which("unshare") or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return False
    probe = "from tests.tcp.linux_peer import open_tun; open_tun()"
    command = ["unshare", "-Urn", sys.executable, "-c", probe]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.fixture(scope="module")
def outcomes() -> Any:
    if not has_own_network():
        pytest.skip("needs unshare -Urn and /dev/net/tun")
    command = ["unshare", "-Urn", sys.executable, "-m", "tests.tcp.linux_peer"]
    environment = os.environ | {"STACKCORE_JIT": "1"}  # by the real clock: nobody waits for interpreted kernels
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [name for name in SCENES if name != "resets"])
def test_streams_pass_through_the_kernel(outcomes: Any, name: str) -> None:
    assert outcomes[name]["whole"]
    stats = outcomes[name]["stats"]
    assert stats["aborted"] == stats["gave_up"] == 0
    # A segment that the rough wire delivers once more when all is over finds nobody, and is told so (RFC 9293 3.10.7.1).
    assert stats["resets_out"] <= (stats["dropped"]["no-listener"] if name.endswith("rough") else 0)
    for reason in ("tcp-checksum", "ip-checksum", "options", "length", "bad-ack", "out-of-window"):
        assert stats["dropped"][reason] == 0, f"{reason}: the kernel would not send that"


def test_refusals_and_resets(outcomes: Any) -> None:
    seen = {key: value for key, value in outcomes["resets"].items() if key != "stats"}
    assert seen == {
        "we refuse": "ECONNREFUSED", "we reset": "ECONNRESET", "kernel refuses": "ECONNREFUSED", "kernel resets": "ECONNRESET",
    }  # fmt: skip
