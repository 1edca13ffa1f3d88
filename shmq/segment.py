"""Shared-memory segments with a life cycle that survives crashes.

Promise. A segment is a POSIX shared-memory block, the same thing as `multiprocessing.shared_memory` makes (a file in
/dev/shm, mode 0600), with a header that says what it is. An unnamed one never has a directory entry: it is reached by
fork or by passing its file descriptor, and is gone with the last process, however that ends. A named one appears
complete or not at all, because the name is linked after the header is written; it is removed when its creator closes
it or exits, and what kill -9 leaves behind `shmq gc` finds and removes. Memory is reserved at creation: a full
/dev/shm is an OSError there, never a SIGBUS later.

How. `O_TMPFILE` and `linkat` instead of `shm_open`; `posix_fallocate`. No resource tracker is involved in any Python
version (3.11 and 3.12 would start one, and it unlinks segments under live processes: CPython issue 82300). Every open
handle keeps a shared `flock` on the file, so the kernel knows whether anybody still uses it.

Doubt. A creator in another pid namespace cannot be judged dead; `gc` leaves its segments alone. The file locks of a
container's processes are seen by the host's kernel all the same.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from shmq import _native, handover
from shmq.errors import CorruptSegment

__all__ = ["Segment", "SegmentInfo", "collect", "list_segments"]

SHM_DIR = "/dev/shm"
HEADER_BYTES: int = _native.layout()["segment"][0]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
# gc holds its exclusive lock for microseconds; an attach that finds it held longer reports that instead of hanging.
_LOCK_PATIENCE_S = 1.0


def _path(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"invalid segment name {name!r}: use 1 to 200 letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    return os.path.join(SHM_DIR, name)


def _allocate(size: int) -> int:
    """Return the descriptor of a new unnamed file of `size` bytes, all of them backed by memory."""
    try:
        fd = os.open(SHM_DIR, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OSError(error.errno, f"cannot make shared memory in {SHM_DIR}, is a tmpfs mounted there?") from error
    try:
        os.fchmod(fd, 0o600)  # whatever the umask took away
        room = os.fstatvfs(fd)
        free = room.f_bavail * room.f_frsize
        if room.f_blocks and size > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        os.close(fd)
        if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
            raise
        raise OSError(
            error.errno,
            f"not enough shared memory for {size} bytes, {SHM_DIR} has {free} free: ask for less, remove what "
            f"`shmq ls` shows, or enlarge {SHM_DIR} (docker: --shm-size)",
        ) from error
    return fd


def _hold(fd: int) -> None:
    """Take the shared file lock that says "in use"; it goes with the last copy of this descriptor."""
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def _remove(path: str, inode: int, creator: int) -> None:
    """Remove the name, if this is its creator and it still means the same file. A forked child does nothing."""
    if os.getpid() != creator:
        return
    try:
        if os.stat(path, follow_symlinks=False).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        pass


class Segment:
    """A mapped segment: a header of 128 bytes, then the payload.

    Made by `create`, `attach` or `from_fd`. Works across fork: parent and child each have their own handle on the
    same memory. A handle may be used from several threads; `close` must not race with other calls. As a context
    manager it closes itself.
    """

    _GROWS = False  # True in subclasses whose file may be longer than what is mapped of it

    def __init__(self, mapping: _native.Mapping, name: str | None) -> None:
        self._mapping = mapping
        self._name = name
        self._buf = memoryview(mapping)[HEADER_BYTES:]
        self._finalizer: weakref.finalize | None = None

    @classmethod
    def create(cls, size: int, kind: str, abi: str, name: str | None = None, *, persist: bool = False) -> Self:
        """Make a segment with `size` zeroed payload bytes.

        kind (< 24 ASCII bytes) and abi (< 32) are compared by `attach`. With a name other processes can attach by it
        until this handle is closed or this process exits; `persist=True` leaves the name behind on purpose.
        Raises FileExistsError when the name is in use, ValueError for a bad size, name, kind or abi, and OSError when
        /dev/shm has not enough room; nothing is left behind then.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1 byte, not {size}")
        if name is not None and os.path.lexists(_path(name)):
            raise _exists(name)
        fd = _allocate(HEADER_BYTES + size)
        try:
            _hold(fd)
            mapping = _native.Mapping(fd, HEADER_BYTES + size)
        except BaseException:
            os.close(fd)
            raise
        segment = cls(mapping, None)
        try:
            _native.segment_init(mapping, kind, abi)
            if name is not None:
                segment.publish(name, persist=persist)
        except BaseException:
            segment.close()
            raise
        return segment

    @classmethod
    def attach(cls, name: str, kind: str, abi: str) -> Self:
        """Map the named segment after checking that it is this user's, of this version, kind and abi.

        Raises FileNotFoundError, PermissionError (another user's) or CorruptSegment (anything else unexpected).
        """
        path = _path(name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise FileNotFoundError(
                errno.ENOENT, "no shared segment of this name, `shmq ls` shows which there are", name
            ) from None
        except PermissionError:
            raise PermissionError(errno.EACCES, "the shared segment belongs to another user", name) from None
        return cls._adopt(fd, kind, abi, name)

    @classmethod
    def from_fd(cls, fd: int, kind: str, abi: str) -> Self:
        """Map the segment behind a descriptor, for example one received over a socket. `fd` stays the caller's."""
        return cls._adopt(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0), kind, abi, None)

    @classmethod
    def _adopt(cls, fd: int, kind: str, abi: str, name: str | None) -> Self:
        what = f"segment {name!r}" if name is not None else "segment"
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size <= HEADER_BYTES:
                raise CorruptSegment(f"{what}: not a shmq segment")
            if status.st_uid != os.geteuid():
                raise PermissionError(errno.EACCES, "the shared segment belongs to another user", name)
            _hold(fd)
            if name is not None and os.fstat(fd).st_nlink == 0:
                raise FileNotFoundError(errno.ENOENT, "the shared segment has just been removed", name)
            mapping = _native.Mapping(fd, cls._mapped_size(fd, status.st_size))
        except BaseException:
            os.close(fd)
            raise
        segment = cls(mapping, name)
        reason = _native.segment_check(mapping, kind, abi)
        if reason is not None:
            segment.close()
            raise CorruptSegment(f"{what}: {reason}")
        return segment

    @classmethod
    def _mapped_size(cls, fd: int, file_size: int) -> int:
        """Return how much of the file to map: all of it, or what the header says when the rest is not for mapping."""
        header = _native.segment_header(os.pread(fd, HEADER_BYTES, 0)) if cls._GROWS else None
        if header is None or not HEADER_BYTES < header["size"] < file_size:
            return file_size
        return header["size"]

    def publish(self, name: str, *, persist: bool = False) -> None:
        """Give an unnamed segment its name, after the payload has been laid out. FileExistsError when it is in use."""
        if self._name is not None:
            raise ValueError(f"the segment has a name already: {self._name!r}")
        path = _path(name)
        folder = os.open(SHM_DIR, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A folder descriptor makes os.link call linkat, which follows the link in /proc to the unnamed file.
            os.link(f"/proc/self/fd/{self.fd}", name, dst_dir_fd=folder, follow_symlinks=True)
        except FileExistsError:
            raise _exists(name) from None
        finally:
            os.close(folder)
        self._name = name
        if not persist:
            inode = os.fstat(self.fd).st_ino
            self._finalizer = weakref.finalize(self, _remove, path, inode, os.getpid())

    @property
    def buf(self) -> memoryview:
        """The payload, writable, one byte per item."""
        if self._mapping.closed:
            raise ValueError("the segment is closed")
        return self._buf

    @property
    def address(self) -> int:
        """Address of the mapping's first byte (the header) in this process."""
        return self._mapping.address

    @property
    def payload_at(self) -> int:
        """Offset of the payload from `address`, in bytes; the payload is 128-byte aligned."""
        return HEADER_BYTES

    @property
    def size(self) -> int:
        """Payload bytes."""
        return self._mapping.size - HEADER_BYTES

    @property
    def fd(self) -> int:
        """The file descriptor, not inherited by exec; -1 once closed. Send it to processes that shall attach."""
        return self._mapping.fd

    @property
    def name(self) -> str | None:
        """The name in /dev/shm, None for an unnamed or unlinked segment."""
        return self._name

    @property
    def mapping(self) -> _native.Mapping:
        """The buffer of the whole segment, header included, for native handles."""
        return self._mapping

    @property
    def closed(self) -> bool:
        """True once closed."""
        return self._mapping.closed

    def unlink(self) -> None:
        """Remove the name; processes that have attached keep the memory. Nothing happens without a name."""
        if self._name is None:
            return
        _remove(_path(self._name), os.fstat(self.fd).st_ino, os.getpid())
        self._name = None
        if self._finalizer is not None:
            self._finalizer.detach()

    def close(self) -> None:
        """Drop the own views, unmap, and remove the name if this process made it. A second call does nothing.

        Raises BufferError while other views are alive (slices of `buf`, arrays, ring or lock handles): the segment
        stays open then.
        """
        if self._mapping.closed:
            return
        self._buf.release()
        try:
            self._mapping.close()
        except BufferError:
            self._buf = memoryview(self._mapping)[HEADER_BYTES:]
            raise
        if self._finalizer is not None:
            self._finalizer()

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process, see `shmq.handover`; the receiver's handle is one that attached."""
        if self.closed:
            raise ValueError("the segment is closed")
        header = _native.segment_header(self._mapping)
        if header is None:
            raise CorruptSegment("the segment's header was overwritten")
        return _receive, (type(self), handover.pack(self, [self.fd]), header["kind"], header["abi"], self._name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.size} bytes"
        return f"<Segment {self._name or 'unnamed'}, {state}>"


def _receive(cls: type[Segment], packed: tuple[Any, ...], kind: str, abi: str, name: str | None) -> Segment:
    """Make the handle of a pickled segment in the receiving process."""
    segment = cls._adopt(handover.unpack(packed)[0], kind, abi, None)
    segment._name = name  # for attach; whether it still exists is no matter here
    return segment


def _exists(name: str) -> FileExistsError:
    return FileExistsError(
        errno.EEXIST,
        "a shared segment of this name exists: attach to it, choose another name, or remove it with `shmq gc` if its "
        "creator is dead",
        name,
    )


@dataclass(frozen=True)
class SegmentInfo:
    """What the header and the kernel say about one named segment."""

    name: str
    kind: str
    abi: str
    version: int
    size: int  # bytes of the whole segment
    pid: int  # of the creator, in its own pid namespace
    token: int
    state: str  # "live", "in use" (creator gone, others have it open), "orphan", "foreign" (pid namespace)


def _inspect(fd: int, name: str) -> SegmentInfo | None:
    header = _native.segment_header(os.pread(fd, HEADER_BYTES, 0))
    if header is None:
        return None
    if header["pidns"] != _native.pidns():
        state = "foreign"
    elif _native.token_alive(header["token"]):
        state = "live"
    else:
        state = "in use" if _locked(fd) else "orphan"
    token = header["token"]
    return SegmentInfo(name, header["kind"], header["abi"], header["version"], os.fstat(fd).st_size, token >> 32,
                       token, state)  # fmt: skip


def _locked(fd: int) -> bool:
    """True when another process has the segment open. Otherwise this descriptor holds the exclusive lock now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _each_segment() -> Iterator[tuple[int, SegmentInfo]]:
    """Yield (descriptor, info) of every named segment of this user; the descriptor is closed after each step."""
    for name in sorted(os.listdir(SHM_DIR)):
        try:
            fd = os.open(
                os.path.join(SHM_DIR, name), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
            )
        except OSError:  # a folder, a link, another user's, or gone since
            continue
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                info = _inspect(fd, name)
                if info is not None:
                    yield fd, info
        finally:
            os.close(fd)


def list_segments() -> list[SegmentInfo]:
    """Return all named shmq segments of this user, by name."""
    return [info for _, info in _each_segment()]


def collect(*, dry_run: bool = False) -> list[SegmentInfo]:
    """Remove the orphans: named segments whose creator is dead and which nobody has open. Return what they were."""
    removed = []
    for fd, info in _each_segment():
        if info.state != "orphan":
            continue
        if not dry_run:
            _remove(os.path.join(SHM_DIR, info.name), os.fstat(fd).st_ino, os.getpid())
        removed.append(info)
    return removed
