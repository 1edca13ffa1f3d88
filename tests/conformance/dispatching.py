"""One host under test, dispatch by dispatch, and peers made of single segments: what D1's queue does is decided between two
dispatches, so nothing is sent here before the test says so.

A peer is its port. The host's stream to each begins with segment 0; numbers below are segments of that stream.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stackcore.tcp import Host, HostConfig, engine
from stackcore.tcp.host import transmit_step
from stackcore.tcp.sockets import Socket
from stackcore.tcp.state import HEADROOM
from tests.tcp.packets import Options, Segment, flag_bits, flag_text, read

HOST, PEER, PORT = 0x0A000001, 0x0A000002, 80
MSS = 1000
WINDOW = 10
"""Segments of the initial window."""


class Sent(NamedTuple):
    """What left the host: to whom, flags, and which segment of the stream (-1: no data)."""

    port: int
    flags: str
    segment: int


class Core:
    """The host listens; ``now`` is seconds. Named arguments are :class:`HostConfig`'s."""

    def __init__(self, **config: Any) -> None:
        self.host = Host(HostConfig(**{"addr": "10.0.0.1", "seed": 1, "trap": True, "connections": 128} | config))
        self.now = 1.0
        self.isn: dict[int, int] = {}
        self.listener = self.host.socket()
        self.listener.listen(PORT, 128)

    # ---- segments ----

    def arrive(self, port: int, flags: str, seq: int = 1, ack: int = 0, payload: bytes = b"", **options: Any) -> None:
        """A segment of the peer ``port`` arrives; ``ack`` counts octets of the host's stream, its SYN included."""
        number = self.isn.get(port, 0) + ack if "." in flags else 0
        packet = Segment(PEER, HOST, port, PORT, seq, number, flag_bits(flags), 65535, Options(**options), payload)
        self.host.receive(packet.pack(), self.now)

    def _taken(self, buffer: Any, lengths: Any, used: int) -> list[Sent]:
        sent = []
        for i in range(used):
            p = read(buffer[i, HEADROOM : HEADROOM + int(lengths[i])].tobytes())
            if p.flags & flag_bits("S"):
                self.isn[p.dport] = p.seq
            offset = (p.seq - self.isn.get(p.dport, 0) - 1) & 0xFFFFFFFF
            sent.append(Sent(p.dport, flag_text(p.flags), offset // MSS if p.payload else -1))
        self.host._take_notes()
        return sent

    def wait(self, seconds: float) -> None:
        """Time passes, and nothing is dispatched meanwhile."""
        self.now += seconds
        self.host.advance(self.now)

    def dispatch(self, later: float = 0.0) -> list[Sent]:
        """The sending half of one dispatch, ``later`` seconds after now: timers, one retransmit pass, new output."""
        self.wait(later)
        host = self.host
        return self._taken(host._out, host._out_lengths, transmit_step(host.tcp, host._out, host._out_lengths, host.now_ns))

    def output(self) -> list[Sent]:
        """New output only, as in a dispatch whose retransmit pass has spent its budget on others."""
        host = self.host
        used = engine.tcp_output(host.tcp, host._out, host._out_lengths, 0, host.now_ns)
        return self._taken(host._out, host._out_lengths, used)

    # ---- scenes ----

    def open(self, port: int, segments: int = WINDOW, sack: bool = False) -> Socket:
        """An established connection to the peer ``port``, with so many segments written and sent."""
        self.arrive(port, "S", seq=0, mss=MSS, sack_ok=sack)
        self.output()
        self.arrive(port, ".", ack=1)
        socket, _ = self.listener.accept()
        if segments:
            assert socket.send(bytes(segments * MSS)) == segments * MSS
            assert [s.segment for s in self.output() if s.port == port] == list(range(segments))
        return socket

    def lose(self, port: int, sack: tuple[tuple[int, int], ...] = (), seq: int = 1) -> None:
        """The peer reports that the first segment is missing: three duplicate acknowledgments, with these SACK blocks (in
        segments). The connection enters fast recovery and is programmed to retransmit."""
        first = self.isn[port] + 1
        blocks = tuple((first + left * MSS, first + right * MSS) for left, right in sack)
        for _ in range(3):
            self.arrive(port, ".", seq=seq, ack=1, sack=blocks)

    def acknowledge(self, port: int, segments: int, seq: int = 1) -> None:
        self.arrive(port, ".", seq=seq, ack=1 + segments * MSS)

    def reset(self, port: int) -> None:
        """A reset of the peer's that is believed: in the place that RFC 5961 asks for."""
        self.arrive(port, "R", seq=1)

    # ---- looking ----

    @property
    def depth(self) -> int:
        """Entries of the retransmit queue, wherever its policy keeps them."""
        cfg = self.host.tcp.cfg[0]
        return int(cfg["queue_tail"] - cfg["queue_head"] + cfg["heap_size"])

    def entries(self) -> list[int]:
        """Connections that the queue names, in no order; -1 where an entry was taken out."""
        t, cfg = self.host.tcp, self.host.tcp.cfg[0]
        ring = [int(t.queue[at & int(cfg["queue_mask"])]["con"]) for at in range(cfg["queue_head"], cfg["queue_tail"])]
        return ring + t.heap["con"][: int(cfg["heap_size"])].tolist()

    def index(self, port: int) -> int:
        """The living connection's."""
        t = self.host.tcp
        (found,) = np.flatnonzero((t.con["remote_port"] == port) & (t.con["state"] != 0))
        return int(found)

    def __getitem__(self, counter: str) -> int:
        return int(self.host.tcp.stat[0][counter])
