"""The native library as kernels see it: every C function they may call, declared once.

Importing this module loads the native modules of shmq and abi and tells :mod:`stackcore.kernel` about them; the vcl
functions are declared in :mod:`stackcore.vcl.native`, which only the app side imports.
"""

from __future__ import annotations

from shmq import _native as _shmq
from stackcore.abi import _abi
from stackcore.kernel import c_function, extern, library

library(_shmq.symbols, _shmq.build_hash)
library(_abi.symbols, _abi.build_hash)

BUILD_HASH: str = _shmq.build_hash
"""Hash over the native sources; the same in all modules of one build."""

now_ns = extern("shmq_x_now_ns", 0)
memcpy = extern("shmq_x_memcpy", 3)
sched_yield = extern("shmq_x_sched_yield", 0)
relax = extern("shmq_x_relax", 0)
ring_room = extern("shmq_x_room", 2)
ring_publish = extern("shmq_x_publish", 2)
ring_wake_consumer = extern("shmq_x_wake_consumer", 1)
ring_wake_producer = extern("shmq_x_wake_producer", 1)
ring_push = extern("shmq_x_push", 2)
ring_tail = extern("shmq_x_tail", 1)
ring_ready = extern("shmq_x_ready", 2)
ring_release = extern("shmq_x_release", 2)
ring_head = extern("shmq_x_head", 1)
fifo_bind = extern("shmq_x_fifo_bind", 4)
fifo_reset = extern("shmq_x_fifo_reset", 1)
fifo_room = extern("shmq_x_fifo_room", 2)
fifo_write = extern("shmq_x_fifo_write", 3)
fifo_set_event = extern("shmq_x_fifo_set_event", 1)
fifo_want = extern("shmq_x_fifo_want", 2)
fifo_avail = extern("shmq_x_fifo_avail", 2)
fifo_clear_event = extern("shmq_x_fifo_clear_event", 1)
fifo_skip = extern("shmq_x_fifo_skip", 2)
fifo_wanted = extern("shmq_x_fifo_wanted", 1)
fifo_pos = extern("shmq_x_fifo_pos", 1)
fifo_peek = extern("shmq_x_fifo_peek", 4)
fifo_read = extern("shmq_x_fifo_read", 3)
fifo_write_at = extern("shmq_x_fifo_write_at", 5)
fifo_verify = extern("shmq_x_fifo_verify", 3)
event_put = extern("sc_x_event_put", 8)
event_publish = extern("sc_x_event_publish", 2)
prefetch = extern("sc_x_prefetch", 3)
prefetch_end = extern("sc_x_prefetch_end", 2)
event_read = extern("sc_x_event_read", 3)
load32 = extern("sc_x_load32", 1)
load64 = extern("sc_x_load64", 1)
store64 = extern("sc_x_store64", 2)
reply = extern("sc_x_reply", 2)
busy = extern("sc_x_busy", 1)

# For set-up code outside kernels.
ring_init = c_function("shmq_x_ring_init", 3)
bind_producer = c_function("sc_x_bind_producer", 4)
bind_consumer = c_function("sc_x_bind_consumer", 4)
producer_set_efd = c_function("shmq_x_producer_set_efd", 2)
consumer_set_efd = c_function("shmq_x_consumer_set_efd", 2)
producer_announce = c_function("shmq_x_producer_announce", 2)
consumer_announce = c_function("shmq_x_consumer_announce", 2)
producer_clear = c_function("shmq_x_producer_clear", 1)
consumer_clear = c_function("shmq_x_consumer_clear", 1)
cell_announce = c_function("sc_x_cell_announce", 1)
cell_clear = c_function("sc_x_cell_clear", 1)
read64 = c_function("sc_x_load64", 1)
busy_python = c_function("sc_x_busy", 1)
