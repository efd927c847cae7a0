"""One worker process: gunicorn keeps it, and uvicorn serves in it, by the protocol of `http_protocol.py`.

`uvicorn.workers` is deprecated in favour of the `uvicorn-worker` package, which is maintained by the same author and
used here; what differs is below.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from socket import socket
from typing import Any, Protocol

from gunicorn.arbiter import Arbiter
from uvicorn.config import Config
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from ops.figures.shared import SharedFigures, Slot
from ops.server.connection_balance import Acceptor, Load
from ops.server.garbage import Garbage
from ops.server.http_protocol import LedgerHttpProtocol
from ops.server.proxies import ProxyHint, trust, trusts
from ops.server.web_sockets import bound
from ops.server.worker_state import WorkerState
from ops.settings.settings import Settings

KEEP_ALIVE_S = 75
COLLECT_TICKS = 3
"""Garbage is collected in each so many ticks, of which a second has ten."""


class LedgerServer(Server):
    """A uvicorn server that shares connections with its siblings, tells when it is ready, and ends with its arbiter."""

    def __init__(self, config: Config, worker: LedgerWorker) -> None:
        super().__init__(config)
        self._arbiter_pid = worker.ppid
        self._app = worker.app
        self._load = worker.app.connections
        hint = ProxyHint(partial(trusts, config))
        self._state = WorkerState(worker.app.connections, worker.slot, hint)
        self.server_state = self._state
        self._garbage: Garbage | None = None
        self._listeners: list[socket] = []
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start the application and tell the parent, then accept connections as soon as the gate is open."""
        await super().startup(sockets=[])
        if not self.started:
            return
        self._garbage = Garbage()
        self._listeners = sockets or []
        asyncio.get_running_loop().add_reader(self._app.gate_fd, self._accept)  # open: readable, as its end is reached
        self._app.tell_ready()

    def _accept(self) -> None:
        asyncio.get_running_loop().remove_reader(self._app.gate_fd)
        self._state.count()
        open_now, slot = lambda: len(self.server_state.connections), self._state.slot
        for listener in self._listeners:
            self._acceptors.append(Acceptor(listener, self._make_protocol, open_now, self._load, slot))
        self._load.serves()

    def drain(self) -> None:
        """Leave new connections to others, and end once there are none: each ends with its next answer, or idleness.

        A client that was told nothing might send a request into a connection that is being closed, and could not know
        what became of it.
        """
        self._accept_no_more()
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        self._state.draining = self._state.leaving = True
        for connection in list(self._state.connections):
            connection.close_behind_answer()  # type: ignore[union-attr] # all are of our own kind

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Accept no more, let what is open end within the grace, then end the application."""
        self._accept_no_more()
        self._state.leaving = True
        await super().shutdown(sockets)

    def _accept_no_more(self) -> None:
        asyncio.get_running_loop().remove_reader(self._app.gate_fd)
        for acceptor in self._acceptors:
            acceptor.close()

    def _make_protocol(self) -> LedgerHttpProtocol:
        return LedgerHttpProtocol(self.config, self._state, self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        """Tell, ten times a second, whether to end: an arbiter that was killed takes its workers along."""
        if self._garbage is not None and counter % COLLECT_TICKS == 0:
            self._garbage.collect()
        if os.getppid() != self._arbiter_pid:
            self.should_exit = True
        if self._state.draining and not self._state.connections and not any(each.beginning for each in self._acceptors):
            self.should_exit = True
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the stop signals, and do not raise them again afterwards: the worker is to end in order."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    def stop_now(self) -> None:
        """Break what is open and end."""
        self.should_exit = self.force_exit = True


class Application(Protocol):
    """What a worker is told by the arbiter's application (`arbiter.py`), which it was forked with."""

    settings: Settings
    connections: Load
    figures: SharedFigures
    gate_fd: int
    """A pipe that ends when connections may be accepted."""
    takes_over: bool
    """Whether another generation serves until this one is ready."""

    def tell_ready(self) -> None:
        """Tell the parent that this worker is ready."""


class LedgerWorker(UvicornWorker):  # type: ignore[misc] # gunicorn has no types
    """The gunicorn worker class of the service."""

    CONFIG_KWARGS = {  # noqa: RUF012 - as its base has it
        "loop": "uvloop",
        "http": LedgerHttpProtocol,
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "proxy_headers": False,
        "server_header": False,
    }

    app: Application
    config: Config
    slot: int
    """Where it counts its connections; the arbiter gives it before the fork."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = self.app.settings
        trust(self.config, settings.trusted_proxies)
        bound(self.config, on=settings.has_sockets)
        # Streams are broken a little before the grace is over, so that all has ended when it is.
        breaking_s = settings.grace_s - min(1.0, settings.grace_s / 2)
        self.config.timeout_graceful_shutdown = breaking_s  # type: ignore[assignment] # any number will do
        # No access log: a query may hold a token, and the log must not.
        for name, heard in (("uvicorn.error", True), ("uvicorn.access", False)):
            logger = logging.getLogger(name)
            logger.handlers = []
            logger.propagate = heard

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        if hasattr(self.wsgi, "served_before"):
            self.wsgi.served_before = self.app.connections.served
            self.wsgi.takes_over = self.app.takes_over
            self.wsgi.slot = Slot(self.app.figures, self.slot)
        server = LedgerServer(self.config, self)
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.stop_now)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, server.drain)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        self.app.figures.ends_in_order(self.slot)
