"""The control socket's messages: attach, detach, start, stop, status, and what the core answers.

Unix SEQPACKET: one message is one datagram, and a closed socket is how the core learns of a death. A message is a
fixed header (magic, version, type, worker, body length) and a JSON object; file descriptors ride on ATTACHED
(SCM_RIGHTS). Nothing in a message is believed before its length, magic, version and worker were compared with what
the receiver knows.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
import struct
import tempfile
import time
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

HEADER = struct.Struct("<IHHiI")
MAGIC = 0x5343544C  # "SCTL"
VERSION = 1
MAX_BYTES = 64 * 1024
NO_WORKER = -1


class Type(IntEnum):
    """Message types. The first five are requests to the core."""

    ATTACH = 1
    DETACH = 2
    START = 3
    STOP = 4
    STATUS = 5
    ATTACHED = 16
    OK = 17
    ERROR = 18
    REPORT = 19
    DONE = 20


class ControlError(Exception):
    """A message that cannot be believed, or the core's refusal; the text is meant for people."""


class Message(NamedTuple):
    """One decoded message. ``worker`` is the sender's or addressee's index, or NO_WORKER."""

    type: Type
    worker: int
    body: dict[str, Any]


def encode(kind: Type, worker: int = NO_WORKER, body: dict[str, Any] | None = None) -> bytes:
    text = json.dumps(body or {}).encode()
    return HEADER.pack(MAGIC, VERSION, kind, worker, len(text)) + text


def decode(data: bytes) -> Message:
    """Raises ControlError with the reason when ``data`` is not exactly one well-formed message."""
    if len(data) < HEADER.size:
        raise ControlError(f"message too short: {len(data)} bytes, a header has {HEADER.size}")
    magic, version, kind, worker, length = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ControlError("not a stackcore message")
    if version != VERSION:
        raise ControlError(f"protocol version {version}, this side speaks {VERSION}: use one build for core and workers")
    if length != len(data) - HEADER.size:
        raise ControlError(f"message says {length} body bytes, has {len(data) - HEADER.size}")
    try:
        body = json.loads(data[HEADER.size :])
        decoded = Message(Type(kind), worker, body)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"malformed message: {error}") from None
    if not isinstance(body, dict):
        raise ControlError("message body is not an object")
    return decoded


Body = dict[str, Any]


def send(
    sock: socket.socket, kind: Type, worker: int = NO_WORKER, body: Body | None = None, fds: tuple[int, ...] = ()
) -> None:
    """One message, with file descriptors if given. BlockingIOError when a non-blocking socket's buffer is full."""
    data = encode(kind, worker, body)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights)


def receive(sock: socket.socket, max_fds: int = 0) -> tuple[Message, list[int]]:
    """One message and its file descriptors. ControlError on a bad one, EOFError when the other end is gone."""
    fds = array.array("i")
    data, ancillary, flags, _ = sock.recvmsg(MAX_BYTES, socket.CMSG_SPACE(max_fds * fds.itemsize) if max_fds else 0)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    try:
        if not data and not ancillary:
            raise EOFError("the other end closed the control socket")
        if flags & socket.MSG_TRUNC:
            raise ControlError(f"message longer than {MAX_BYTES} bytes")
        return decode(data), list(fds)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def request(
    sock: socket.socket, kind: Type, worker: int = NO_WORKER, body: Body | None = None, max_fds: int = 0
) -> tuple[Message, list[int]]:
    """Send and wait for the answer. ControlError with the core's words when it refuses."""
    send(sock, kind, worker, body)
    answer, fds = receive(sock, max_fds)
    if answer.type is Type.ERROR:
        raise ControlError(str(answer.body.get("message", "refused")))
    return answer, fds


def socket_path(name: str) -> Path:
    """Where the core ``name`` listens: in $XDG_RUNTIME_DIR, or in a private folder of the temporary one.

    ValueError for a name that is no plain file name or too long for a Unix socket.
    """
    if not name or "/" in name or name.startswith(".") or "\0" in name:
        raise ValueError(f"--name must be a plain file name, not {name!r}")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "stackcore" if runtime else Path(tempfile.gettempdir()) / f"stackcore-{os.geteuid()}"
    path = base / f"{name}.sock"
    if len(os.fsencode(path)) > 107:
        raise ValueError(f"--name {name!r} is too long: {path} does not fit a Unix socket address (107 bytes)")
    return path


def listen(path: Path) -> socket.socket:
    """A listening socket at ``path``, mode 0600 in a folder of mode 0700. A stale one is replaced.

    FileExistsError when a live core answers there, PermissionError when the folder is somebody else's.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    stat = path.parent.stat()
    if stat.st_uid != os.geteuid() or stat.st_mode & 0o077:
        raise PermissionError(f"{path.parent} must belong to you and have mode 0700")
    if path.exists():
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except (ConnectionRefusedError, FileNotFoundError):
                path.unlink(missing_ok=True)
            else:
                raise FileExistsError(f"a core named {path.stem} is running already: choose another --name, or stop it")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    old = os.umask(0o177)
    try:
        sock.bind(str(path))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(old)
    sock.listen(128)
    return sock


def connect(path: Path, timeout: float = 5.0) -> socket.socket:
    """A connection to the core at ``path``; ConnectionError with what to do when there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(timeout)
    deadline = time.monotonic() + timeout
    try:
        while not _connected(sock, path):
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "it does not take the connection")
            time.sleep(0.005)  # its backlog is full: the kernel offers no way to wait for a place in it
    except OSError as error:
        sock.close()
        raise ConnectionError(f"no core at {path} ({error.strerror}): is it running, and under this --name?") from error
    return sock


def _connected(sock: socket.socket, path: Path) -> bool:
    try:
        sock.connect(str(path))
    except BlockingIOError:
        return False
    return True


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the other end, as the kernel knows them."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid, gid
