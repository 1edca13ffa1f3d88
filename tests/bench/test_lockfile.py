"""One benchmark at a time on one machine."""

import os
import signal
import subprocess
import sys

import pytest

from bench.lockfile import Busy, lock_path, machine_lock


def test_a_second_holder_is_refused_and_told_who_holds_it(tmp_path):
    path = tmp_path / "lock"
    with machine_lock(path), pytest.raises(Busy, match=rf"process {os.getpid()} of user .*since 20"), machine_lock(path):
        pass
    with machine_lock(path):
        pass


def test_a_killed_holder_leaves_the_lock_free(tmp_path):
    path = tmp_path / "lock"
    program = f"import bench.lockfile, pathlib, sys\nwith bench.lockfile.machine_lock(pathlib.Path({str(path)!r})):\n"
    program += "    print('held', flush=True)\n    sys.stdin.read()\n"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=f"process {holder.pid} "), machine_lock(path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with machine_lock(path):
            pass


def test_a_damaged_lock_file_still_locks(tmp_path):
    path = tmp_path / "lock"
    path.write_text("not json")
    with machine_lock(path):
        path.write_text("not json")
        with pytest.raises(Busy, match="left no name"), machine_lock(path):
            pass


def test_a_link_put_in_its_place_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(OSError), machine_lock(tmp_path / "lock"):
        pass
    assert victim.read_text() == "precious"


def test_the_lock_is_one_for_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert lock_path().parent == tmp_path
