"""The build's helpers: what is installed, what identifies a build, and what a machine lacks in one sentence."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "build-aux"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def preflight(python: str, compiler: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", str(FOLDER / "preflight.sh"), python, compiler], capture_output=True, text=True)


def program(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_complete_machine_is_passed_in_silence():
    outcome = preflight(sys.executable, "true")
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")


def test_what_is_missing_is_one_sentence(tmp_path):
    no_header = program(
        tmp_path, "noheader", f'case "$2" in *Python.h*) echo /no/Python.h;; *) exec {sys.executable} "$@";; esac'
    )
    no_venv = program(tmp_path, "novenv", f'case "$2" in *venv*) exit 1;; *) exec {sys.executable} "$@";; esac')
    old = program(tmp_path, "old", "exit 1")
    for outcome, complaint in [
        (preflight(sys.executable, "no-such-compiler"), "no C compiler 'no-such-compiler'"),
        (preflight("no-such-python", "true"), "no Python 3.11 or newer was found"),
        (preflight(old, "true"), "older than Python 3.11"),
        (preflight(no_venv, "true"), "has no venv module"),
        (preflight(no_header, "true"), "the Python header /no/Python.h is missing"),
    ]:
        assert outcome.returncode == 1
        assert complaint in outcome.stderr
        assert len(outcome.stderr.splitlines()) == 1


def test_build_products_and_results_are_not_installed(tmp_path):
    for name in ("a/b.py", "a/__pycache__/b.py", "a/c.so", "a/latest/d.py", "a/build_hash.h", "a/x.h", "a/py.typed"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert load("list_sources").list_sources(tmp_path, (".py", ".h", "py.typed"), ["a"]) == ["a/b.py", "a/py.typed", "a/x.h"]


def test_the_build_hash_follows_names_and_content_but_not_the_folder(tmp_path):
    build_hash = load("build_hash").build_hash
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "a.c").write_text("int a;")
        (folder / "b.c").write_text("int b;")
    names = ("a.c", "b.c")
    original = build_hash([here / name for name in names])
    assert build_hash([there / name for name in reversed(names)]) == original
    (there / "b.c").write_text("int c;")
    assert build_hash([there / name for name in names]) != original
    (here / "b.c").rename(here / "c.c")
    assert build_hash([here / "a.c", here / "c.c"]) != original


def test_an_unchanged_build_hash_is_not_rewritten(tmp_path):
    source, header = tmp_path / "a.c", tmp_path / "build_hash.h"
    source.write_text("int a;")
    command = [sys.executable, str(FOLDER / "build_hash.py"), str(header), str(source)]
    subprocess.run(command, check=True)
    written = header.stat().st_mtime_ns
    assert '#define SHMQ_BUILD_HASH "' in header.read_text()
    subprocess.run(command, check=True)
    assert header.stat().st_mtime_ns == written


def test_requirements_come_from_pyproject_and_an_unknown_extra_is_an_error():
    requirements = load("requirements").requirements
    wanted = requirements(["test"])
    assert any(line.startswith("meson-python") for line in wanted)
    assert any(line.startswith("numba") for line in wanted)
    assert any(line.startswith("pytest") for line in wanted)
    with pytest.raises(KeyError):
        requirements(["nope"])
