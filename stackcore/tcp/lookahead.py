"""What a vector is good for when there are more connections than caches hold: ask for all that its packets will need, then
work.

A segment touches some twenty cache lines that nobody has touched since the connection's last one: its bucket, its record, its
timers, its slot, the ends and headers of its fifos. Each address follows from the one before, so a segment alone waits for
memory several times in a row. Done for a whole vector step by step, the waits of all segments overlap.

Promise: hints only. A wrong guess (IP options, a packet that is no TCP, a connection that ends before its turn comes) costs
time; who is found here is compared with the parsed segment before he is believed. With few connections, or a short vector,
nothing is done.
"""

from __future__ import annotations

from stackcore.abi import abi
from stackcore.kernel import kernel
from stackcore.native import prefetch, prefetch_end
from stackcore.tcp.header import IP_AT, TCP_AT, get16, get32
from stackcore.tcp.isn import flow_hash
from stackcore.tcp.pool import rx_end, tx_end
from stackcore.tcp.state import CLOSED, TIMERS

FEWEST_CONNECTIONS = 1024
"""As many records as a second-level cache holds with the packets beside them."""
FEWEST_PACKETS = 4
_LINE = 64
"""Bytes that a processor fetches at once; ``abi.LINE`` keeps two of them apart."""
_END_LINES = 2


@kernel
def worthwhile(t, n):
    return n >= FEWEST_PACKETS and t.cfg[0]["connections"] >= FEWEST_CONNECTIONS


@kernel
def fetch_connection(t, c):
    size = t.con.itemsize
    prefetch(t.con.ctypes.data + c * size, size // _LINE + 1, _LINE)
    size = TIMERS * t.tmr.itemsize
    prefetch(t.tmr.ctypes.data + c * size, size // _LINE + 1, _LINE)


@kernel
def fetch_slot(t, c):
    """The slot's record and the ends of its fifos; the connection's record should be here by now."""
    s = int(t.con[c]["slot"])
    if 0 <= s < t.cfg[0]["slots"]:
        prefetch(t.slot.ctypes.data + s * t.slot.itemsize, 1, _LINE)
        prefetch(rx_end(t.cfg[0], s), _END_LINES, _LINE)


@kernel
def fetch_fifos(t, c):
    """The fifos' headers, and their bytes at the ends' cursors."""
    cfg = t.cfg[0]
    s = int(t.con[c]["slot"])
    if 0 <= s < cfg["slots"]:
        prefetch(cfg["fifos_at"] + s * cfg["fifo_stride"], 4, abi.LINE)
        if t.slot[s]["used"] != 0:  # the ends are bound
            prefetch_end(rx_end(cfg, s), 1)
            prefetch_end(tx_end(cfg, s), 0)


@kernel
def fetch_received(t, buf, n):
    """For the ``n`` datagrams in ``buf``: whose they seem to be goes to ``t.look``, -1 for nobody's."""
    cfg = t.cfg[0]
    for i in range(n):
        h = flow_hash(cfg, get32(buf, i, IP_AT + 16), get16(buf, i, TCP_AT + 2), get32(buf, i, IP_AT + 12), get16(buf, i, TCP_AT))
        t.look[i] = h & cfg["hash_mask"]
        prefetch(t.hash.ctypes.data + 4 * (h & cfg["hash_mask"]), 1, _LINE)
    for i in range(n):
        t.look[i] = t.hash[t.look[i]]
        if t.look[i] >= 0:
            fetch_connection(t, int(t.look[i]))
    for i in range(n):
        if t.look[i] >= 0:
            fetch_slot(t, int(t.look[i]))
    for i in range(n):
        if t.look[i] >= 0:
            fetch_fifos(t, int(t.look[i]))


@kernel
def fetch_ready(t, n):
    """For the next ``n`` connections that have something to send, but for those that have just been heard of: they are here."""
    cfg = t.cfg[0]
    for i in range(n):
        c = int(t.ready[(cfg["ready_head"] + i) & cfg["con_mask"]])
        t.look[i] = -1
        if t.con[c]["heard_at"] != cfg["now"]:
            t.look[i] = c
            fetch_connection(t, c)
    for i in range(n):
        if t.look[i] >= 0:
            fetch_slot(t, int(t.look[i]))
    for i in range(n):
        if t.look[i] >= 0:
            fetch_fifos(t, int(t.look[i]))


@kernel
def is_for(con, seg):
    """True when the parsed segment is for this connection."""
    return (
        con["state"] != CLOSED
        and con["remote_port"] == seg["sport"]
        and con["remote_addr"] == seg["src"]
        and con["local_port"] == seg["dport"]
        and con["local_addr"] == seg["dst"]
    )
