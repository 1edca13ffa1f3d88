"""Importing shmq: what it pulls in, what it says when it was not built, what it exports."""

import doctest
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import shmq
from shmq import _native

ROOT = Path(__file__).resolve().parents[2]


def test_import_is_light() -> None:
    script = "import sys, shmq; print(*sys.modules)"
    modules = set(subprocess.check_output([sys.executable, "-c", script], text=True).split())
    heavy = {"numpy", "numba", "stackcore", "multiprocessing", "asyncio", "ctypes", "rich", "click", "socket"}
    assert not heavy & modules


def test_unbuilt_checkout_says_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "shmq", tmp_path / "shmq", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    done = subprocess.run([sys.executable, "-c", "import shmq"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.rstrip().splitlines()[-1] == (
        "ImportError: the compiled part of shmq is missing: run `make` in the checkout, or leave the source folder to use "
        "the installed package"
    )


def test_a_library_that_cannot_be_loaded_speaks_for_itself(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "shmq", tmp_path / "shmq", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "shmq" / Path(_native.__file__).name).write_bytes(b"no library")
    done = subprocess.run([sys.executable, "-c", "import shmq"], cwd=tmp_path, capture_output=True, text=True)
    assert "file too short" in done.stderr or "invalid ELF header" in done.stderr


def test_everything_public_is_documented() -> None:
    for name in shmq.__all__:
        thing = getattr(shmq, name)
        assert thing.__doc__, name
        for member in vars(thing):
            if not member.startswith("_"):
                assert getattr(thing, member).__doc__, f"{name}.{member}"


@pytest.mark.parametrize("module", ["shmq.ring", "shmq.channel", "shmq.fifo", "shmq.event", "shmq.lock"])
def test_examples_in_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_two_interpreters_of_one_process() -> None:
    """Multi-phase initialisation: each interpreter has a module of its own."""
    module, create = "_xxsubinterpreters", "create()"
    if sys.version_info >= (3, 13):
        module, create = "_interpreters", "create('legacy')"
    script = (
        f"import {module} as interpreters, shmq\n"
        f"i = interpreters.{create}\n"
        "interpreters.run_string(i, 'import shmq; r = shmq.Ring.create(4, 8); p = r.producer(); p.push(bytes(8))')\n"
        "interpreters.destroy(i)\n"
        "with shmq.Ring.create(4, 8) as ring, ring.producer() as tx: tx.push(bytes(8))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_build_hash_identifies_the_build() -> None:
    assert len(_native.build_hash) == 16
    int(_native.build_hash, 16)
