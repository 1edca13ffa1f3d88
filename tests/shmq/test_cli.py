"""The command shmq: what it lists, what it removes, what it says when something is wrong."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shmq import ByteFifo, Channel, Queue, Ring, Segment, SpinLock, _native
from shmq.cli import main
from tests.shmq.test_segment import dead_token, patch


def shmq(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def listed(name: str) -> dict | None:
    result = shmq("ls", "--json")
    assert result.exit_code == 0
    return next((entry for entry in json.loads(result.stdout) if entry["name"] == name), None)


@pytest.fixture
def orphan(name: str):
    """A ring whose creator is gone and which nobody has open."""
    with Ring.create(8, 32, name, persist=True) as ring, ring.producer() as tx:
        tx.push(bytes(32))
    patch(name, "owner_token", struct.pack("Q", dead_token()))
    yield name
    Path("/dev/shm", name).unlink(missing_ok=True)


def test_ls(name: str) -> None:
    with SpinLock.create(name):
        assert listed(name) == {
            "name": name, "kind": "spinlock", "abi": "1", "version": 1, "size": 136, "pid": os.getpid(),
            "token": _native.self_token(), "state": "live",
        }  # fmt: skip
        table = shmq("ls").stdout
        assert name in table
        assert "live" in table
    assert listed(name) is None


def test_ls_ignores_what_is_not_ours(name: str) -> None:
    path = Path("/dev/shm", name)
    for content in (b"", b"x" * 50, b"x" * 5000):
        path.write_bytes(content)
        try:
            assert listed(name) is None
        finally:
            path.unlink()


def test_gc(orphan: str) -> None:
    entry = listed(orphan)
    assert entry is not None
    assert entry["state"] == "orphan"
    assert f"would remove {orphan}" in shmq("gc", "--dry-run").stdout
    assert listed(orphan) is not None
    assert orphan in [entry["name"] for entry in json.loads(shmq("gc", "--json").stdout)]
    assert listed(orphan) is None
    assert orphan not in shmq("gc").stdout


def test_gc_says_what_it_removed(orphan: str) -> None:
    result = shmq("gc")
    assert result.exit_code == 0
    assert f"removed {orphan} (1280 bytes" in result.stdout


def test_stat_of_a_queue(name: str) -> None:
    with Queue(9, name=name) as queue:
        queue.put(bytes(300_000))
        queue.put(1)
        queue.get()
        values = json.loads(shmq("stat", name, "--json").stdout)
        expected = {"kind": "queue", "maxsize": 9, "puts": 2, "gets": 1, "used": 64, "spilled": 303_104}
        assert expected.items() <= values.items()


def test_stat_of_a_ring(orphan: str) -> None:
    values = json.loads(shmq("stat", orphan, "--json").stdout)
    expected = {"kind": "ring", "capacity": 8, "slot_size": 32, "pushes": 1, "pops": 0, "used": 1, "producer_pid": 0}
    assert values | expected == values
    assert "slot size" in shmq("stat", orphan).stdout


def test_stat_of_channels_and_byte_fifos(name: str) -> None:
    with Channel.create(256, name) as channel, channel.producer() as tx:
        tx.push(b"hello")
        values = json.loads(shmq("stat", name, "--json").stdout)
        expected = {"kind": "channel", "capacity": 256, "messages": 1, "used": 16, "producer_pid": os.getpid()}
        assert values | expected == values
    with ByteFifo.create(256, name) as fifo, fifo.writer() as tx:
        tx.write(b"hello")
        values = json.loads(shmq("stat", name, "--json").stdout)
        assert values | {"kind": "fifo", "capacity": 256, "used": 5, "writer_pid": os.getpid(), "reader_pid": 0} == values


def test_stat_of_another_kind(name: str) -> None:
    with Segment.create(10, "mine", "7", name):
        values = json.loads(shmq("stat", name, "--json").stdout)
        assert (values["kind"], values["abi"], "capacity" in values) == ("mine", "7", False)


def test_stat_of_nothing(name: str) -> None:
    result = shmq("stat", name)
    assert result.exit_code == 1
    assert "shmq ls" in result.stderr


def test_stat_of_a_broken_ring(orphan: str) -> None:
    offset = 128 + _native.layout()["ring"][1]["capacity"][0]
    with open(f"/dev/shm/{orphan}", "r+b") as file:
        file.seek(offset)
        file.write(struct.pack("Q", 7))
    result = shmq("stat", orphan, "--json")
    assert result.exit_code == 1
    assert "corrupt" in json.loads(result.stdout)["problem"]


def test_stat_of_another_version(orphan: str) -> None:
    patch(orphan, "version", struct.pack("I", 99))
    result = shmq("stat", orphan, "--json")
    assert result.exit_code == 1
    assert "another version" in json.loads(result.stdout)["problem"]
    assert orphan in [entry["name"] for entry in json.loads(shmq("gc", "--json").stdout)]


def test_runs_without_the_stack() -> None:
    script = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('stackcore', 'numba', 'numpy'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from shmq.cli import main; main(['ls', '--json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), list)
