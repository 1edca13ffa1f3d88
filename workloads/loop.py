"""How a worker's compiled loop is run: in slices, so that signals and the core's death are noticed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from stackcore.app.worker import Worker
from stackcore.vcl import native as vls

SLICE_NS = 10_000_000


def listener_mask(config: Any) -> int:
    return vls.EPOLLIN | (vls.EPOLLET if config.trigger == "edge" else 0)


def watch_listener(vcl: Any, listener: int, config: Any) -> int:
    """A new epoll set that watches the listener."""
    ep: int = vcl.epoll_create()
    vcl.epoll_ctl(ep, vls.EPOLL_CTL_ADD, listener, listener_mask(config), listener)
    return ep


def run_kernel(
    serve: Callable[..., int], worker: Worker, listener: int, state: Any, config: Any, running: Callable[[], bool]
) -> None:
    """Call ``serve(handle, epoll, listener, until, state)`` until ``running()`` is false; OSError on its -errno."""
    ep = watch_listener(worker.vcl, listener, config)
    handle = worker.vcl.handle
    while running():
        rc = serve(handle, ep, listener, time.monotonic_ns() + SLICE_NS, state)
        if rc < 0:
            raise OSError(-rc, os.strerror(-rc))


def accept_all(vcl: Any, listener: int) -> list[int]:
    """Descriptors of all connections that wait now."""
    fds = []
    try:
        while True:
            fds.append(vcl.accept(listener))
    except BlockingIOError:
        return fds
