"""One run: start the core and the workers, let them work, collect what they say, leave nothing behind.

The process that calls :func:`run_here` becomes the launcher: it forks the core, attaches as worker 0 (the master,
which listens and does not serve), forks the app workers, and supervises. :func:`run` does the same in a process of its
own, whatever threads the caller has.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import workloads
from stackcore import configuration, launch, network, placement
from stackcore.abi import abi
from stackcore.abi.layout import Layout, View
from stackcore.app.worker import Modes, Worker
from stackcore.configuration import RunConfig
from stackcore.control import ControlError, Type, receive, socket_path
from stackcore.core.process import CoreConfig, CoreProcess
from stackcore.launch import Child, LaunchError
from stackcore.result import Processes, Result, collect, merge, record_of
from stackcore.session.switches import ACCEPT, RING_FULL
from stackcore.vcl import _vcl
from stackcore.warmup import warm_up
from stackcore.wire.client_host import ClientHost, ClientHostConfig, Findings
from stackcore.wire.shm import Wire, make_wire
from workloads import Prepared

SPINS = 2000
NOTICE_S = 1.5
Progress = Callable[[float, int], None]
"""Called with the share of the run that is over (0..1) and the requests so far."""


def table_capacity(config: RunConfig) -> int:
    """Entries of a session table: every session, and for each worker an epoll set and its listeners."""
    return config.sessions + 8 * (config.workers + 1) + abi.MAX_LISTENERS


def core_config(
    config: RunConfig, prepared: Prepared, where: placement.Placement, wire: Wire | None = None
) -> CoreConfig:
    shared = _vcl.listener_modes[config.listener][1]
    layout = Layout(
        workers=config.workers + 1,
        sessions=config.sessions,
        ring_slots=config.ring,
        fifo_size=config.fifo,
        app_size=_vcl.table_bytes(table_capacity(config)) if shared else 0,
    )
    clients = network.client_config(config, prepared)
    if wire is not None:
        clients = replace(clients, count=0)
    return CoreConfig(
        layout=layout,
        path=socket_path(config.name),
        clients=clients,
        frame=config.frame,
        wait=config.wait,
        shares_cpu=where.core_shares(),
        ring_full=RING_FULL[config.ring_full].value,
        accept_policy=ACCEPT[config.accept].value,
        warmup_s=config.warmup,
        duration_s=config.duration,
        tcp=network.core_tcp(config, wire) if wire is not None else None,
    )


def client_host_config(config: RunConfig, prepared: Prepared, where: placement.Placement) -> ClientHostConfig:
    return ClientHostConfig(
        host=network.client_host(config),
        clients=network.client_config(config, prepared),
        server=network.SERVER_NUMBER,
        link=network.link_of(config),
        warmup_s=config.warmup,
        duration_s=config.duration,
        transfers=prepared.once,
        limit_s=config.limit,
        idle_limit={"spin": 0, "adaptive": 200 if where.client_shares() else 20_000, "park": 1}[config.wait],
        shares_cpu=where.client_shares(),
    )


def run_client_host(
    config: ClientHostConfig, wire: Wire, findings: Findings, cpu: int | None, go_fd: int, ready: Callable[[], None]
) -> None:
    """The client host's process; it begins when a byte can be read from ``go_fd``."""
    placement.pin(cpu)
    host = ClientHost(config, wire, findings)
    os.set_blocking(go_fd, False)
    ready()

    def go() -> bool:
        try:
            return bool(os.read(go_fd, 1))
        except BlockingIOError:
            return False

    try:
        host.run(go)
    finally:
        host.close()


def run_core(config: CoreConfig, cpu: int | None, ready: Callable[[], None]) -> None:
    """The core's process, from creation to the end."""
    placement.pin(cpu)
    core = CoreProcess(config)
    ready()
    core.run()


def run_worker(
    worker: Worker, listener: int, config: RunConfig, prepared: Prepared, cpu: int | None, spins: int, ready: Callable[[], None]
) -> None:
    """An app worker's process, from fork to detach."""
    stopping = serving = False

    def on_term(number: int, frame: Any) -> None:
        nonlocal stopping
        stopping = True

    def running() -> bool:
        """Asked by the workload's loop, for the first time when it polls its listener."""
        nonlocal serving
        if not serving:
            serving = True
            ready()
        return not stopping

    signal.signal(signal.SIGTERM, on_term)
    placement.pin(cpu)
    worker.become_child()
    worker.vcl.set_spins(spins)
    workload = workloads.load(config.workload)
    serve = workload.serve_compiled if config.app == configuration.APP["compiled"].value else workload.serve_python
    try:
        serve(worker, listener, prepared, config, running)
    finally:
        worker.close()


class Run:
    """The launcher's side of one run; a context manager that leaves no process, socket or segment behind."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.prepared = Prepared(b"", b"")
        self.socket_made = False
        place = placement.auto if config.pin == configuration.PIN["auto"].name else placement.none
        self.where = place(config.workers, config.wire == configuration.WIRE["shm"].name)
        self.core: Child | None = None
        self.client: Child | None = None
        self.wire: Wire | None = None
        self.findings: Findings | None = None
        self.go_fd = -1
        self.workers: list[Child] = []
        self.master: Worker | None = None
        self.view: View | None = None  # never bound to a local: a traceback would keep the mapping busy
        self.notes: list[str] = []

    def __enter__(self) -> Run:
        self.prepared = workloads.load(self.config.workload).prepare(self.config)
        return self

    def __exit__(self, *_: object) -> None:
        with launch.uninterrupted():
            self._clean_up()

    def _clean_up(self) -> None:
        launch.stop(self.workers)
        if self.client is not None:
            launch.stop([self.client])
        self.view = None
        if self.master is not None:
            self.master.close()
        if self.core is not None:
            launch.stop([self.core])
            if self.socket_made and self.core.killed:
                socket_path(self.config.name).unlink(missing_ok=True)  # it could not; any other leaves its own at most
        if self.wire is not None:
            self.wire.close()
        if self.go_fd >= 0:
            os.close(self.go_fd)
        self.prepared.close()

    def start(self) -> None:
        """Core, master, listener, workers: in this order, each ready before the next."""
        config, where = self.config, self.where
        if where.has_client:
            self.wire, self.findings = make_wire(config.mtu), Findings()
        core_settings = core_config(config, self.prepared, where, self.wire)
        launch.fork("the core", lambda ready: run_core(core_settings, where.core, ready), self._core_born)
        assert self.core is not None
        launch.wait_ready([self.core])
        self.socket_made = True
        modes = Modes(
            listener=config.listener, events=config.events, futex_lock=configuration.LOCK[config.lock].value,
            wait=config.wait, spins=SPINS, table_capacity=table_capacity(config),
        )  # fmt: skip
        self.master = master = Worker.attach(socket_path(config.name), modes, launcher=True)
        listener = master.vcl.listen(network.PORT)
        for i in range(config.workers):
            spins = 0 if where.worker_shares(i) else SPINS
            cpu = where.workers[i]
            body = partial(run_worker, master, listener, config, self.prepared, cpu, spins)
            launch.fork(f"worker {i}", body, self.workers.append).cpu = cpu
        launch.wait_ready(self.workers)
        master.children_registered()
        if self.wire is not None:
            self._start_client_host(self.wire)
        self.prepared.close()  # the workers have loaded what they serve

    def _start_client_host(self, wire: Wire) -> None:
        assert self.findings is not None
        read_fd, self.go_fd = os.pipe2(os.O_CLOEXEC)
        settings = client_host_config(self.config, self.prepared, self.where)
        body = partial(run_client_host, settings, wire, self.findings, self.where.client, read_fd)
        launch.fork("the client host", body, self._client_born)
        os.close(read_fd)
        assert self.client is not None
        self.client.cpu = self.where.client
        launch.wait_ready([self.client])

    def _client_born(self, child: Child) -> None:
        self.client = child

    def _core_born(self, child: Child) -> None:
        self.core = child

    def drive(self, progress: Progress | None = None) -> Any:
        """Start the clients and wait for the end (or the core's); a copy of the core's telemetry."""
        assert self.master is not None and self.core is not None
        if self.client is None:
            self.master.request(Type.START)
        else:
            os.write(self.go_fd, b"g")
        self.view = self.master.view()
        began = time.monotonic()
        limit = began + 10 + (self.config.limit if self.prepared.once else self.config.warmup + self.config.duration)
        while not (self._done() if self.client is None else self._client_done()):
            if progress is not None:
                progress(self._share(time.monotonic() - began), self._requests())
            self._watch_workers()
            if time.monotonic() > limit:
                raise LaunchError("the core did not finish in time: it may be starved of CPU")
            if self.core.reap():
                self.notes.append(f"the core ended with {self.core.exit_name}" + _because(self.core))
                self._workers_notice()
                break
        return self._gather()

    def _requests(self) -> int:
        """Replies verified so far."""
        assert self.view is not None
        telemetry = self.view.telemetry if self.findings is None else self.findings.telemetry
        return int(telemetry[0]["requests"])

    def _share(self, passed: float) -> float:
        """How much of the run is over, 0..1."""
        if self.prepared.once:
            return min(1.0, self._requests() / self.config.clients)
        return min(1.0, passed / (self.config.warmup + self.config.duration))

    def _client_done(self) -> bool:
        """Has the client host finished? Waits up to 50 ms for it."""
        assert self.client is not None and self.findings is not None
        if self.client.reap():
            raise LaunchError(f"the client host ended with {self.client.exit_name}{_because(self.client)}")
        assert self.core is not None
        launch.await_exit(self.core, 0.05)
        return int(self.findings.telemetry[0]["phase"]) == abi.PHASE_DONE

    def _gather(self) -> Any:
        """The run's telemetry: the core's record, and over TCP what the client host found in its place."""
        assert self.view is not None and self.master is not None and self.core is not None
        if self.findings is None:
            return self.view.telemetry[0].copy()
        if self.core.exit_status is None:
            self.master.request(Type.STATUS)
        return merge(self.view.telemetry[0], self.findings.telemetry[0], self.prepared.once)

    def _workers_notice(self) -> None:
        """The core is dead: the workers find out by themselves within a second, and say so."""
        deadline = time.monotonic() + NOTICE_S
        for worker in self.workers:
            launch.await_exit(worker, deadline - time.monotonic())
        self._watch_workers()

    def _done(self) -> bool:
        """Has the core said DONE? Waits up to 50 ms for it."""
        assert self.master is not None
        readable, _, _ = select.select([self.master.sock], [], [], 0.05)
        if not readable:
            return False
        try:
            message, _ = receive(self.master.sock)
        except (EOFError, OSError):
            assert self.core is not None
            launch.await_exit(self.core, NOTICE_S)
            if not self.core.reap():
                raise LaunchError("the core has cut this run off") from None
            return False
        if message.type is Type.ERROR:
            raise ControlError(str(message.body.get("message")))
        return message.type is Type.DONE

    def _watch_workers(self) -> None:
        for worker in self.workers:
            if worker.exit_status is None and worker.reap():
                self.notes.append(f"{worker.name} (pid {worker.pid}) ended with {worker.exit_name}{_because(worker)}")

    def finish(self, telemetry: Any, began: float) -> Result:
        """Stop the workers, then the core, and put everything together."""
        assert self.master is not None and self.core is not None
        self._watch_workers()
        if self.client is not None:
            launch.stop([self.client])
        launch.stop(self.workers)
        assert self.view is not None
        records = self.view.workers.copy()
        if self.core.exit_status is None:
            try:
                self.master.request(Type.STOP)
            except (EOFError, OSError, ControlError):
                pass
        self.view = None
        self.master.close()
        launch.stop([self.core])
        report = self.findings.report if self.findings is not None else {}
        of_workers = [record_of(records, child.pid) for child in self.workers]
        everybody = Processes(self.workers, self.core, self.client, of_workers)
        return collect(self.config, self.where, telemetry, everybody, self.notes, time.monotonic() - began, report)


def _because(child: Child) -> str:
    words = launch.last_words(child)
    return f" ({words})" if words else ""


def _simulate(config: RunConfig, progress: Progress | None) -> Result:
    from stackcore.simulate import simulate  # only here: most runs have no use for it

    prepared = workloads.load(config.workload).prepare(config)
    try:
        return simulate(config, prepared, progress)
    finally:
        prepared.close()


def run_here(config: RunConfig, progress: Progress | None = None) -> Result:
    """One run with this process as the launcher. LaunchError, ControlError, OSError; KeyboardInterrupt cleans up."""
    began = time.monotonic()
    if config.wire == configuration.WIRE["sim"].name:
        return _simulate(config, progress)
    with Run(config) as this:
        warm_up(config, this.prepared)
        this.start()
        return this.finish(this.drive(progress), began)


def run(workload: str = "http", **modes: Any) -> Result:
    """One run in a process of its own; keywords are the flags of ``stackcore run`` with underscores.

    Returns the result also when something was wrong in the run (see ``Result.ok``). Raises ConfigError or UnknownMode
    for impossible settings, LaunchError when the run could not be made.
    """
    config = configuration.make(workload=workload, **modes)
    flags = [f"--{key.removesuffix('_ns').replace('_', '-')}={value}" for key, value in modes.items() if value is not None]
    command = [sys.executable, "-m", "stackcore", "run", config.workload, "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return Result(json.loads(done.stdout))
    except ValueError:
        raise LaunchError(done.stderr.strip() or f"the run ended with status {done.returncode}") from None
