"""Segments: life cycle, names, what attach believes, full memory, orphans."""

import fcntl
import mmap
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmq import CorruptSegment, Segment, _native
from shmq.segment import HEADER_BYTES, collect, list_segments
from tests.shmq.helpers import Child, Flag

Fork = Callable[[Callable[[], None]], Child]
FIELDS = _native.layout()["segment"][1]


def path(name: str) -> str:
    return os.path.join("/dev/shm", name)


def patch(name: str, field: str, value: bytes) -> None:
    """Overwrite a field of a named segment's header, as another version or a hostile process would."""
    offset, size = FIELDS[field]
    with open(path(name), "r+b") as file:
        file.seek(offset)
        file.write(value.ljust(size, b"\0"))


def dead_token() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid << 32 | 1


@pytest.fixture
def segment(name: str) -> Iterator[Segment]:
    with Segment.create(4096, "test", "1", name) as segment:
        yield segment


# ---- creating


def test_payload_is_zeroed_writable_and_shared(segment: Segment, name: str) -> None:
    assert segment.size == len(segment.buf) == 4096
    assert bytes(segment.buf) == bytes(4096)
    segment.buf[10] = 7
    with Segment.attach(name, "test", "1") as other:
        assert other.buf[10] == 7
        other.buf[11] = 8
    assert segment.buf[11] == 8


def test_address_points_at_the_header_and_payload_is_aligned(segment: Segment) -> None:
    assert segment.address % mmap.PAGESIZE == 0
    assert segment.payload_at == HEADER_BYTES == 128
    assert _native.segment_header(segment.mapping)["kind"] == "test"


def test_mode_is_0600_under_any_umask(name: str) -> None:
    old = os.umask(0o777)
    try:
        with Segment.create(1, "test", "1", name):
            assert os.stat(path(name)).st_mode & 0o777 == 0o600
    finally:
        os.umask(old)


def test_unnamed_segment_has_no_directory_entry() -> None:
    with Segment.create(10, "test", "1") as segment:
        assert segment.name is None
        assert os.fstat(segment.fd).st_nlink == 0


def test_is_a_block_of_multiprocessing_shared_memory(segment: Segment, name: str) -> None:
    script = (
        "import sys; from multiprocessing import resource_tracker\n"
        "resource_tracker.register = resource_tracker.unregister = lambda *a: None\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        f"block = SharedMemory({name!r}); block.buf[{HEADER_BYTES}] = 5; block.close()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert segment.buf[0] == 5


def test_no_resource_tracker_is_started() -> None:
    script = (
        "import shmq\n"
        "with shmq.Segment.create(10, 'k', 'a'): pass\n"
        "import sys; assert 'multiprocessing.resource_tracker' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("size", [0, -1])
def test_impossible_size(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1 byte"):
        Segment.create(size, "test", "1")


@pytest.mark.parametrize("bad", ["", "a/b", "../x", ".hidden", "-x", "a" * 201, "ä", "a\0b", "a b"])
def test_invalid_name(bad: str) -> None:
    with pytest.raises(ValueError, match="invalid segment name"):
        Segment.create(10, "test", "1", bad)
    with pytest.raises(ValueError, match="invalid segment name"):
        Segment.attach(bad, "test", "1")


@pytest.mark.parametrize(("kind", "abi"), [("k" * 24, "1"), ("k", "a" * 32)])
def test_too_long_kind_or_abi_leaves_nothing(kind: str, abi: str, name: str) -> None:
    with pytest.raises(ValueError, match="shorter than"):
        Segment.create(10, kind, abi, name)
    assert not os.path.exists(path(name))


def test_name_in_use(segment: Segment, name: str) -> None:
    with pytest.raises(FileExistsError, match="shmq gc") as caught:
        Segment.create(10, "test", "1", name)
    assert caught.value.filename == name
    assert segment.size == 4096


def test_name_taken_between_check_and_publish(segment: Segment, name: str) -> None:
    with Segment.create(10, "test", "1") as late:
        with pytest.raises(FileExistsError):
            late.publish(name)
        assert late.name is None


def test_name_appears_only_when_complete(name: str) -> None:
    with Segment.create(10, "test", "1") as segment:
        segment.buf[0] = 9
        segment.publish(name)
        assert segment.name == name
        with pytest.raises(ValueError, match="has a name already"):
            segment.publish(name + "b")
        with Segment.attach(name, "test", "1") as other:
            assert other.buf[0] == 9


@pytest.mark.parametrize("beyond", [1 << 12, 1 << 50, (1 << 63) - 4096])
def test_full_memory_is_a_readable_error_and_leaves_nothing(beyond: int, name: str) -> None:
    room = os.statvfs("/dev/shm")
    size = min(room.f_blocks * room.f_frsize + beyond, (1 << 63) - 4096)
    with pytest.raises(OSError, match="not enough shared memory"):
        Segment.create(size, "test", "1", name)
    assert not os.path.exists(path(name))


def test_memory_is_reserved_at_creation() -> None:
    with Segment.create(1 << 20, "test", "1") as segment:
        assert os.fstat(segment.fd).st_blocks * 512 >= 1 << 20


# ---- attaching


def test_missing_name(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="shmq ls"):
        Segment.attach(name, "test", "1")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("magic", b"\1shmqseh", "not a shmq segment"),
        ("magic", b"", "not a shmq segment"),
        ("version", struct.pack("I", 2), "another version"),
        ("version", struct.pack("I", 0), "another version"),
        ("owner_uid", struct.pack("I", os.geteuid() + 1), "another user"),
        ("size", struct.pack("Q", 4096), "truncated or resized"),
        ("size", struct.pack("Q", 1 << 63), "truncated or resized"),
        ("kind", b"other", "another kind"),
        ("kind", b"t" * 24, "another kind"),
        ("abi", b"2", "another build"),
        ("abi", b"1" * 32, "another build"),
    ],
)
def test_foreign_header(segment: Segment, name: str, field: str, value: bytes, reason: str) -> None:
    patch(name, field, value)
    with pytest.raises(CorruptSegment, match=reason):
        Segment.attach(name, "test", "1")
    with pytest.raises(CorruptSegment, match=reason):
        Segment.from_fd(segment.fd, "test", "1")


def test_every_flipped_byte_that_attach_relies_on_is_noticed(segment: Segment, name: str) -> None:
    for field in ("magic", "version", "owner_uid", "size", "kind", "abi"):
        offset, size = FIELDS[field]
        for at in range(offset, offset + size):
            header = memoryview(segment.mapping)
            text_end = field in ("kind", "abi") and at > offset + len(bytes(header[offset : offset + size]).rstrip(b"\0"))
            header[at] ^= 0x55
            if text_end:  # behind the terminating zero: padding that nobody reads
                Segment.attach(name, "test", "1").close()
            else:
                with pytest.raises(CorruptSegment):
                    Segment.attach(name, "test", "1")
            header[at] ^= 0x55
            header.release()
    Segment.attach(name, "test", "1").close()


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 100])
def test_truncated_file(segment: Segment, name: str, size: int) -> None:
    os.truncate(path(name), size)
    with pytest.raises(CorruptSegment):
        Segment.attach(name, "test", "1")


def test_something_else_of_that_name(name: str) -> None:
    os.mkfifo(path(name))
    try:
        with pytest.raises(CorruptSegment, match="not a shmq segment"):
            Segment.attach(name, "test", "1")
        assert list_segments() == [s for s in list_segments() if s.name != name]
    finally:
        os.unlink(path(name))


def test_symbolic_link_is_not_followed(segment: Segment, name: str) -> None:
    os.symlink(name, path(name + "link"))
    try:
        with pytest.raises(OSError):
            Segment.attach(name + "link", "test", "1")
    finally:
        os.unlink(path(name + "link"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_other_users_segment(segment: Segment, name: str) -> None:
    os.chown(path(name), 65534, 65534)
    with pytest.raises(PermissionError, match="another user"):
        Segment.attach(name, "test", "1")
    with pytest.raises(PermissionError, match="another user"):
        Segment.from_fd(segment.fd, "test", "1")
    assert name not in [info.name for info in list_segments()]
    os.chown(path(name), os.geteuid(), os.getegid())


def test_descriptor_over_a_socket() -> None:
    left, right = socket.socketpair()
    with left, right, Segment.create(10, "test", "1") as segment:
        socket.send_fds(left, [b"x"], [segment.fd])
        _, (fd,), _, _ = socket.recv_fds(right, 1, 1)
        try:
            with Segment.from_fd(fd, "test", "1") as other:
                other.buf[3] = 4
            assert segment.buf[3] == 4
            os.fstat(fd)  # still the caller's
        finally:
            os.close(fd)


# ---- closing


def test_close_is_refused_while_views_live(segment: Segment) -> None:
    view = segment.buf[5:6]
    with pytest.raises(BufferError, match="drop or close them first"):
        segment.close()
    segment.buf[5] = 1
    assert view[0] == 1
    view.release()
    segment.close()
    assert segment.closed
    segment.close()


def test_use_after_close() -> None:
    segment = Segment.create(10, "test", "1")
    segment.close()
    assert segment.fd == -1
    for use in (lambda: segment.buf, lambda: segment.address, lambda: memoryview(segment.mapping)):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_dropped_segment_unmaps_when_its_last_view_goes() -> None:
    view = Segment.create(10, "test", "1").buf
    view[0] = 1
    assert view[0] == 1


def test_creator_removes_the_name_on_close(name: str) -> None:
    with Segment.create(10, "test", "1", name):
        assert os.path.exists(path(name))
    assert not os.path.exists(path(name))


def test_attached_handle_does_not_remove_the_name(segment: Segment, name: str) -> None:
    Segment.attach(name, "test", "1").close()
    assert os.path.exists(path(name))


def test_forked_child_does_not_remove_the_name(segment: Segment, name: str, fork: Fork) -> None:
    fork(segment.close).join()
    assert os.path.exists(path(name))


def test_name_is_removed_at_exit_and_by_an_interrupt(name: str) -> None:
    for ending in ("pass", "raise KeyboardInterrupt", "sys.exit(3)"):
        script = f"import shmq, sys; s = shmq.Segment.create(10, 'k', 'a', {name!r}); {ending}"
        subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
        assert not os.path.exists(path(name))


def test_persist_leaves_the_name(name: str) -> None:
    Segment.create(10, "test", "1", name, persist=True).close()
    try:
        with Segment.attach(name, "test", "1") as other:
            assert other.size == 10
            other.unlink()
    finally:
        assert not os.path.exists(path(name))


def test_close_spares_a_successor_of_the_same_name(name: str) -> None:
    first = Segment.create(10, "test", "1", name)
    os.unlink(path(name))
    with Segment.create(20, "test", "1", name):
        first.close()
        with Segment.attach(name, "test", "1") as found:
            assert found.size == 20


def test_unlink_keeps_the_memory(segment: Segment, name: str) -> None:
    with Segment.attach(name, "test", "1") as other:
        segment.unlink()
        segment.unlink()
        assert segment.name is None
        other.buf[0] = 3
        assert segment.buf[0] == 3
    with pytest.raises(FileNotFoundError):
        Segment.attach(name, "test", "1")


# ---- orphans


def test_list_shows_a_live_segment(segment: Segment, name: str) -> None:
    (info,) = [info for info in list_segments() if info.name == name]
    assert (info.kind, info.abi, info.state, info.pid) == ("test", "1", "live", os.getpid())
    assert info.size == HEADER_BYTES + 4096


def test_gc_removes_what_a_killed_creator_left(name: str, fork: Fork, flag: Callable[[], Flag]) -> None:
    made = flag()

    def creator() -> None:
        segment = Segment.create(10, "test", "1", name)
        made.set()
        Flag().wait()
        segment.close()

    child = fork(creator)
    made.wait()
    assert name not in [info.name for info in collect()]
    child.kill()
    assert name in [info.name for info in collect(dry_run=True)]
    assert os.path.exists(path(name))
    assert name in [info.name for info in collect()]
    assert not os.path.exists(path(name))


def test_gc_spares_an_orphan_that_somebody_has_open(segment: Segment, name: str) -> None:
    patch(name, "owner_token", struct.pack("Q", dead_token()))
    (info,) = [info for info in list_segments() if info.name == name]
    assert info.state == "in use"
    assert name not in [info.name for info in collect()]


def test_gc_spares_foreign_pid_namespaces(name: str) -> None:
    Segment.create(10, "test", "1", name, persist=True).close()
    try:
        patch(name, "owner_token", struct.pack("Q", dead_token()))
        patch(name, "pidns", struct.pack("Q", 1))
        assert name not in [info.name for info in collect()]
        patch(name, "pidns", struct.pack("Q", _native.pidns()))
        assert name in [info.name for info in collect()]
    finally:
        assert not os.path.exists(path(name))


def test_attach_loses_against_gc_cleanly(segment: Segment, name: str) -> None:
    """gc removed the name after attach had opened the file."""
    fd = os.open(path(name), os.O_RDWR)
    segment.unlink()
    with pytest.raises(FileNotFoundError, match="just been removed"):
        Segment._adopt(fd, "test", "1", name)


def test_attach_reports_a_lock_that_is_never_given_up(segment: Segment, name: str, monkeypatch) -> None:
    monkeypatch.setattr("shmq.segment._LOCK_PATIENCE_S", 0.01)
    fcntl.flock(segment.fd, fcntl.LOCK_UN)
    fd = os.open(path(name), os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            Segment.attach(name, "test", "1")
    finally:
        os.close(fd)


def test_token_of_a_zombie_is_dead(fork: Fork) -> None:
    child = fork(lambda: None)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    start = int(Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    assert not _native.token_alive(child.pid << 32 | start & 0xFFFFFFFF)
    child.join()


def test_token_is_not_fooled_by_a_recycled_pid() -> None:
    token = _native.self_token()
    assert _native.token_alive(token)
    assert not _native.token_alive(token + 1)


@pytest.mark.parametrize("token", [0, 1, 0xFFFFFFFF << 32, 0x80000000 << 32 | 5])
def test_impossible_tokens_are_dead(token: int) -> None:
    assert not _native.token_alive(token)


def test_no_descriptor_left_does_not_declare_anybody_dead() -> None:
    script = (
        "import resource, os; from shmq import _native; token = _native.self_token()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "assert _native.token_alive(token)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_really_full_memory() -> None:
    """In a mount namespace with a /dev/shm of 1 MiB, filled by segments until the kernel says no."""
    script = (
        "import errno, os, shmq\n"
        "held = []\n"
        "try:\n"
        "    while True: held.append(shmq.Segment.create(100_000, 'k', 'a', f'full{len(held)}'))\n"
        "except OSError as error:\n"
        "    assert error.errno == errno.ENOSPC and 'not enough shared memory' in str(error), error\n"
        "assert 5 < len(held) < 11 and len(os.listdir('/dev/shm')) == len(held)\n"
        "for segment in held: segment.buf[-1] = 1\n"
        "held.pop().close()\n"
        "shmq.Segment.create(90_000, 'k', 'a').close()\n"
        "for segment in held: segment.close()\n"
        "assert os.listdir('/dev/shm') == []\n"
    )
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=1m none /dev/shm"
    if shutil.which("unshare") is None or subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip("this machine does not allow a mount namespace")
    subprocess.run([*unshare, f'{mount} && exec "$0" -c "$1"', sys.executable, script], check=True)
