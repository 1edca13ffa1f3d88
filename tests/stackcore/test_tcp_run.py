"""Real runs over TCP: core, workers and client host are processes, packets cross shared memory, and somebody dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dpkt
import pytest

from stackcore import configuration, control
from stackcore.warmup import warm_up
from tests.stackcore.launched import Command, Ended, alive, executed, folder_of_runs, run, until
from tests.stackcore.simulated import simulated
from tests.wire import tshark
from workloads import load

TCP = ("--json", "--transport", "tcp", "--wire", "shm", "--ring", "256", "--sessions", "64")
SHORT = (*TCP, "--duration", "0.3", "--warmup", "0.05", "--clients", "16", "--timeout", "10")
CALM = ("--unread", "0", "--abort", "0")
ERRORS = ("stale", "lost", "duplicate", "misdelivered", "unserved", "corrupt")
SERVER = bytes([10, 0, 0, 1])
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def tcp_kernels(kernels: None) -> None:
    """What a run over TCP needs beyond the null transport's is compiled before the first process is forked."""
    for workload in ("http", "fanout", "transfer"):
        config = configuration.make(workload=workload, transport="tcp")
        prepared = load(workload).prepare(config)
        warm_up(config, prepared, lambda text: None)
        prepared.close()
        simulated(workload, clients=1, size=100, duration=0.01)


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Sockets and temporary files of the runs lie in a folder of this test, and are gone after it; captures stay."""
    with folder_of_runs(tmp_path_factory.mktemp("t"), monkeypatch, kept=".pcap") as folder:
        yield folder


def captured(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [dpkt.ip.IP(frame) for _, frame in dpkt.pcap.Reader(file)]


def clean(ended: Ended) -> dict[str, Any]:
    """The result of a run in which nothing was wrong."""
    assert ended.err == ""
    assert ended.status == 0
    data = ended.json
    assert data["errors"] == dict.fromkeys(ERRORS, 0)
    assert data["requests"] > 0 and data["notes"] == []
    assert (data["transport"], data["wire"]) == ("tcp", "shm")
    assert sum(w["requests"] for w in data["per_worker"]) >= data["requests"]
    assert [p["exit"] for p in (*data["per_worker"], data["core"], data["client"])] == ["0"] * (data["workers"] + 2)
    assert data["core"]["worker_deaths"] == data["connections"]["invalid"] == 0
    assert data["recovery"]["crashes"] == data["recovery"]["strangers"] == 0
    return data


# ---- clean runs ----


def test_http() -> None:
    data = clean(run("run", "http", *SHORT, "--workers", "2"))
    assert all(w["accepted"] > 0 for w in data["per_worker"])
    assert sum(w["accepted"] for w in data["per_worker"]) == data["tcp"]["opened_passive"] == data["connections"]["connects"]
    assert data["latency_ns"]["count"] == data["requests"]
    assert data["tcp"]["bytes_out"] >= data["requests"] * data["settings"]["size"]
    assert data["recovery"]["retransmits"] == data["connections"]["resets"] == 0  # nothing is lost on this wire


def test_the_result_says_what_happened_to_tcp() -> None:
    data = clean(
        run("run", "transfer", *TCP, "--clients", "4", "--size", "20K", "--loss", "0.05", "--unread", "0", "--abort", "0")
    )
    assert {"sent", "dropped", "strangers", "max_depth", "queue_ns", "close_to_free_ns"} <= set(data["recovery"])
    assert {"p50", "p99"} == set(data["recovery"]["queue_ns"]) == set(data["recovery"]["close_to_free_ns"])
    assert {"segments_in", "segments_out", "bytes_out", "opened_passive", "dropped"} <= set(data["tcp"])
    assert {"pid", "cpu_s", "voluntary_switches", "exit"} <= set(data["client"])
    assert set(data["core"]["nodes"]) >= {"tcp-time", "tcp-input", "tcp-output"}
    assert data["modes"]["recovery"] == "state-aware" and data["settings"]["loss"] == 0.05
    assert 0 < data["recovery"]["close_to_free_ns"]["p50"] <= data["recovery"]["close_to_free_ns"]["p99"]


FLAGS: dict[str, tuple[str, ...]] = {
    "one request per connection": ("--requests-per-connection", "1"),
    "shared-rwlock": ("--listener", "shared-rwlock", "--workers", "2"),
    "one per connection, shared": ("--requests-per-connection", "1", "--listener", "shared-rwlock", "--workers", "2"),
    "100K": ("--size", "100K"),
    "0 bytes, frame of 1": ("--size", "0", "--frame", "1"),
    "small packets": ("--mtu", "300", "--size", "10K"),
    "python": ("--app", "python"),
    "open loop": ("--rate", "1000"),
    "parking": ("--wait", "park"),
    "nagle": ("--nagle", "on"),
    "level": ("--trigger", "level"),
    "delayed, jittered, reordered": ("--delay", "1ms", "--jitter", "100us", "--reorder", "0.01", "--duplicate", "0.01"),
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_flags(flags: tuple[str, ...]) -> None:
    data = clean(run("run", "http", *SHORT, *flags))
    assert data["bytes_per_s"] * data["duration_s"] >= data["requests"] * data["settings"]["size"] * 0.999
    if "--requests-per-connection" in flags:
        assert data["connections"]["connects"] >= data["requests"] > 16
        assert data["tcp"]["closed"] > 0


def test_the_negative_control_gets_no_service() -> None:
    ended = run("run", "http", *SHORT, "--workers", "2", "--listener", "unlocked-shared")
    data = ended.json
    assert ended.status == 1 and "16 unserved" in ended.err
    assert [w["accepted"] for w in data["per_worker"]] == [0, 0]
    assert data["errors"] == dict.fromkeys(ERRORS, 0) | {"unserved": 16}
    assert data["requests"] == 0


def test_fanout() -> None:
    flags = ("--clients", "64", "--maxevents", "8", "--duration", "0.3", "--warmup", "0.05", "--timeout", "10")
    data = clean(run("run", "fanout", *TCP, *flags, "--events", "bounded"))
    assert data["events"]["count"] >= data["requests"]


# ---- transfers, and D1 ----

PROVOKED = (*TCP, "--clients", "20", "--size", "100K", "--loss", "0.01", "--unread", "0.2", "--abort", "0.2", "--timeout", "3")


@pytest.mark.parametrize("recovery", ["state-aware", "generation", "purge", "flag"])
def test_transfers_complete(recovery: str) -> None:
    data = run("run", "transfer", *PROVOKED, "--recovery", recovery).json
    assert data["transfers"]["completed"] == data["requests"] == 20
    assert data["transfers"]["cut_by_abort"] == 4 and data["transfers"]["refetched"] >= 4
    assert data["errors"] == dict.fromkeys(ERRORS, 0)
    assert data["recovery"]["crashes"] == 0 and data["core"]["exit"] == "0"
    assert data["recovery"]["strangers"] == 0 or recovery == "state-aware"
    assert data["recovery"]["retransmits"] > 0


def test_unchecked_dies_of_it() -> None:
    """A real core has no trap: an access to a freed connection ends it, or a stranger is served. The run says which; what the
    workers have to say is that the network is down, and nobody hangs."""
    flags = ("--clients", "300", "--size", "200K", "--loss", "0.03", "--delay", "5ms", "--unread", "0.7", "--abort", "0.3")
    more = ("--budget", "1", "--timeout", "2", "--limit", "6", "--recovery", "unchecked")
    for seed in range(4):  # by far most runs crash: what is freed under a real clock is chance
        ended = run("run", "transfer", "--json", "--wire", "shm", *flags, *more, "--seed", str(seed))
        data = ended.json
        assert ended.status == 1 and data["recovery"]["freed_queued"] > 0  # the counters outlive the core
        if data["core"]["exit"] != "0":
            break
    else:
        assert data["recovery"]["strangers"] > 0 and "stranger" in ended.err
        return
    assert data["core"]["exit"] == "SIGSEGV" and "the core ended with SIGSEGV" in ended.err
    assert [w["exit"] for w in data["per_worker"]] == ["1"] and os.strerror(100) in ended.err  # ENETDOWN, its own words
    assert data["wall_s"] < 30


# ---- deaths ----


class TestDeaths:
    """``children``: the core, the workers, the client host, in the order in which they were started."""

    LONG = (*TCP, "--duration", "30", "--clients", "16", "--name", "doomed", "--workers", "2", "--timeout", "10")

    def start(self, *flags: str) -> tuple[Command, list[int]]:
        command = Command("run", "http", *self.LONG, *flags)
        children = until(lambda: (c := command.descendants()) and len(c) == 4 and c, "not all processes were started")
        until(lambda: self.delivered() > 0, "no request is answered")
        return command, children

    def delivered(self) -> int:
        """Events that the workers were told of, which the core knows."""
        try:
            with control.connect(control.socket_path("doomed")) as sock:
                body = control.request(sock, control.Type.STATUS)[0].body
                return int(body.get("connects", 0))
        except (ConnectionError, EOFError):
            return 0

    def test_of_a_worker(self) -> None:
        command, children = self.start("--duration", "1")
        os.kill(children[1], signal.SIGKILL)
        ended = command.wait()
        data = ended.json
        assert ended.status == 1
        assert data["core"]["worker_deaths"] == 1 and data["core"]["exit"] == data["client"]["exit"] == "0"
        assert [w["exit"] for w in data["per_worker"]] == ["SIGKILL", "0"]
        assert data["errors"]["corrupt"] == data["errors"]["misdelivered"] == data["errors"]["stale"] == 0
        assert "worker 0" in ended.err and "SIGKILL" in ended.err and "1 workers died" in ended.err
        assert data["per_worker"][1]["accepted"] > 8  # the clients of the other came to it

    def test_of_the_core(self) -> None:
        command, children = self.start()
        os.kill(children[0], signal.SIGKILL)
        ended = command.wait()
        data = ended.json
        assert ended.status == 1
        assert data["core"]["exit"] == "SIGKILL" and "the core ended with SIGKILL" in ended.err
        assert [w["exit"] for w in data["per_worker"]] == ["1", "1"]
        assert ended.err.count(os.strerror(100)) == 2  # ENETDOWN
        assert data["wall_s"] < 25 and not any(map(alive, children))

    def test_of_the_client_host(self) -> None:
        command, children = self.start()
        os.kill(children[3], signal.SIGKILL)
        ended = command.wait()
        assert ended.status != 0
        assert "the client host ended with SIGKILL" in ended.err and "Traceback" not in ended.err
        assert not any(map(alive, children))

    def test_of_the_launcher(self) -> None:
        command, children = self.start()
        os.kill(command.pid, signal.SIGKILL)
        assert command.wait().status == -signal.SIGKILL
        until(lambda: not any(map(alive, children)), "a process outlives the launcher")

    def test_ctrl_c(self) -> None:
        command, children = self.start()
        command.interrupt()
        ended = command.wait()
        assert ended.status == 130
        assert ended.out == "" and ended.err.strip() == "interrupted"
        assert not any(map(alive, children))

    def test_ctrl_c_under_the_simulator(self, own_folder: Path) -> None:
        capture = own_folder / "endless.pcap"
        command = Command("run", "http", "--wire", "sim", "--duration", "86400", "--json", "--pcap", str(capture))
        until(lambda: capture.exists() and capture.stat().st_size > 100_000, "the simulation does not begin")
        command.interrupt()
        ended = command.wait()
        assert ended.status == 130 and ended.out == "" and ended.err.strip() == "interrupted"


# ---- captures ----


@pytest.mark.parametrize("wire", ["shm", "sim"])
def test_a_capture(wire: str, own_folder: Path) -> None:
    path = own_folder / "run.pcap"
    flags = ("--wire", wire, "--json", "--clients", "4", "--size", "30K", "--loss", "0.02", "--pcap", str(path), "--timeout", "3")
    data = run("run", "transfer", *flags, "--unread", "0.25", "--abort", "0.25").json
    assert data["transfers"]["completed"] == 4
    packets = captured(path)
    assert sum(p.src == SERVER for p in packets) == data["tcp"]["segments_out"]
    assert sum(len(p.tcp.data) for p in packets if p.src == SERVER) >= 4 * 30 * 1024


@pytest.mark.parametrize("wire", ["shm", "sim"])
@pytest.mark.skipif(not tshark.installed(), reason="tshark is not installed")
def test_a_capture_raises_no_eyebrows(wire: str, own_folder: Path) -> None:
    """Of a workload that speaks what its port promises. A run's end resets what is still open, which is worth a warning to
    Wireshark whatever the reason."""
    path = own_folder / "run.pcap"
    flags = ("--wire", wire, "--json", "--clients", "4", "--duration", "0.1", "--requests-per-connection", "3", "--rate", "500")
    assert run("run", "http", *flags, "--size", "5000", "--pcap", str(path)).status == 0
    assert len(tshark.frames(path, "frame.number")) == len(captured(path)) > 100
    assert [line for line in tshark.complaints(path) if "[RST" not in line] == []


# ---- impossible settings ----

BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "wire without TCP": (("--transport", "null", "--wire", "shm"), "leave --transport null out"),
    "sim without TCP": (("--transport", "null", "--wire", "sim"), "leave --transport null out"),
    "a shared listener in one process": (("--wire", "sim", "--listener", "shared-rwlock"), "only --listener duplicated"),
    "loss without packets": (("--loss", "0.01"), "--loss is about packets: add --transport tcp"),
    "delay without packets": (("--delay", "10ms"), "--delay is about packets"),
    "capture without packets": (("--pcap", "x.pcap"), "--pcap is about packets"),
    "a time that is none": (("--wire", "sim", "--delay", "soon"), "'soon' is no time"),
    "a time without a unit that there is": (("--wire", "sim", "--jitter", "1h"), "'1h' is no time"),
    "too late": (("--wire", "sim", "--delay", "2000s"), "--delay must be"),
    "more than all is lost": (("--wire", "sim", "--loss", "1.5"), "--loss must be 0..0.9"),
    "a wire that there is not": (("--wire", "string"), "shm"),
    "recovery": (("--transport", "tcp", "--recovery", "state-awar"), "did you mean state-aware?"),
    "policy": (("--transport", "tcp", "--retransmit-policy", "lifo"), "fifo"),
    "congestion control": (("--transport", "tcp", "--cc", "reno"), "newreno"),
    "budget": (("--transport", "tcp", "--budget", "0"), "--budget must be 1..256"),
    "mtu": (("--transport", "tcp", "--mtu", "100"), "--mtu must be 128..65535"),
    "first timeout": (("--transport", "tcp", "--rto-init", "0.01"), "--rto-init must be 0.2..60"),
    "plug-in without a name": (("--transport", "tcp", "--plugin", "half.py"), "--plugin:"),
    "plug-in that is not there": (("--transport", "tcp", "--plugin", "nowhere.such:X"), "--plugin:"),
    "plug-in of another kind": (("--transport", "tcp", "--plugin", "os:getpid"), "--plugin:"),
}


@pytest.mark.parametrize(("flags", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_sentence(flags: tuple[str, ...], words: str) -> None:
    ended = run("run", "http", *flags)
    assert ended.status == 2
    assert words in ended.err
    assert ended.out == "" and "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--wire", "sim", "--unread", "0.6", "--abort", "0.5"), "together at most 1"),
        (("--transport", "null"), "transfer is about TCP"),
        (("--wire", "sim", "--size", "0"), "at least one byte"),
    ],
)
def test_impossible_transfers(flags: tuple[str, ...], words: str) -> None:
    ended = run("run", "transfer", *flags)
    assert ended.status == 2 and words in ended.err and ended.out == "" and "Traceback" not in ended.err


def test_a_capture_that_cannot_be_written() -> None:
    ended = run("run", "http", "--wire", "sim", "--duration", "0.1", "--pcap", "/nonexistent/x.pcap")
    assert ended.status == 2 and "/nonexistent/x.pcap" in ended.err and "Traceback" not in ended.err


# ---- plug-ins ----


def test_somebody_elses_congestion_control(tmp_path: Path) -> None:
    """Loaded from a module or from a file, and it behaves as itself: another run than that of a built-in one."""
    (tmp_path / "mine.py").write_text((ROOT / "examples/stackcore/half.py").read_text())
    flags = ("run", "transfer", "--wire", "sim", "--json", "--clients", "3", "--size", "60K", "--loss", "0.05", "--seed", "3")
    found = []
    for plugin in ("examples.stackcore.half:HALF", f"{tmp_path / 'mine.py'}:HALF"):
        ended = executed(*flags, "--plugin", plugin, "--cc", "half", STACKCORE_JIT="0")
        assert ended.status == 0, ended.err
        assert ended.json["modes"]["cc"] == "half" and ended.json["transfers"]["completed"] == 3
        assert ended.json["tcp"]["fast_recoveries"] > 0
        found.append(ended.json["duration_s"])
    newreno = executed(*flags, "--cc", "newreno", STACKCORE_JIT="0")
    assert newreno.status == 0, newreno.err
    assert found[0] == found[1] != newreno.json["duration_s"]
