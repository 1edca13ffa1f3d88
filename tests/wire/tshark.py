"""What Wireshark's command line says against a capture, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

WARNING = 0x600000
"""PI_WARN of Wireshark's expert information; errors are above."""


def installed() -> bool:
    return shutil.which("tshark") is not None


def complaints(path: Path) -> list[str]:
    """Frames that are malformed, have a wrong checksum, or that its experts warn of: number, protocol, what is wrong."""
    command = [
        "tshark", "-n", "-r", str(path), "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE",
        "-Y", f"_ws.malformed || _ws.expert.severity >= {WARNING}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def frames(path: Path, field: str) -> list[str]:
    """One field of every frame."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-e", field]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.splitlines()
