"""Kernels: what is found in the cache was made for exactly this code, and interpreted they do the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stackcore.vcl.native  # noqa: F401  (the library is known to stackcore.kernel)
from stackcore import kernel, native

ROOT = Path(kernel.__file__).resolve().parent.parent

# Runs a few kernels of each kind and prints what they found.
SAMPLE = """
import json, sys
import numpy as np
from stackcore import kernel, native
from stackcore.abi import abi
from stackcore.histogram import bucket_of
from stackcore.session.accept import choose
from stackcore.session.state import WORKER
from workloads import docroot, http

lis, wrk = np.zeros(1, abi.LISTENER), np.zeros(5, WORKER)
lis[0]["listening"], wrk["state"] = 0b10111, abi.WORKER_ATTACHED
root = docroot.make(3, 0)
files, names, keep = http.load_files(root)
docroot.remove(root)
parsed = []
for text in (b"GET /1K HTTP/1.1\\r\\n\\r\\n", b"GET /none HTTP/1.1\\r\\n\\r\\n", b"GET /3 HTTP/1.0\\r\\n\\r\\n",
             b"PUT /1K HTTP/1.1\\r\\n\\r\\n", b"GET /3 HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n"):
    box = np.zeros(256, "u1")
    box[: len(text)] = np.frombuffer(text, "u1")
    parsed.append([int(http.find_end(box, 0, len(text)))] + [int(x) for x in http.parse(files, names, box, 0, len(text))])
print(json.dumps({
    "jit": kernel.JIT,
    "buckets": [int(bucket_of(n)) for n in (-1, 0, 63, 64, 1000, 123456789, 2**40 + 7, 2**62)],
    "accepts": [[int(choose(policy, lis, wrk, 0, key)) for key in range(0, 10**9, 10**8)] for policy in (0, 1)],
    "parsed": parsed,
    "statistics": kernel.cache_statistics() if kernel.JIT else None,
    "cold": kernel.is_cold(),
}))
"""
FOLDER = "from stackcore import native, kernel; print(kernel.cache_dir())"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | environment, timeout=170
    )


def sample(**environment: str) -> dict[str, object]:
    done = python(SAMPLE, **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


class TestSymbols:
    @pytest.mark.parametrize("declare", [kernel.c_function, kernel.extern])
    def test_a_missing_one_is_an_import_error(self, declare: object) -> None:
        with pytest.raises(ImportError, match="no function sc_x_no_such_thing: run make"):
            declare("sc_x_no_such_thing", 1)  # type: ignore[operator]

    def test_modules_of_two_builds_do_not_mix(self) -> None:
        with pytest.raises(ImportError, match="two builds"):
            kernel.library({}, native.BUILD_HASH[:-1] + "?")
        kernel.library({}, native.BUILD_HASH)  # and nothing has changed

    def test_a_kernel_before_the_library_is_an_import_error(self) -> None:
        done = python("from stackcore.kernel import kernel\n@kernel\ndef f(x):\n    return x\n")
        assert done.returncode == 1
        assert "ImportError: stackcore.native must be imported before" in done.stderr


@pytest.mark.slow
def test_interpreted_kernels_do_the_same_and_a_second_start_compiles_nothing(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    interpreted = sample(STACKCORE_JIT="0", XDG_CACHE_HOME=cache)
    first = sample(XDG_CACHE_HOME=cache)
    second = sample(XDG_CACHE_HOME=cache)
    assert [r["jit"] for r in (interpreted, first, second)] == [False, True, True]
    for name in ("buckets", "accepts", "parsed"):
        assert interpreted[name] == first[name] == second[name]
    _, misses = first["statistics"]  # type: ignore[misc]
    assert misses > 0
    hits, misses = second["statistics"]  # type: ignore[misc]
    assert misses == 0 and hits > 0
    assert second["cold"] is False


@pytest.mark.slow
def test_a_second_run_compiles_nothing(kernels: None) -> None:
    """All kernels of a run: the fixture has compiled or loaded them, so a new process finds every one."""
    done = python(
        "from stackcore import configuration, kernel\nfrom stackcore.warmup import warm_up\nfrom workloads import load\n"
        "for name in ('http', 'fanout'):\n"
        "    config = configuration.make(workload=name)\n    prepared = load(name).prepare(config)\n"
        "    warm_up(config, prepared)\n    prepared.close()\n"
        "print(*kernel.cache_statistics())"
    )
    assert done.returncode == 0, done.stderr
    hits, misses = map(int, done.stdout.split())
    assert misses == 0 and hits > 0
    assert done.stderr == ""


class TestCacheFolder:
    def test_it_is_private_and_named_after_everything(self, tmp_path: Path) -> None:
        done = python(FOLDER, XDG_CACHE_HOME=str(tmp_path))
        folder = Path(done.stdout.strip())
        assert folder.parent == tmp_path / "stackcore"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(folder.name) == 24 and set(folder.name) <= set("0123456789abcdef")
        assert python(FOLDER, XDG_CACHE_HOME=str(tmp_path)).stdout.strip() == str(folder)

    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
    def test_one_that_others_can_write_to_is_refused(self, tmp_path: Path, mode: int) -> None:
        folder = Path(python(FOLDER, XDG_CACHE_HOME=str(tmp_path)).stdout.strip())
        folder.chmod(mode)
        done = python(FOLDER, XDG_CACHE_HOME=str(tmp_path))
        assert done.returncode == 1
        assert "PermissionError" in done.stderr and "writable by you alone" in done.stderr

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
    def test_one_of_somebody_else_is_refused(self, tmp_path: Path) -> None:
        folder = Path(python(FOLDER, XDG_CACHE_HOME=str(tmp_path)).stdout.strip())
        os.chown(folder, 12345, -1)
        done = python(FOLDER, XDG_CACHE_HOME=str(tmp_path))
        assert done.returncode == 1
        assert "must belong to you" in done.stderr

    def test_a_changed_source_is_another_folder(self, tmp_path: Path) -> None:
        """Also a callee's, which numba's own cache would not see."""
        code = "import stackcore.kernel as k, sys\nk.add_plugin('plugin:A', sys.argv[1])\n"
        plugin = tmp_path / "plugin.py"
        names = set()
        for text in ("A = 1", "A = 2", "A = 1"):
            plugin.write_text(text)
            done = python(code.replace("sys.argv[1]", repr(str(plugin))) + FOLDER, XDG_CACHE_HOME=str(tmp_path))
            names.add(done.stdout.strip())
        assert len(names) == 2 and "" not in names

    def test_interpreted_runs_share_one(self, tmp_path: Path) -> None:
        for _ in range(2):
            done = python("import stackcore.session.accept", STACKCORE_JIT="0", XDG_CACHE_HOME=str(tmp_path))
            assert done.returncode == 0, done.stderr
        assert len(list((tmp_path / "stackcore").iterdir())) == 1


class TestCompose:
    def test_the_integer_chooses(self) -> None:
        chosen = kernel.compose("pick_one", [("operator", "add"), ("operator", "mul")], "a, b")
        plain = getattr(chosen, "py_func", chosen)
        assert [plain(0, 6, 7), plain(1, 6, 7), plain(2, 6, 7), plain(-1, 6, 7)] == [13, 42, -1, -1]
