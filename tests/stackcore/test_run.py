"""Real runs: a core, forked workers, clients that check every byte, and what is left when somebody dies."""

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stackcore
from stackcore import configuration, control
from stackcore.abi.layout import Layout
from stackcore.core.process import segment_abi
from stackcore.runner import table_capacity
from stackcore.session.switches import ACCEPT, RING_FULL
from stackcore.vcl import _vcl
from tests.stackcore.launched import Command, Ended, alive, executed, folder_of_runs, run, until

SHORT = ("--json", "--duration", "0.2", "--warmup", "0.05", "--clients", "16", "--ring", "64", "--sessions", "64")
ERRORS = ("stale", "lost", "duplicate", "misdelivered", "unserved", "corrupt")
SHAPE: dict[str, Any] = {
    "schema": int, "workload": str, "transport": str, "wire": str, "modes": dict, "seed": int, "workers": int, "app": str,
    "wall_s": float, "duration_s": float, "requests": int, "requests_per_s": float, "bytes_per_s": float,
    "latency_ns": {"p50": int, "p90": int, "p99": int, "p999": int, "max": int, "count": int, "open_loop": bool},
    "errors": dict.fromkeys(ERRORS, int),
    "events": {"ns_per_event": float, "bytes": int, "ring_high_water": int, "growth_copies": int},
    "locks": {"acquires": int, "wait_ns": int},
    "recovery": {
        "sent": int, "dropped": int, "strangers": int, "max_depth": int,
        "queue_ns": {"p50": int, "p99": int}, "close_to_free_ns": {"p50": int, "p99": int},
    },
    "core": {"cpu_s": float, "dispatches": int, "vectors_per_dispatch": float, "exit": str},
    "machine": dict,
}  # fmt: skip
WORKER_SHAPE = {
    "pid": int, "accepted": int, "requests": int, "cpu_s": float, "voluntary_switches": int, "involuntary_switches": int,
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Sockets and temporary files of the runs lie in a folder of this test, and are gone after it."""
    with folder_of_runs(tmp_path_factory.mktemp("r"), monkeypatch) as folder:
        yield folder


def check_shape(found: Any, shape: Any, where: str = "") -> None:
    if isinstance(shape, dict):
        assert set(shape) <= set(found), where
        for name, part in shape.items():
            check_shape(found[name], part, f"{where}.{name}")
    else:
        assert isinstance(found, shape) and not (shape is int and isinstance(found, bool)), where


def clean(ended: Ended) -> dict[str, Any]:
    """The result of a run in which nothing was wrong."""
    assert ended.err == ""
    assert ended.status == 0
    data = ended.json
    assert data["errors"] == dict.fromkeys(ERRORS, 0)
    assert data["requests"] > 0
    assert sum(w["requests"] for w in data["per_worker"]) >= data["requests"]
    assert sum(w["accepted"] for w in data["per_worker"]) >= min(data["settings"]["clients"], data["requests"])
    assert [w["exit"] for w in data["per_worker"]] == ["0"] * data["workers"]
    assert data["core"]["exit"] == "0" and data["core"]["worker_deaths"] == 0 and data["notes"] == []
    assert data["connections"]["invalid"] == data["connections"]["resets"] == data["connections"]["timeouts"] == 0
    return data


SERVING = [m for m in _vcl.listener_modes if m != "unlocked-shared"]
LOCKING = [m for m, (_, shared) in _vcl.listener_modes.items() if shared]
LISTENERS = [(m, lock) for m in SERVING for lock in (("spin-rw", "futex-rw") if m in LOCKING else ("spin-rw",))]
GRID = list(itertools.product(LISTENERS, _vcl.event_modes, (1, 2)))


@pytest.mark.parametrize(("listener", "events", "workers"), GRID, ids=lambda p: "-".join(p) if isinstance(p, tuple) else str(p))
def test_every_mode_serves(listener: tuple[str, str], events: str, workers: int) -> None:
    mode, lock = listener
    flags = ("--listener", mode, "--lock", lock, "--events", events, "--workers", str(workers))
    data = clean(run("run", "http", *SHORT, *flags))
    assert (data["modes"]["listener"], data["modes"]["lock"], data["modes"]["events"]) == (mode, lock, events)
    assert len(data["per_worker"]) == workers
    assert all(w["accepted"] > 0 for w in data["per_worker"])
    assert (data["locks"]["acquires"] > 0) == (mode in LOCKING)


def test_the_result_has_every_field_of_the_schema() -> None:
    data = clean(run("run", "http", *SHORT, "--workers", "2", "--seed", "7"))
    check_shape(data, SHAPE)
    for worker in data["per_worker"]:
        check_shape(worker, WORKER_SHAPE)
    assert data["schema"] == 1 and data["seed"] == 7 and data["workload"] == "http"
    assert data["duration_s"] == pytest.approx(0.2, abs=0.15)
    assert data["requests_per_s"] == pytest.approx(data["requests"] / data["duration_s"])
    latency = data["latency_ns"]
    assert latency["count"] == data["requests"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p999"]
    assert latency["p999"] <= latency["max"] * 33 / 32
    assert set(data["modes"]) >= {"listener", "lock", "events", "accept", "ring-full", "wait", "app", "trigger", "verify"}


def test_the_negative_control_gets_no_service() -> None:
    ended = run("run", "http", *SHORT, "--workers", "2", "--listener", "unlocked-shared")
    data = ended.json
    assert ended.status == 1
    assert [w["accepted"] for w in data["per_worker"]] == [0, 0]
    assert data["errors"] == dict.fromkeys(ERRORS, 0) | {"unserved": 16}
    assert data["requests"] == 0
    assert "wrong: 16 unserved" in ended.err


class TestFanout:
    FLAGS = ("--json", "--clients", "256", "--maxevents", "16", "--duration", "0.5", "--warmup", "0.05")

    def test_two_queue_goes_stale(self) -> None:
        ended = run("run", "fanout", *self.FLAGS, "--events", "two-queue")
        data = ended.json
        assert ended.status == 1
        assert data["errors"]["stale"] > 0
        assert [data["errors"][name] for name in ERRORS if name != "stale"] == [0] * 5
        assert "stale" in ended.err

    @pytest.mark.parametrize("events", ["bounded", "single-queue"])
    def test_the_others_do_not(self, events: str) -> None:
        data = clean(run("run", "fanout", *self.FLAGS, "--events", events))
        assert data["settings"]["ring"] == 128
        assert data["events"]["count"] >= data["requests"]
        assert (data["events"]["growth_copies"] > 0) == (events == "single-queue")
        assert data["events"]["ring_high_water"] > 16

    def test_in_python(self) -> None:
        clean(run("run", "fanout", *self.FLAGS, "--app", "python", "--workers", "2"))


FLAGS: dict[str, tuple[str, ...]] = {
    "0 bytes": ("--size", "0"),
    "1K": ("--size", "1K"),
    "100K": ("--size", "100K"),
    "1M": ("--size", "1M", "--clients", "4"),
    "an odd size": ("--size", "12345"),
    "1M through 256 bytes": ("--size", "1M", "--fifo", "256", "--clients", "2", "--duration", "0.3"),
    "one request per connection": ("--requests-per-connection", "1"),
    "seven requests per connection": ("--requests-per-connection", "7"),
    "one per connection, shared": ("--requests-per-connection", "1", "--listener", "shared-rwlock", "--workers", "2"),
    "one per connection, hash": ("--requests-per-connection", "1", "--accept", "hash", "--workers", "2"),
    "one per connection, python": ("--requests-per-connection", "1", "--app", "python"),
    "constant rate": ("--rate", "2000", "--schedule", "constant"),
    "poisson rate": ("--rate", "2000", "--schedule", "poisson"),
    "python": ("--app", "python"),
    "python, level": ("--app", "python", "--trigger", "level"),
    "python, 100K": ("--app", "python", "--size", "100K"),
    "level": ("--trigger", "level"),
    "level, 100K": ("--trigger", "level", "--size", "100K"),
    "level, one event": ("--trigger", "level", "--maxevents", "1"),
    "frame of 1": ("--frame", "1"),
    "length only": ("--verify", "length"),
    "app's own work": ("--work", "5000"),
    "not pinned": ("--pin", "none"),
    "spinning": ("--wait", "spin"),
    "parking": ("--wait", "park"),
    "four workers": ("--workers", "4"),
    "one event at a time": ("--maxevents", "1"),
    "full ring blocks": ("--ring-full", "block", "--ring", "2"),
    "full ring congests": ("--ring-full", "congest", "--ring", "2"),
    "full rings, two workers": ("--ring-full", "congest", "--ring", "2", "--workers", "2"),
    "table just large enough": ("--sessions", "16"),
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
def test_flags(flags: tuple[str, ...]) -> None:
    data = clean(run("run", "http", *SHORT, *flags))
    size = data["settings"]["size"]
    assert data["bytes_per_s"] * data["duration_s"] >= data["requests"] * size * 0.999
    if "--rate" in flags:
        assert data["latency_ns"]["open_loop"]
        assert data["requests_per_s"] < 3000
    if "--requests-per-connection" in flags:
        per = int(flags[1])
        assert data["connections"]["connects"] >= data["requests"] / per


def test_a_dropped_event_is_counted_and_the_run_says_so() -> None:
    flags = ("--ring-full", "drop", "--ring", "2", "--timeout", "0.1", "--work", "20000")
    ended = run("run", "http", *SHORT, *flags)
    data = ended.json
    assert data["events"]["dropped"] > 0
    assert data["errors"]["lost"] >= data["events"]["dropped"]
    assert ended.status == 1


def test_accept_policies_and_ring_full_policies_are_all_covered() -> None:
    """A choice that is added must be added to the runs above."""
    assert {c.name for c in ACCEPT} == {"hash", "round-robin"}
    assert {c.name for c in RING_FULL} == {"block", "drop", "congest"}


class TestDeaths:
    LONG = ("--json", "--duration", "30", "--clients", "16", "--sessions", "64", "--name", "doomed")

    def start(self, *flags: str) -> tuple[Command, list[int]]:
        """A run that serves, and the pids of its core and its two workers."""
        command = Command("run", "http", *self.LONG, "--workers", "2", *flags)
        children = until(lambda: (c := command.descendants()) and len(c) == 3 and c, "core and workers were not started")
        until(lambda: self.requests() > 0, "no request is answered")
        return command, children

    def requests(self) -> int:
        try:
            with control.connect(control.socket_path("doomed")) as sock:
                found: int = control.request(sock, control.Type.STATUS)[0].body["requests"]
                return found
        except ConnectionError:
            return 0

    def finish(self, command: Command) -> Ended:
        """End the run in good order: the core is asked to stop."""
        os.kill(command.descendants()[0], signal.SIGTERM)
        return command.wait()

    @pytest.mark.parametrize("listener", SERVING)
    def test_of_a_worker(self, listener: str) -> None:
        command = Command("run", "http", "--json", "--duration", "1", "--clients", "16", "--sessions", "64", "--workers", "2",
                          "--name", "doomed", "--listener", listener)  # fmt: skip
        children = until(lambda: (c := command.descendants()) and len(c) == 3 and c, "core and workers were not started")
        until(lambda: self.requests() > 0, "no request is answered")
        os.kill(children[1], signal.SIGKILL)
        ended = command.wait()
        data = ended.json
        assert ended.status == 1
        assert data["core"]["worker_deaths"] == 1 and data["core"]["exit"] == "0"
        assert [w["exit"] for w in data["per_worker"]] == ["SIGKILL", "0"]
        assert data["errors"]["corrupt"] == data["errors"]["misdelivered"] == data["errors"]["stale"] == 0
        assert data["errors"]["unserved"] == 0  # its clients were taken over by the other
        assert data["per_worker"][1]["requests"] > data["per_worker"][0]["requests"]
        assert "worker 0" in ended.err and "SIGKILL" in ended.err and "1 workers died" in ended.err

    def test_of_the_core(self) -> None:
        command, children = self.start()
        os.kill(children[0], signal.SIGKILL)
        ended = command.wait()
        data = ended.json
        assert ended.status == 1
        assert data["core"]["exit"] == "SIGKILL"
        assert data["wall_s"] < 20
        assert [w["exit"] for w in data["per_worker"]] == ["1", "1"]
        assert ended.err.count(os.strerror(100)) == 2  # ENETDOWN, each worker's own words
        assert not any(map(alive, children))

    def test_of_the_launcher(self) -> None:
        command, children = self.start()
        os.kill(command.pid, signal.SIGKILL)
        assert command.wait().status == -signal.SIGKILL
        until(lambda: not any(map(alive, children)), "core or workers outlive the launcher")

    def test_of_everybody(self, own_folders: Path) -> None:
        """kill -9 of all: only the socket's name is left, and the next core of that name replaces it."""
        command, children = self.start()
        for pid in (command.pid, *children):
            os.kill(pid, signal.SIGKILL)
        command.wait()
        until(lambda: not any(map(alive, children)), "a killed process runs")
        assert [p.name for p in own_folders.rglob("*.sock")] == ["doomed.sock"]
        clean(run("run", "http", *SHORT, "--name", "doomed"))

    def test_ctrl_c(self) -> None:
        command, children = self.start()
        command.interrupt()
        ended = command.wait()
        assert ended.status == 130
        assert ended.out == ""
        assert ended.err.strip() == "interrupted"
        assert not any(map(alive, children))

    def test_sigterm_of_the_core(self) -> None:
        command, children = self.start()
        ended = self.finish(command)
        assert ended.status == 1
        assert ended.json["core"]["exit"] == "0"
        assert not any(map(alive, children))

    def test_a_name_that_exists(self) -> None:
        command, children = self.start()
        second = run("run", "http", *SHORT, "--name", "doomed")
        assert second.status == 2
        assert "running already" in second.err and second.out == ""
        assert self.requests() > 0
        self.finish(command)

    def test_a_stranger_disturbs_nobody(self) -> None:
        command, children = self.start()
        with control.connect(control.socket_path("doomed")) as sock:
            sock.send(b"rubbish")
        before = self.requests()
        until(lambda: self.requests() > before, "the core stopped serving")
        self.finish(command)


class TestMemory:
    def test_four_workers_and_1024_sessions_fit_in_64_mb(self) -> None:
        for listener in _vcl.listener_modes:
            config = configuration.make(workers=4, sessions=1024, fifo="16K", listener=listener)
            app = _vcl.table_bytes(table_capacity(config))
            assert Layout(config.workers + 1, config.sessions, config.ring, config.fifo, app).size < 64 << 20

    def test_no_run_leaves_a_folder_behind(self, own_folders: Path) -> None:
        clean(run("run", "http", *SHORT))
        assert list(own_folders.glob("stackcore-docroot-*")) == []

    def test_too_little_shared_memory_is_one_sentence(self) -> None:
        ended = run("run", "http", "--sessions", str(1 << 22), "--fifo", "64M", "--json")
        assert ended.status == 2
        assert ended.out == ""
        assert "shared memory" in ended.err and "Traceback" not in ended.err


class TestProgram:
    """Through the interpreter's front door."""

    def test_json_is_all_there_is_on_standard_output(self) -> None:
        data = clean(executed("run", "http", *SHORT, "--workers", "2"))
        assert data["workers"] == 2

    def test_the_summary_is_for_people(self) -> None:
        ended = executed("run", "http", *[f for f in SHORT if f != "--json"])
        assert ended.status == 0 and ended.err == ""
        for word in ("requests/s", "latency", "errors", "events", "core", "accepted"):
            assert word in ended.out

    def test_without_compiler(self) -> None:
        data = clean(executed("run", "http", *SHORT, "--clients", "2", "--duration", "0.3", "--timeout", "5", STACKCORE_JIT="0"))
        assert data["app"] == "compiled"

    def test_from_python(self) -> None:
        result = stackcore.run("http", duration=0.2, warmup=0.05, clients=4, size="2K", requests_per_connection=3)
        assert result.ok, result.problems
        assert result.data["settings"]["size"] == 2048

    def test_from_python_every_setting(self) -> None:
        result = stackcore.run("http", duration=0.1, warmup=0.01, clients=2, work_ns=1000, ring_full="block", seed=3)
        assert result.ok, result.problems
        assert result.data["settings"]["work_ns"] == 1000


class TestOtherCommands:
    def test_modes(self) -> None:
        table = run("modes", "--json").json
        assert set(table) >= {"listener", "events", "lock", "accept", "ring-full", "wait", "app", "trigger", "workload"}
        assert set(table["listener"]["choices"]) == set(_vcl.listener_modes)
        assert set(table["events"]["choices"]) == set(_vcl.event_modes)
        for switch in table.values():
            assert switch["doc"] and switch["default"] in switch["choices"]
            assert all(switch["choices"].values())
        text = run("modes").out
        for name in table["listener"]["choices"]:
            assert name in text

    def test_doctor(self) -> None:
        import json

        ended = run("doctor", "--json")
        checks = json.loads(ended.out)
        assert {"what", "ok", "needed", "finding"} == set(checks[0])
        assert {"/dev/shm", "CPUs", "kernels", "control sockets"} <= {check["what"] for check in checks}
        assert ended.status == (0 if all(c["ok"] for c in checks if c["needed"]) else 2)
        assert "/dev/shm" in run("doctor").out

    def test_help(self) -> None:
        ended = run("run", "--help")
        assert ended.status == 0
        for flag in ("--workers", "--listener", "--events", "--json", "--ring-full", "--work ", "--seed", "--name"):
            assert flag in ended.out
        assert "Examples" in ended.out
        assert run("--help").status == 0
        assert run("--version").out.startswith("stackcore")

    def test_warmup(self) -> None:
        ended = run("warmup")
        assert ended.status == 0
        assert "kernels ready" in ended.out


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "listener": (("--listener", "duplicate"), "did you mean duplicated?"),
    "events": (("--events", "nonsense"), "single-queue"),
    "workers 0": (("--workers", "0"), "--workers must be 1..61"),
    "workers 62": (("--workers", "62"), "--workers must be 1..61"),
    "workers x": (("--workers", "two"), "not a valid integer"),
    "frame 0": (("--frame", "0"), "--frame must be 1..256"),
    "frame 257": (("--frame", "257"), "--frame must be 1..256"),
    "size": (("--size", "big"), "no size"),
    "negative size": (("--size", "-1"), "no size"),
    "ring": (("--ring", "100"), "power of two"),
    "fifo": (("--fifo", "128"), "power of two"),
    "sessions": (("--sessions", "3"), "--sessions must be"),
    "name": (("--name", "a/b"), "plain file name"),
    "flag": (("--nonsense",), "--nonsense"),
}


@pytest.mark.parametrize(("flags", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_sentence(flags: tuple[str, ...], words: str) -> None:
    ended = run("run", "http", *flags)
    assert ended.status == 2
    assert words in ended.err
    assert ended.out == "" and "Traceback" not in ended.err


def test_an_unknown_workload_lists_the_choices() -> None:
    ended = run("run", "htp")
    assert ended.status == 2
    assert "did you mean http?" in ended.err and "fanout" in ended.err


def test_an_unknown_command() -> None:
    ended = run("serve-coffee")
    assert ended.status == 2
    assert "serve-coffee" in ended.err


def test_the_segments_abi_names_the_build() -> None:
    assert segment_abi().count("-") >= 1
