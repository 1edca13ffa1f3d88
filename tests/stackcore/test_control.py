"""The control socket: what is believed, where it lies, and a real core that is attacked through it."""

import json
import os
import resource
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq import CorruptSegment
from shmq.segment import Segment
from stackcore import control, launch
from stackcore.abi import abi
from stackcore.abi.layout import Layout
from stackcore.app.worker import Modes, Worker
from stackcore.control import HEADER, MAGIC, NO_WORKER, VERSION, ControlError, Message, Type, decode, encode
from stackcore.core.client import ClientConfig
from stackcore.core.process import SEGMENT_KIND, CoreConfig, CoreProcess, segment_abi


class TestDecode:
    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_message_or_a_control_error(self, data: bytes) -> None:
        try:
            assert isinstance(decode(data), Message)
        except ControlError as error:
            assert str(error)

    @given(
        st.integers(0, 0xFFFF), st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-3, 3), st.binary(max_size=60),
        st.sampled_from([MAGIC, MAGIC, MAGIC, 1]), st.sampled_from([VERSION, VERSION, 2]),
    )  # fmt: skip
    def test_so_are_bytes_with_a_plausible_header(
        self, kind: int, worker: int, off: int, body: bytes, magic: int, version: int
    ) -> None:
        data = HEADER.pack(magic, version, kind, worker, max(0, len(body) + off)) + body
        try:
            message = decode(data)
        except ControlError:
            return
        assert (magic, version, message.worker) == (MAGIC, VERSION, worker)
        assert message.type == kind
        assert message.body == json.loads(body)

    @given(
        st.sampled_from(list(Type)), st.integers(-(1 << 31), (1 << 31) - 1),
        st.dictionaries(st.text(max_size=9), st.integers() | st.text(max_size=9) | st.booleans() | st.none()),
    )  # fmt: skip
    def test_what_is_encoded_is_decoded(self, kind: Type, worker: int, body: dict[str, Any]) -> None:
        assert decode(encode(kind, worker, body)) == (kind, worker, body)

    @pytest.mark.parametrize("cut", range(HEADER.size))
    def test_too_short(self, cut: int) -> None:
        with pytest.raises(ControlError, match="too short"):
            decode(encode(Type.STATUS)[:cut])

    def test_each_lie_has_its_sentence(self) -> None:
        good = encode(Type.STATUS)
        body = good[HEADER.size :]
        for data, words in [
            (good + b" ", "says 2 body bytes, has 3"),
            (good[:-1], "says 2 body bytes, has 1"),
            (HEADER.pack(1, VERSION, Type.STATUS, -1, 2) + body, "not a stackcore message"),
            (HEADER.pack(MAGIC, 9, Type.STATUS, -1, 2) + body, "version 9"),
            (HEADER.pack(MAGIC, VERSION, 999, -1, 2) + body, "malformed"),
            (HEADER.pack(MAGIC, VERSION, Type.STATUS, -1, 2) + b"[]", "not an object"),
            (HEADER.pack(MAGIC, VERSION, Type.STATUS, -1, 2) + b"\xff\xfe", "malformed"),
            (HEADER.pack(MAGIC, VERSION, Type.STATUS, -1, 2) + b"{]", "malformed"),
        ]:
            with pytest.raises(ControlError, match=words):
                decode(data)

    def test_a_body_nested_without_end_is_malformed(self) -> None:
        body = b"[" * 60_000
        with pytest.raises(ControlError, match="malformed"):
            decode(HEADER.pack(MAGIC, VERSION, Type.STATUS, -1, len(body)) + body)


class TestReceive:
    @pytest.fixture
    def pair(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with a, b:
            yield a, b

    def test_a_message_that_is_too_long(self, pair: tuple[socket.socket, socket.socket]) -> None:
        pair[0].send(bytes(control.MAX_BYTES + 1))
        with pytest.raises(ControlError, match="longer than"):
            control.receive(pair[1])

    def test_the_end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        pair[0].close()
        with pytest.raises(EOFError):
            control.receive(pair[1])

    def test_descriptors_of_a_bad_message_are_closed(self, pair: tuple[socket.socket, socket.socket]) -> None:
        before = os.listdir("/proc/self/fd")
        pair[0].sendmsg([b"bad"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 0))])
        with pytest.raises(ControlError):
            control.receive(pair[1], max_fds=1)
        assert len(os.listdir("/proc/self/fd")) == len(before)

    def test_a_refusal_is_an_error_with_the_cores_words(self, pair: tuple[socket.socket, socket.socket]) -> None:
        control.send(pair[0], Type.ERROR, body={"message": "no, because"})
        with pytest.raises(ControlError, match="no, because"):
            control.request(pair[1], Type.STATUS)


class TestPath:
    @pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/abs", "nul\0"])
    def test_a_name_is_a_plain_file_name(self, name: str) -> None:
        with pytest.raises(ValueError, match="plain file name"):
            control.socket_path(name)

    def test_a_name_that_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match="too long"):
            control.socket_path("x" * 108)

    def test_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/me")
        assert control.socket_path("a") == Path("/run/me/stackcore/a.sock")
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        assert control.socket_path("a").parent.name == f"stackcore-{os.geteuid()}"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    path.chmod(0o700)
    return path


class TestListen:
    def test_modes(self, folder: Path) -> None:
        path = folder / "sub" / "a.sock"
        with control.listen(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    def test_a_live_one_is_left_alone(self, folder: Path) -> None:
        with control.listen(folder / "a.sock"):
            with pytest.raises(FileExistsError, match="another --name"):
                control.listen(folder / "a.sock")
            control.connect(folder / "a.sock").close()

    def test_a_stale_one_is_replaced(self, folder: Path) -> None:
        control.listen(folder / "a.sock").close()
        assert (folder / "a.sock").exists()
        with control.listen(folder / "a.sock"):
            control.connect(folder / "a.sock").close()

    @pytest.mark.parametrize("mode", [0o777, 0o750, 0o701])
    def test_a_folder_open_to_others_is_refused(self, folder: Path, mode: int) -> None:
        folder.chmod(mode)
        with pytest.raises(PermissionError, match="0700"):
            control.listen(folder / "a.sock")
        assert list(folder.iterdir()) == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
    def test_a_folder_of_somebody_else_is_refused(self, folder: Path) -> None:
        os.chown(folder, 12345, -1)
        with pytest.raises(PermissionError, match="belong to you"):
            control.listen(folder / "a.sock")

    def test_nobody_there(self, folder: Path) -> None:
        with pytest.raises(ConnectionError, match="is it running"):
            control.connect(folder / "none.sock")


# ---- a real core under attack ----

WORKERS = 3


class Core:
    """A core process, and one worker that attached in good order before anything else happened."""

    def __init__(self, path: Path, before: Callable[[], None] = lambda: None) -> None:
        self.path = path
        layout = Layout(workers=WORKERS, sessions=8, ring_slots=16, fifo_size=256)
        config = CoreConfig(layout, path, ClientConfig(1, b"x", b"y"), wait="park")

        def body(ready: Callable[[], None]) -> None:
            before()
            core = CoreProcess(config)
            ready()
            core.run()

        self.process = launch.fork("the core", body)
        try:
            launch.wait_ready([self.process])
        except BaseException:
            launch.stop([self.process])
            raise

    def attach(self) -> Worker:
        return Worker.attach(self.path, Modes(wait="park"))

    def connect(self) -> socket.socket:
        return control.connect(self.path)

    def status(self) -> dict[str, Any]:
        """What the core reports, over a connection of its own."""
        with self.connect() as sock:
            return control.request(sock, Type.STATUS)[0].body

    def stop(self) -> None:
        launch.stop([self.process])


@pytest.fixture
def core(folder: Path, kernels: None) -> Iterator[Core]:
    started = Core(folder / "core.sock")
    yield started
    started.stop()
    assert started.process.exit_name == "0", "the core did not survive"
    assert not started.path.exists()


@pytest.fixture
def worker(core: Core) -> Iterator[Worker]:
    attached = core.attach()
    yield attached
    assert core.process.exit_status is None and not core.process.reap(), "the core is dead"
    fd = attached.vcl.listen(80)  # the worker that was there before is served as ever
    attached.vcl.close(fd)
    assert attached.request(Type.STATUS).type is Type.REPORT
    attached.close()


def refused(sock: socket.socket) -> str:
    """The core's words; it hangs up after them."""
    answer, _ = control.receive(sock)
    assert answer.type is Type.ERROR
    with pytest.raises((EOFError, ConnectionError)):
        control.receive(sock)
    return str(answer.body["message"])


ATTACKS: dict[str, tuple[bytes, str]] = {
    "short": (b"short", "too short"),
    "one byte": (b"\0", "too short"),
    "header cut": (encode(Type.ATTACH)[:15], "too short"),
    "foreign": (bytes(64), "not a stackcore message"),
    "version": (HEADER.pack(MAGIC, 2, Type.ATTACH, NO_WORKER, 2) + b"{}", "version 2"),
    "length": (HEADER.pack(MAGIC, VERSION, Type.ATTACH, NO_WORKER, 2000) + b"{}", "says 2000"),
    "garbage": (HEADER.pack(MAGIC, VERSION, Type.ATTACH, NO_WORKER, 7) + b'{"abi":', "malformed"),
    "not an object": (HEADER.pack(MAGIC, VERSION, Type.ATTACH, NO_WORKER, 2) + b"[]", "not an object"),
    "nested": (HEADER.pack(MAGIC, VERSION, Type.ATTACH, NO_WORKER, 60_000) + b"[" * 60_000, "malformed"),
    "unknown type": (HEADER.pack(MAGIC, VERSION, 77, NO_WORKER, 2) + b"{}", "malformed"),
    "an answer": (encode(Type.ATTACHED), "not a request"),
    "another worker": (encode(Type.STATUS, 0), "says 0"),
    "no such worker": (encode(Type.DETACH, 1000), "says 1000"),
    "negative worker": (encode(Type.DETACH, -7), "says -7"),
    "other build": (encode(Type.ATTACH, body={"abi": "1-somebody-elses"}), "install one build"),
    "no build": (encode(Type.ATTACH), "built differently"),
    "build of another kind": (encode(Type.ATTACH, body={"abi": [1, {"a": None}]}), "built differently"),
    "too long": (bytes(control.MAX_BYTES + 10), "longer than"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_bad_message_is_refused_and_the_others_are_served(core: Core, worker: Worker, attack: str) -> None:
    data, words = ATTACKS[attack]
    with core.connect() as sock:
        sock.send(data)
        assert words in refused(sock)
    assert core.status()["worker_deaths"] == 0


def test_an_answer_that_would_not_fit_does_no_harm(core: Core, worker: Worker) -> None:
    """The refusal quotes what it refuses; this body is written so that the quotation is five times as long."""
    body = json.dumps({"abi": ["@"]}).encode().replace(b"@", b"\x7f" * 60_000)
    with core.connect() as sock:
        sock.send(HEADER.pack(MAGIC, VERSION, Type.ATTACH, NO_WORKER, len(body)) + body)
        with pytest.raises((ControlError, EOFError, ConnectionError)):
            while True:
                if control.receive(sock)[0].type is Type.ERROR:
                    raise ControlError
    assert core.status()["worker_deaths"] == 0


def test_an_attached_worker_that_lies_about_its_index_is_cut_off_alone(core: Core, worker: Worker) -> None:
    liar = core.attach()
    assert liar.index != worker.index
    with pytest.raises(ControlError, match="the message says"):
        control.request(liar.sock, Type.DETACH, worker.index)
    liar.close()
    assert core.status()["worker_deaths"] == 1


def test_an_attached_worker_cannot_attach_again(core: Core, worker: Worker) -> None:
    other = core.attach()
    with pytest.raises(ControlError, match="attached already"):
        control.request(other.sock, Type.ATTACH, other.index, {"abi": segment_abi()})
    other.close()


def test_two_hundred_connections(core: Core, worker: Worker) -> None:
    crowd = []
    try:
        for _ in range(200):
            crowd.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            crowd[-1].connect(str(core.path))
        assert control.request(crowd[-1], Type.STATUS)[0].type is Type.REPORT
    finally:
        for sock in crowd:
            sock.close()
    assert core.status()["worker_deaths"] == 0


def test_more_connections_than_the_core_has_descriptors(folder: Path, kernels: None) -> None:
    core = Core(folder / "core.sock", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    crowd = []
    try:
        worker = core.attach()
        for _ in range(100):
            crowd.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK))
            crowd[-1].connect(str(core.path))
        for _ in range(200):  # each answer is at least one look at the listening socket, too
            assert worker.request(Type.STATUS).type is Type.REPORT
        for sock in crowd:
            sock.close()
        assert core.status()["worker_deaths"] == 0
        worker.close()
    finally:
        for sock in crowd:
            sock.close()
        core.stop()
    assert core.process.exit_name == "0"


def test_a_peer_that_never_reads(core: Core, worker: Worker) -> None:
    with core.connect() as deaf:
        deaf.setblocking(False)
        for _ in range(2000):
            try:
                control.send(deaf, Type.STATUS)
            except BlockingIOError:
                os.sched_yield()
        assert core.status()["worker_deaths"] == 0


def test_descriptors_sent_along_are_not_kept(core: Core, worker: Worker) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{core.process.pid}/fd"))

    with core.connect() as sock:
        control.request(sock, Type.STATUS)
        before = descriptors()
        for _ in range(5):
            control.send(sock, Type.STATUS, fds=(0, 1, 2))
            control.receive(sock)
        assert descriptors() == before


def test_more_workers_than_records(core: Core, worker: Worker) -> None:
    others = [core.attach() for _ in range(WORKERS - 1)]
    assert sorted(w.index for w in [worker, *others]) == list(range(WORKERS))
    with pytest.raises(ControlError, match="more --workers"):
        core.attach()
    others[0].close()
    again = core.attach()
    assert sorted(w.index for w in [worker, again, *others[1:]]) == list(range(WORKERS))
    again.close()
    for other in others[1:]:
        other.close()
    assert core.status()["worker_deaths"] == 0


def test_a_worker_that_dies_frees_its_record(core: Core, worker: Worker) -> None:
    for _ in range(WORKERS + 2):
        child = launch.fork("a worker", lambda ready: (core.attach(), ready(), os.kill(os.getpid(), 9))[0])
        while not child.reap():
            launch.await_exit(child, 5)
        launch.stop([child])
    deadline = time.monotonic() + 5
    while core.status()["worker_deaths"] < WORKERS + 2:
        assert time.monotonic() < deadline
    assert core.status()["worker_deaths"] == WORKERS + 2


def test_a_worker_with_a_corrupt_ring_is_cut_off_alone(core: Core, worker: Worker) -> None:
    broken = core.attach()
    at = broken.view().ring_at(broken.index, to_core=True) + abi.LINE
    from stackcore.kernel import c_function

    c_function("sc_x_store64", 2)(at, 1 << 40)
    deadline = time.monotonic() + 5
    while core.status()["worker_deaths"] == 0:
        assert time.monotonic() < deadline
    assert "ring corrupt" in refused(broken.sock)
    broken.close()
    replacement = core.attach()
    replacement.vcl.close(replacement.vcl.listen(81))
    replacement.close()


def test_another_user_is_refused(folder: Path, kernels: None) -> None:
    def pretend() -> None:
        control.peer_credentials = lambda sock: (os.getpid(), os.geteuid() + 1, 0)  # type: ignore[assignment]

    core = Core(folder / "core.sock", pretend)
    try:
        with core.connect() as sock:
            assert "serves uid" in refused(sock)
        with core.connect() as sock:
            assert "serves uid" in refused(sock)
    finally:
        core.stop()
    assert core.process.exit_name == "0"


def test_a_second_core_of_the_same_name_is_refused(core: Core, worker: Worker) -> None:
    with pytest.raises(launch.LaunchError, match="running already"):
        Core(core.path)


def test_a_segment_of_another_build_is_refused(core: Core, worker: Worker) -> None:
    with core.connect() as sock:
        _, fds = control.request(sock, Type.ATTACH, body={"abi": segment_abi()}, max_fds=2)
        try:
            with pytest.raises(CorruptSegment, match="made by another build"):
                Segment.from_fd(fds[0], SEGMENT_KIND, "1-another-build")
        finally:
            for fd in fds:
                os.close(fd)


def test_stop_ends_it_and_start_works_once(core: Core) -> None:
    with core.connect() as sock:
        assert control.request(sock, Type.START)[0].type is Type.OK
        with pytest.raises(ControlError, match="started already"):
            control.request(sock, Type.START)
    with core.connect() as sock:
        assert control.request(sock, Type.STOP)[0].type is Type.OK
    launch.await_exit(core.process, 5)
    assert core.process.reap()
