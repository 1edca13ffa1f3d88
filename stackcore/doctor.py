"""What a run needs of the machine, looked at one by one; each finding says what to do."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from stackcore import kernel


class Check(NamedTuple):
    """One finding. ``needed``: a run cannot work without it."""

    what: str
    ok: bool
    needed: bool
    finding: str


def examine() -> list[Check]:
    return [_compiler(), _shm(), _cpus(), _governor(), _cache(), _socket_folder(), _tap()]


def _compiler() -> Check:
    found = shutil.which("gcc") or shutil.which("cc")
    return Check("C compiler", bool(found), False, found or "none on PATH: needed to build from source (apt install gcc)")


def _shm() -> Check:
    try:
        with tempfile.TemporaryFile(dir="/dev/shm"):
            pass
        room = os.statvfs("/dev/shm")
    except OSError as error:
        return Check("/dev/shm", False, True, f"not writable ({error.strerror}): mount a tmpfs there")
    free = room.f_bavail * room.f_frsize
    return Check("/dev/shm", free >= 64 << 20, True, f"{free >> 20} MB free; a run takes about 40 MB (docker: --shm-size=1g)")


def _cpus() -> Check:
    n = len(os.sched_getaffinity(0))
    finding = f"{n} usable" + ("" if n >= 2 else ": core and worker share one CPU, rates say little")
    return Check("CPUs", n >= 2, False, finding)


def _governor() -> Check:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if not path.exists():
        return Check("CPU governor", True, False, "not visible (virtual machine?): expect drift, believe ratios only")
    name = path.read_text().strip()
    steady = name == "performance"
    return Check("CPU governor", steady, False, name if steady else f"{name}: `performance` measures steadier")


def _cache() -> Check:
    if not kernel.JIT:
        return Check("kernels", True, False, "interpreted (STACKCORE_JIT=0): for debugging, not for speed")
    import stackcore.native  # noqa: F401  (the key needs the native build)

    try:
        folder = kernel.cache_dir()
    except OSError as error:
        return Check("kernels", False, True, str(error))
    state = "not compiled yet: stackcore warmup does it" if kernel.is_cold() else "compiled"
    return Check("kernels", True, True, f"{state} ({folder})")


def _socket_folder() -> Check:
    from stackcore.control import socket_path

    folder = socket_path("doctor").parent
    base = folder if folder.exists() else folder.parent
    ok = os.access(base, os.W_OK)
    return Check("control sockets", ok, True, str(folder) if ok else f"{base} is not writable: set XDG_RUNTIME_DIR")


def _tap() -> Check:
    ok = os.access("/dev/net/tun", os.R_OK | os.W_OK)
    finding = "usable" if ok else "not usable: needed only for kernel clients over a TAP device (root)"
    return Check("/dev/net/tun", ok, False, finding)


def show(checks: list[Check]) -> None:
    table = Table("what", "", "finding")
    for check in checks:
        verdict = "[green]ok[/]" if check.ok else "[red]missing[/]" if check.needed else "[yellow]note[/]"
        table.add_row(check.what, verdict, check.finding)
    Console().print(table)
