"""A :class:`Host` on a tun device, and the Linux kernel's TCP on the other side of it.

``unshare -Urn python -m tests.tcp.linux_peer`` plays all scenes (or those named) in a network of its own, which needs no
privileges, and prints what came of each as JSON. The host is driven here, by the real clock; the sockets of the kernel by a
thread.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import select
import socket as std
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from stackcore.tcp import Host, HostConfig
from tests.tcp.pair import Pair, Talker

KERNEL, OURS, PORT = "10.9.0.1", "10.9.0.2", 7000
SIZE = 1_000_000
PATIENCE = 60.0
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
IFF_UP, IFF_RUNNING = 1, 0x40


def open_tun() -> int:
    """A tun device whose kernel end is KERNEL/24; what is written to the descriptor arrives there, and the other way round."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
    with std.socket(std.AF_INET, std.SOCK_DGRAM) as control:
        for request, address in ((SIOCSIFADDR, KERNEL), (SIOCSIFNETMASK, "255.255.255.0")):
            fcntl.ioctl(control, request, struct.pack("16sHH4s8x8x", b"tun0", std.AF_INET, 0, std.inet_aton(address)))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"tun0", IFF_UP | IFF_RUNNING))
    return tun


class Wire:
    """Between tun device and host; loses, doubles and delays a share of the packets in either direction."""

    def __init__(self, host: Host, tun: int, fault: float) -> None:
        self.host, self.tun, self.fault = host, tun, fault
        self.random = random.Random(1)
        self._late: dict[bool, deque[bytes]] = {True: deque(), False: deque()}

    def fates(self, packet: bytes, inward: bool) -> list[bytes]:
        """The packets that arrive instead of ``packet``."""
        late = self._late[inward]
        chance = self.random.random() / self.fault if self.fault else 9.0
        if chance < 1:
            return []
        if chance < 2:
            return [packet, packet]
        if chance < 3:
            late.append(packet)
            return []
        arrive = [packet, *late]  # the delayed ones are overtaken by one
        late.clear()
        return arrive

    def turn(self, timeout: float) -> None:
        """Everything that is there to do, or the next thing that comes."""
        now = time.monotonic()
        timer = self.host.next_timer()
        wait = timeout if timer is None else min(timeout, max(0.0, timer - now))
        if select.select([self.tun], [], [], wait)[0]:
            for _ in range(64):
                try:
                    packet = os.read(self.tun, 2048)
                except BlockingIOError:
                    break
                if packet[0] >> 4 == 4:  # the kernel also announces itself by IPv6
                    for arrived in self.fates(packet, True):
                        self.host.receive(arrived, time.monotonic())
        self.flush()

    def flush(self) -> None:
        for packet in self.host.transmit(time.monotonic()):
            for arrived in self.fates(packet, False):
                os.write(self.tun, arrived)


def echo(connection: std.socket) -> None:
    with connection:
        while part := connection.recv(65536):
            connection.sendall(part)


def send_and_collect(connection: std.socket, data: bytes) -> bytes:
    """Send all, then end; what the peer sends meanwhile and until its end."""

    def send() -> None:
        connection.sendall(data)
        connection.shutdown(std.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    sender.join()
    return b"".join(parts)


class Scene:
    """One host, one thread with kernel sockets, and their meeting."""

    def __init__(self, fault: float, **config: Any) -> None:
        self.host = Host(HostConfig(addr=OURS, fifo=1 << 17, **config), now=time.monotonic())
        self.tun = open_tun()
        self.wire = Wire(self.host, self.tun, fault)
        self.data = random.Random(2).randbytes(SIZE)
        self.failed: BaseException | None = None

    def meet(self, kernel_side: Callable[[], None], turn: Callable[[], bool]) -> None:
        """``kernel_side`` in a thread; here the wire, and ``turn`` until it says that it is through and the thread is."""

        def guarded() -> None:
            try:
                kernel_side()
            except BaseException as error:
                self.failed = error

        thread = threading.Thread(target=guarded, daemon=True)
        self.wire.flush()
        thread.start()
        stop = time.monotonic() + PATIENCE
        while not (turn() and not thread.is_alive()):
            self.wire.turn(0.02)
            assert time.monotonic() < stop and not self.failed, f"{self.failed!r}, {self.host.stats()}"
        if self.failed:
            raise self.failed

    def accept_from_kernel(self) -> dict[str, Any]:
        """The kernel connects, sends, and gets everything back."""
        listener = self.host.socket()
        listener.listen(PORT)
        accepted: list[Any] = []
        got: list[bytes] = []
        waiting: deque[bytes] = deque()

        def kernel_side() -> None:
            with std.create_connection((OURS, PORT)) as connection:
                got.append(send_and_collect(connection, self.data))

        def turn() -> bool:
            if not accepted and listener.poll():
                accepted.append(listener.accept()[0])
            if not accepted or accepted[0].state == "closed":
                return bool(accepted)
            server = accepted[0]
            try:
                while True:
                    if not waiting:
                        part = server.recv(65536)
                        if not part:
                            server.close()
                            return True
                        waiting.append(part)
                    part = waiting.popleft()
                    try:
                        sent = server.send(part)
                    except BlockingIOError:
                        sent = 0
                    if sent < len(part):
                        waiting.appendleft(part[sent:])
                        return False
            except BlockingIOError:
                return False

        self.meet(kernel_side, turn)
        return {"whole": got == [self.data]}

    def connect_to_kernel(self) -> dict[str, Any]:
        """The kernel listens and echoes."""
        server = std.create_server((KERNEL, PORT))
        client = self.host.socket()
        client.connect_ex((KERNEL, PORT))
        talker = Talker(client, self.data, [70_000], [65536])

        def kernel_side() -> None:
            echo(server.accept()[0])

        def turn() -> bool:
            if client.state == "connected":
                talker.pump()
            return talker.finished

        self.meet(kernel_side, turn)
        client.close()
        return {"whole": bytes(talker.got) == self.data}

    def resets(self) -> dict[str, Any]:
        """Each side refuses, and resets, the other."""
        outcome: dict[str, Any] = {}
        listener = self.host.socket()
        listener.listen(PORT)
        accepted: list[Any] = []

        def kernel_side() -> None:
            with std.socket() as refused:
                outcome["we refuse"] = errno.errorcode[refused.connect_ex((OURS, PORT + 1))]
            try:  # the reset may be here before connect has returned
                with std.create_connection((OURS, PORT)) as connection:
                    connection.recv(1)
            except OSError as error:
                outcome["we reset"] = errno.errorcode[error.errno or 0]
            with std.create_connection((OURS, PORT)) as connection:
                connection.setsockopt(std.SOL_SOCKET, std.SO_LINGER, struct.pack("ii", 1, 0))

        def turn() -> bool:
            while listener.poll():
                accepted.append(listener.accept()[0])
                if len(accepted) == 1:
                    accepted[0].abort()
            if len(accepted) < 2 or not accepted[1].poll() & select.POLLERR:
                return False
            outcome["kernel resets"] = errno.errorcode[accepted[1].getsockopt(std.SOL_SOCKET, std.SO_ERROR)]
            return True

        self.meet(kernel_side, turn)
        refused = self.host.socket()
        refused.connect_ex((KERNEL, PORT + 2))
        while not refused.poll():
            self.wire.turn(0.02)
        outcome["kernel refuses"] = errno.errorcode[refused.getsockopt(std.SOL_SOCKET, std.SO_ERROR)]
        return outcome


SCENES: dict[str, tuple[str, float, dict[str, Any]]] = {
    "accept": ("accept_from_kernel", 0.0, {}),
    "connect": ("connect_to_kernel", 0.0, {}),
    "accept-rough": ("accept_from_kernel", 0.01, {}),
    "connect-rough": ("connect_to_kernel", 0.01, {}),
    "connect-plain": ("connect_to_kernel", 0.0, {"sack": False, "timestamps": False, "wscale": None}),
    "connect-plain-rough": ("connect_to_kernel", 0.01, {"sack": False, "timestamps": False, "wscale": None, "cc": "newreno"}),
    "resets": ("resets", 0.0, {}),
}


def play(name: str) -> dict[str, Any]:
    method, fault, config = SCENES[name]
    scene = Scene(fault, **config)
    try:
        outcome: dict[str, Any] = getattr(scene, method)()
    finally:
        os.close(scene.tun)  # the device goes with it
    return outcome | {"stats": scene.host.stats()}


def compile_kernels() -> None:
    """Two hosts do what the scenes need, under a clock that waits for compilers."""
    pair = Pair()
    client, server = pair.connect()
    client.send(b"x")
    pair.drive(lambda: server.poll() & select.POLLIN)
    server.recv(1)
    server.shutdown(std.SHUT_WR)
    client.close()
    server.abort()
    pair.drive(pair.empty)


if __name__ == "__main__":
    compile_kernels()
    print(json.dumps({name: play(name) for name in sys.argv[1:] or SCENES}))
