"""Other ways to pass small messages between two processes from Python, each behind one adapter, beside shmq itself.

One file per peer, one line in `_ADAPTERS`. An adapter's library is imported only when it is measured, so one that is not
installed costs nothing and is left out with a word. How the measuring is done: `shmq.measure`.
"""

from __future__ import annotations

from bench.peers.base import Adapter
from bench.peers.cloudtoid import CloudtoidAdapter
from bench.peers.faster_fifo import FasterFifoAdapter
from bench.peers.iceoryx import IceoryxAdapter
from bench.peers.kickmsg import KickmsgAdapter
from bench.peers.membridge import MembridgeAdapter
from bench.peers.mp_pipe import MpPipeAdapter
from bench.peers.mp_queue import MpQueueAdapter
from bench.peers.mp_simple_queue import MpSimpleQueueAdapter
from bench.peers.os_pipe import OsPipeAdapter
from bench.peers.plain_c import PlainCAdapter
from bench.peers.seqpacket import SeqpacketAdapter
from bench.peers.shmq_channel import ShmqChannelAdapter
from bench.peers.shmq_queue import ShmqQueueAdapter
from bench.peers.shmq_ring import ShmqRingAdapter
from bench.peers.subetha import SubethaAdapter
from bench.peers.tachyon import TachyonAdapter
from bench.peers.zmq_pair import ZmqPairAdapter

_ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        PlainCAdapter(), ShmqRingAdapter(), ShmqChannelAdapter(), ShmqQueueAdapter(), MpQueueAdapter(), MpSimpleQueueAdapter(),
        MpPipeAdapter(), OsPipeAdapter(), SeqpacketAdapter(), ZmqPairAdapter(), FasterFifoAdapter(), IceoryxAdapter(),
        CloudtoidAdapter(), SubethaAdapter(), MembridgeAdapter(), KickmsgAdapter(), TachyonAdapter(),
    )
}  # fmt: skip


def adapter_names() -> list[str]:
    """Return the names of all adapters: plain C first, then shmq, the standard library, and the other packages."""
    return list(_ADAPTERS)


def get_adapter(name: str) -> Adapter:
    """Return the adapter called `name`; raises KeyError with the choices in its text."""
    try:
        return _ADAPTERS[name]
    except KeyError:
        raise KeyError(f"no peer is called {name!r}; choose from {', '.join(_ADAPTERS)}") from None


__all__ = ["Adapter", "adapter_names", "get_adapter"]
