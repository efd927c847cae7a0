"""HTTP/1.1 as a worker speaks it: uvicorn's protocol, and what bounds a request before the application sees it."""

from __future__ import annotations

import asyncio
from array import array
from typing import Any, Final

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from ops.server.connection_balance import Load
from ops.server.http_rules import BadHeadError, answer_without_chunks, read_head
from ops.server.proxies import ProxyHint
from ops.server.web_sockets import is_for_socket

HEADER_LIMIT_BYTES = 64 * 1024
HEADER_TIMEOUT_S = 30.0
BODY_START_S = 5.0
"""How long a request with a body waits for the first of it before the application is asked, which bounds the rest."""
DISCARD_S = 30.0
"""How long what comes of a body after the answer is thrown away: a client that is cut off at once may not see it."""
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
        self._idle_bytes = 0
        """How much came since there was part of a body, or a head was whole: chunk extensions and trailers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin: a client that says nothing is not kept for ever."""
        super().connection_made(transport)
        self.server_state.count()
        self._extensions = {TRANSPORT: transport, LEAVING: self.server_state.is_leaving}
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
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
        self._load = load
        self._slot = slot

    def is_leaving(self) -> bool:
        """Tell whether what goes on for ever is to go on elsewhere."""
        return self.leaving

    def count(self) -> None:
        """Publish the number of connections; called whenever it changes."""
        self._load.set(self._slot, len(self.connections))
