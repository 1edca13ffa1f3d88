"""The vls calls as kernels see them. The first argument is ``Worker.handle``; results are counts or -errno."""

from __future__ import annotations

import stackcore.native  # noqa: F401  (loads the libraries these functions stand on)
from stackcore.kernel import extern, library
from stackcore.vcl import _vcl

library(_vcl.symbols, _vcl.build_hash)

accept = extern("vls_x_accept", 2)
epoll_ctl = extern("vls_x_epoll_ctl", 6)
epoll_wait = extern("vls_x_epoll_wait", 5)
recv = extern("vls_x_recv", 4)
send = extern("vls_x_send", 5)
close = extern("vls_x_close", 2)
count_requests = extern("vls_x_count_requests", 2)
publish = extern("vls_x_publish", 1)
cork = extern("vls_x_cork", 2)

SEND_MORE = 1
"""send flag: more follows at once, do not tell the core yet."""
EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP = 0x001, 0x004, 0x008, 0x010
EPOLLRDHUP, EPOLLONESHOT, EPOLLET = 0x2000, 1 << 30, 1 << 31
EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD = 1, 2, 3
EAGAIN, ENETDOWN = 11, 100
