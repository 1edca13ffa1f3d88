"""A whole TCP host without any I/O: packets in, packets out, a clock that somebody else reads, and sockets.

The host never waits, starts nothing and asks nobody for the time. Whoever drives it hands it each packet that arrived
(:meth:`Host.receive`), takes what is to be sent (:meth:`Host.transmit`), and comes back at :meth:`Host.next_timer` at the
latest. Tests drive two of them against each other under a virtual clock; the same object works behind a raw socket.

Two hosts, and a wire that loses nothing:

>>> import errno
>>> from stackcore.tcp import Host, HostConfig
>>> left = Host(HostConfig(addr="10.0.0.1", seed=1))
>>> right = Host(HostConfig(addr="10.0.0.2", seed=2))
>>> def exchange(now):
...     while True:
...         there, back = left.transmit(now), right.transmit(now)
...         for packet in there:
...             right.receive(packet, now)
...         for packet in back:
...             left.receive(packet, now)
...         if not there and not back:
...             break
>>> listener = right.socket()
>>> listener.listen(80)
>>> client = left.socket()
>>> client.connect_ex(("10.0.0.2", 80)) == errno.EINPROGRESS
True
>>> exchange(0.0)
>>> server, address = listener.accept()
>>> address[0]
'10.0.0.1'
>>> client.send(b"hello")
5
>>> exchange(0.001)
>>> server.recv(100)
b'hello'
>>> server.close()
>>> exchange(0.002)
>>> client.recv(100)
b''

Promise: the same configuration with a seed, the same packets at the same times and the same calls give the same packets,
byte for byte, compiled or interpreted. Not thread safe: one host, one thread at a time; hosts share nothing.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

import stackcore.native  # noqa: F401  (kernels below)
from stackcore.kernel import kernel
from stackcore.tcp import engine
from stackcore.tcp.config import HostConfig, nanoseconds
from stackcore.tcp.engine import tcp_output, tcp_retransmit, tcp_time
from stackcore.tcp.memory import new_tcp
from stackcore.tcp.sockets import Socket, new_ends
from stackcore.tcp.state import D_LENGTH, HEADROOM, NOTE_ACCEPT, REASONS, STATISTICS, S
from stackcore.tcp.wheel import timer_soonest


class Capture(Protocol):
    """What may be put into :attr:`Host.pcap`, as :class:`stackcore.wire.pcap.PcapWriter`."""

    def put(self, packet: bytes, now: int) -> None:
        """One IP datagram, seen at ``now`` ns."""


@kernel
def transmit_step(t, buf, lengths, now):
    """One dispatch of the sending side: timers, the retransmit pass, new output; how many rows of ``buf`` were filled."""
    tcp_time(t, now)
    used = tcp_retransmit(t, buf, lengths, 0, now)
    return tcp_output(t, buf, lengths, used, now)


class Host:
    """One stack with one address; see the module for how it is driven.

    ``now`` is seconds of any clock that does not go back, the same for all calls. A call on a socket happens at the time
    that the host was told last: after a pause, tell it with :meth:`advance` first.
    """

    def __init__(self, config: HostConfig | None = None, now: float = 0.0) -> None:
        self.config = config or HostConfig()
        self.tcp, self._keep = new_tcp(self.config)
        self.now_ns = nanoseconds(now)
        """The time told last."""
        self.pcap: Capture | None = None
        """Gets every packet in either direction, with the time told last."""
        self.sockets: dict[int, Socket] = {}
        self.listeners: dict[int, Socket] = {}
        self._ends = new_ends(self.config.slot_count)
        self.ends_at: int = self._ends.ctypes.data
        rows, stride = self.config.frame, -(-(HEADROOM + self.config.mtu) // 64) * 64
        self._out = np.zeros((rows, stride), "u1")
        self._out_lengths = np.zeros(rows, "i8")
        self._in = np.zeros((1, stride), "u1")
        self._in_lengths = np.zeros(1, "i8")
        self.tcp.cfg[0]["now"] = self.now_ns

    def socket(self) -> Socket:
        """A new socket: listen with it, or connect."""
        return Socket(self)

    def advance(self, now: float) -> None:
        """It is ``now``. ValueError when the clock went back."""
        ns = nanoseconds(now)
        if ns < self.now_ns:
            raise ValueError(f"the clock went back from {self.now_ns / S} to {now}")
        self.now_ns = ns
        self.tcp.cfg[0]["now"] = ns

    def receive(self, packet: bytes, now: float) -> None:
        """An IP datagram has arrived; whatever it is, nothing is raised. What is wrong with it shows in :meth:`stats`."""
        self.advance(now)
        if self.pcap:
            self.pcap.put(packet, self.now_ns)
        if len(packet) > self.config.mtu:
            self.tcp.stat[0]["segments_in"] += 1
            self.tcp.dropped[D_LENGTH] += 1
            return
        self._in[0, HEADROOM : HEADROOM + len(packet)] = np.frombuffer(packet, "u1")
        self._in_lengths[0] = len(packet)
        engine.tcp_input(self.tcp, self._in, self._in_lengths, 1, self.now_ns)
        self._take_notes()

    def transmit(self, now: float) -> list[bytes]:
        """Run the timers that are due, and take all that can be sent now, in order."""
        self.advance(now)
        packets: list[bytes] = []
        used = 1
        while used:  # the retransmit pass has a budget per step: what is over it goes with the next
            used = transmit_step(self.tcp, self._out, self._out_lengths, self.now_ns)
            for i in range(used):
                packets.append(self._out[i, HEADROOM : HEADROOM + self._out_lengths[i]].tobytes())
            self._take_notes()
        if self.pcap:
            for packet in packets:
                self.pcap.put(packet, self.now_ns)
        return packets

    def next_timer(self) -> float | None:
        """When :meth:`transmit` must be called at the latest if nothing else happens; None: not before something does.

        At once (the time told last) when there is something to send. It may be earlier than anything is due.
        """
        if engine.tcp_pending(self.tcp):
            return self.now_ns / S
        soonest = int(timer_soonest(self.tcp))
        if soonest < 0:
            return None
        soonest = max(soonest, self.now_ns)
        seconds = soonest / S
        while nanoseconds(seconds) < soonest:
            seconds = math.nextafter(seconds, math.inf)
        return seconds

    def stats(self) -> dict[str, Any]:
        """All counters since the start; ``dropped`` by reason; how many connections, slots and half-open ones there are."""
        t, cfg = self.tcp, self.tcp.cfg[0]
        counters: dict[str, Any] = {name: int(t.stat[0][name]) for name in STATISTICS.names or ()}
        return counters | {
            "dropped": {name: int(count) for name, count in zip(REASONS, t.dropped, strict=True)},
            "connections": len(t.con) - int(cfg["con_free"]),
            "slots": len(t.slot) - int(cfg["slot_tail"] - cfg["slot_head"]),
            "half_open": int(cfg["half_open"]),
        }

    def _take_notes(self) -> None:
        """Let the sockets know what happened to their slots."""
        t = self.tcp
        while (slot := int(engine.take_note(t))) >= 0:
            bits = int(t.slot[slot]["note"])
            t.slot[slot]["note"] = 0
            if bits & NOTE_ACCEPT:
                self._accepted(slot)
            socket = self.sockets.get(slot)
            if socket:
                socket._noted(bits)

    def _accepted(self, slot: int) -> None:
        """A listener has got a connection; it is reset if nobody listens there any more."""
        listener = self.listeners.get(int(self.tcp.slot[slot]["listener"]))
        if listener:
            listener._take_child(slot)
        else:
            engine.tcp_abort(self.tcp, slot, self.now_ns)
