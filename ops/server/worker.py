"""One worker process: gunicorn keeps it, uvicorn serves in it, and the application sees its connections' transports.

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
from array import array
from collections.abc import Iterator
from functools import partial
from socket import socket
from typing import Any, Final, Protocol

from gunicorn.arbiter import Arbiter
from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import Server, ServerState
from uvicorn_worker import UvicornWorker

from ops.figures.shared import SharedFigures, Slot
from ops.server.arrivals import ACKS, Arrivals
from ops.server.connection_balance import Acceptor, Load
from ops.server.garbage import Garbage
from ops.server.http_rules import BadHeadError, answer_without_chunks, read_head
from ops.server.proxies import ProxyHint, trust, trusts
from ops.server.web_sockets import bound, is_for_socket
from ops.settings.settings import Settings

KEEP_ALIVE_S = 75
HEADER_LIMIT_BYTES = 64 * 1024
HEADER_TIMEOUT_S = 30.0
BODY_START_S = 5.0
"""How long a request with a body waits for the first of it before the application is asked, which bounds the rest."""
DISCARD_S = 30.0
"""How long what comes of a body after the answer is thrown away: a client that is cut off at once may not see it."""
COLLECT_TICKS = 3
"""Garbage is collected in each so many ticks, of which a second has ten."""
TRANSPORT = "ledger.transport"
LEAVING = "ledger.leaving"


class HeadTooLargeError(Exception):
    """Ends the parsing of a request that was refused for the size of its head."""


class TunnelError(Exception):
    """Ends the parsing at CONNECT: what follows it is no HTTP, and nothing here connects to others."""


class RequestParser(HttpRequestParser):
    """A parser for a server of HTTP/1.1: that a client would rather speak something else changes nothing.

    Only where there are web sockets, on one path, a request for one is let through.

    An `Upgrade` may be ignored (RFC 9110, section 7.8), and Java's client offers one with every request. To httptools
    all behind such a head is the other protocol, so the request has no body, and its body is the next request. So the
    head is parsed once more, without that field.
    """

    def __init__(self, protocol: LedgerHttpProtocol) -> None:
        self._protocol = protocol
        self._begin()

    def feed_data(self, data: bytes | bytearray | memoryview[int] | array[int]) -> None:
        """Parse what came; raises httptools.HttpParserError."""
        while True:
            try:
                super().feed_data(data)
            except HttpParserUpgrade as upgrade:
                if self._protocol.becomes_socket():
                    raise
                (head_end,) = upgrade.args
            else:
                return
            head = self._protocol.head_without_upgrade()
            self._begin()  # behind the last request of a connection it would ignore all that comes
            super().feed_data(head)
            data = memoryview(data)[head_end:]

    def _begin(self) -> None:
        super().__init__(self._protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it


class Trailers(list[tuple[bytes, bytes]]):
    """Where the fields go that come behind a body: nowhere.

    They are no headers (RFC 9110, section 6.5.1), though the parser takes them for such: a proxy that cleans headers
    may let them through, and there is no end to them.
    """

    def append(self, _: tuple[bytes, bytes]) -> None:
        """Keep nothing."""


class LedgerHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 that gives the application the connection's transport and bounds all of a request but its body.

    Of the body it bounds what the application cannot: the wait for its beginning, and what comes after the answer.

    The stream writer needs the transport: a connection whose reader stalled can only be ended by `transport.abort()`,
    and how much is unsent only it knows. It is `scope["extensions"]["ledger.transport"]`.
    """

    server_state: WorkerState

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = RequestParser(self)
        self._extensions: dict[str, Any] = {}
        self._head_deadline: asyncio.TimerHandle | None = None
        self._in_body = False
        self._body_deadline: asyncio.TimerHandle | None = None
        """When the application is asked without a body, or after the answer when the connection ends."""
        self._unfinished: object = None
        """The scope of a request whose head did not come whole at once."""
        self._bad_head = ""
        """What is wrong with the head that ended the parsing."""
        self._looked_at = False
        self._last: Any = None
        """The request whose answer ends the connection, though its client would go on."""
        self._is_socket = False
        self._head_bytes = 0
        self._first_bytes = 0
        self._fed_bytes = 0
        self._waiting: bytes | bytearray = b""
        """What came of a request that nobody looked at yet."""
        self._idle_bytes = 0
        """How much came since there was part of a body, or a head was whole: chunk extensions and trailers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin: a client that says nothing is not kept for ever."""
        super().connection_made(transport)
        self.server_state.count()
        self._extensions = {TRANSPORT: transport, LEAVING: self.server_state.is_leaving}
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take what came: an ack at once, the beginning of anything else when it is its turn."""
        if (self._waiting or not data.startswith(ACKS)) and self._waits(data):
            return
        self._feed(data)

    def look(self) -> bool:
        """Look at what came while it was others' turn; tells whether there was anything."""
        if not self._waiting:
            return False
        came, self._waiting = bytes(self._waiting), b""
        self._feed(came)
        return True

    def _waits(self, data: bytes) -> bool:
        """Keep what came if the request has to wait; tells whether that is so."""
        if not self._waiting:
            if not self._is_between_requests() or self.server_state.arrivals.pass_one():
                return False
            self._head_arrived()
            self._unset_keepalive_if_required()
            self.server_state.arrivals.wait(self.look)
            self._waiting = bytearray()
        self._waiting += data
        if len(self._waiting) > HEADER_LIMIT_BYTES:
            self.flow.pause_reading()
        return True

    def _is_between_requests(self) -> bool:
        """Tell whether what comes next begins a request, and the one before is answered."""
        scope: Any = self.scope  # None before the first request
        if scope is None:
            return True
        return "method" in scope and not self._in_body and getattr(self.cycle, "response_complete", False)

    def _feed(self, data: bytes) -> None:
        """Feed the parser; a head that is too long or takes too long ends the connection."""
        self._fed_bytes = len(data)
        self._idle_bytes += len(data)
        idle = self.timeout_keep_alive_task
        super().data_received(data)
        scope: Any = self.scope  # None before the first request
        if self._is_socket:
            self._head_arrived()
            return
        if scope is not None:
            if "method" not in scope:  # only a whole head has told its method
                self._head_goes_on(scope, len(data))
                return
            if self._head_deadline is not None:
                self._head_arrived()
            if self._in_body:
                self._wait_for_body()
            elif getattr(self.cycle, "response_complete", False):  # no cycle: the path could not be read
                self._stay_idle(idle)
        if self._idle_bytes > HEADER_LIMIT_BYTES and not self.transport.is_closing():
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._waiting = b""
        self._head_arrived()
        self._body_arrived()
        super().connection_lost(exc)
        self.server_state.count()

    def on_message_begin(self) -> None:
        """Start a request's scope."""
        super().on_message_begin()
        self.scope["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        """Begin a request whose head is whole."""
        if self._last is not None and not self._last.response_started:
            self._last.keep_alive, self._last = True, None  # one more came behind it
        self._idle_bytes = 0
        carried = self._first_bytes + self._head_bytes if self.scope is self._unfinished else 0
        if carried + self._fed_bytes > HEADER_LIMIT_BYTES and self._head_size() > HEADER_LIMIT_BYTES:
            self._refuse_head()
            raise HeadTooLargeError
        if self.parser.should_upgrade():  # it comes again
            if self.parser.get_method() == b"CONNECT":
                raise TunnelError
            if self._is_for_socket():
                self.server_state.proxy_hint.look(self.headers, self.client)
                super().on_headers_complete()
            return
        version = self.parser.get_http_version()
        try:
            target = read_head(version, self.url, self.headers)
        except BadHeadError as error:
            self._bad_head = str(error)
            raise
        if not self._looked_at:  # PERF: a proxy speaks for clients in all it sends on a connection
            self._looked_at = True
            self.server_state.proxy_hint.look(self.headers, self.client)
        self.expect_100_continue &= version != "1.0"  # which knows of no answer before the answer
        self.url = b"/"  # uvicorn would take what is behind two slashes for a host
        super().on_headers_complete()
        self.scope["path"], self.scope["raw_path"] = target.path, target.raw_path
        self.scope["query_string"] = target.query
        if version == "1.0":
            answer_without_chunks(self.cycle)
        self.headers = _TRAILERS
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        if self.parser.should_upgrade():
            return  # only its head ended
        super().on_message_complete()
        self._in_body = False
        self._body_arrived()
        if self.server_state.draining:
            self.close_behind_answer()

    def on_response_complete(self) -> None:
        """Go on to the next request; of this one's body no more is wanted."""
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._body_arrived()
            self._body_deadline = self.loop.call_later(DISCARD_S, self.transport.abort)

    def shutdown(self) -> None:
        """End with the answer to what came so far."""
        self.look()
        super().shutdown()

    def close_behind_answer(self) -> None:
        """Have the next answer say that the connection ends with it: whoever hears that sends no request into nothing.

        An answer that has begun cannot say it any more, and behind one to a request that is not whole yet it may get
        lost: then it is the one after that.
        """
        cycle: Any = self.cycle  # None before the first request
        if cycle is not None and cycle.keep_alive and not (cycle.response_started or self._in_body):
            cycle.keep_alive, self._last = False, cycle

    def becomes_socket(self) -> bool:
        """Tell whether the connection is a web socket's from here on, which is so if its head asked for that."""
        self._is_socket = self._is_for_socket()
        return self._is_socket

    def _is_for_socket(self) -> bool:
        """Tell whether the head that was parsed last asks for a web socket where there are any, and nothing is open."""
        return (
            is_for_socket(self.url)
            and self.parser.get_method() == b"GET"
            and getattr(self.cycle, "response_complete", True)
            and self._should_upgrade()
        )

    def head_without_upgrade(self) -> bytes:
        """Write the head that was parsed last without its wish for another protocol."""
        line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        fields = [b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        return b"".join([line, *fields, b"\r\n"])

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, unless it was refused already."""
        cycle: Any = self.cycle  # None before the first request
        if self.transport.is_closing():
            return
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or self.pipeline:
                self.transport.abort()  # no answer may cut into another, or be taken for another's
                return
            # Its body is broken, or had no length and was taken for a request: nothing is to be done without it.
            cycle.disconnected = True
            cycle.message_event.set()
        super().send_400_response(self._bad_head or msg)

    def _head_size(self) -> int:
        between = len(b": \r\n")
        return len(self.url) + sum(len(name) + len(value) + between for name, value in self.headers)

    def _head_goes_on(self, scope: object, new_bytes: int) -> None:
        """Count what belongs to one head; its first piece may be the end of a body and is not counted."""
        if scope is not self._unfinished:
            self._unfinished, self._first_bytes, self._head_bytes = scope, new_bytes, 0
            self._head_arrived()
            self._wait_for_head()
            return
        self._head_bytes += new_bytes
        if self._head_bytes > HEADER_LIMIT_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def _wait_for_head(self) -> None:
        self._head_deadline = self.loop.call_later(HEADER_TIMEOUT_S, self._give_up)

    def _head_arrived(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _wait_for_body(self) -> None:
        if self._body_deadline is None:  # a connection that ends in a body has one already
            self._body_deadline = self.loop.call_later(BODY_START_S, self.cycle.message_event.set)

    def _body_arrived(self) -> None:
        if self._body_deadline is not None:
            self._body_deadline.cancel()
            self._body_deadline = None

    def _stay_idle(self, idle: asyncio.TimerHandle | None) -> None:
        """Go on to wait for a request, and no longer for what was none: an empty line, the end of an unwanted body."""
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            end = self.loop.time() + self.timeout_keep_alive if idle is None else idle.when()
            self.timeout_keep_alive_task = self.loop.call_at(end, self.timeout_keep_alive_handler)

    def _give_up(self) -> None:
        self._head_deadline = None
        self.transport.close()

    def _refuse_head(self) -> None:
        if not getattr(self.cycle, "response_complete", True):
            self.transport.abort()  # a pipelined head: no answer may cut into the one that is being sent
            return
        self.transport.write(STATUS_LINE[431] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()


_TRAILERS: Final = Trailers()


class WorkerState(ServerState):
    """What all connections of a worker share; tells the other workers how many they are."""

    def __init__(self, load: Load, slot: int, proxy_hint: ProxyHint) -> None:
        super().__init__()
        self.draining = False
        """Whether others have come to serve, so that each connection ends with its next answer."""
        self.leaving = False
        """Whether that is so, or the worker is to end."""
        self.proxy_hint = proxy_hint
        self.arrivals = Arrivals()
        self._load = load
        self._slot = slot

    def is_leaving(self) -> bool:
        """Tell whether what goes on for ever is to go on elsewhere."""
        return self.leaving

    def count(self) -> None:
        """Publish the number of connections; called whenever it changes."""
        self._load.set(self._slot, len(self.connections))


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
        for listener in self._listeners:
            self._acceptors.append(
                Acceptor(listener, self._make_protocol, lambda: len(self.server_state.connections), self._load)
            )
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
