"""HTTP/1.1 as a worker speaks it on one connection: requests are taken apart, bounded, and answered in their order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from endpoints.http.quick import QuickWays
from ops.server.arrivals import ACKS
from ops.server.deadline import Deadline
from ops.server.http_exchange import STATUS_LINES, App, Exchange
from ops.server.http_heads import END, Head
from ops.server.http_rules import TRAILERS, BadHeadError, Fields, read_head, size_of, without_upgrade
from ops.server.web_sockets import asks_for_socket, hand_over
from ops.server.worker_state import WorkerState

log = logging.getLogger("uvicorn.error")

HEADER_LIMIT_BYTES = 64 * 1024
HEADER_TIMEOUT_S = 30.0
BODY_START_S = 5.0
"""How long a request with a body waits for the first of it before the application is asked, which bounds the rest."""
DISCARD_S = 30.0
"""How long what comes of a body after the answer is thrown away: a client that is cut off at once may not see it."""
READ_AHEAD: Final = 8
"""How many requests may wait for the answers before theirs while more is read, if only to see that the client left."""
MOST_PIPELINED: Final = 1024
"""How many may come in one piece, which 256 bytes of each fill: whoever writes more of less only fills memory."""
TRANSPORT = "ledger.transport"
LEAVING = "ledger.leaving"
_NO_HTTP: Final = "Invalid HTTP request received."


class HeadTooLargeError(Exception):
    """Ends the parsing of a request that was refused for the size of its head."""


class TunnelError(Exception):
    """Ends the parsing at CONNECT: what follows it is no HTTP, and nothing here connects to others."""


class PipelineTooLongError(Exception):
    """Ends the parsing where more requests wait than are kept."""


class LedgerHttpProtocol(asyncio.Protocol):
    """HTTP/1.1 that gives the application the connection's transport and bounds all of a request but its body.

    Of the body it bounds what the application cannot: the wait for its beginning, and what comes after the answer.

    The stream writer needs the transport: a connection whose reader stalled can only be ended by `transport.abort()`,
    and how much is unsent only it knows. It is `scope["extensions"]["ledger.transport"]`.

    It takes the place of uvicorn's protocol, whose server makes it and tells it to end: what that one does for each
    request costs more than what most requests are about.
    """

    def __init__(
        self,
        config: Config,
        server_state: WorkerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.flow: FlowControl
        self.server: tuple[str, int | None] | None = None
        self.client: tuple[str, int] | None = None
        self.scheme = "http"
        self.extensions: dict[str, Any] = {}
        self._config = config
        self._app: App = config.loaded_app
        self._quick: QuickWays = getattr(config.app, "quick", {})
        self._idle_s = config.timeout_keep_alive
        self._deadline = Deadline(self.loop)
        self._pipeline: deque[Exchange] = deque()
        """Requests that wait for the answers before theirs."""
        self._asked: Exchange | None = None
        """The request that came last."""
        self._served: Exchange | None = None
        """The one that is answered now, or was last."""
        self._to_serve: Exchange | None = None
        """One that is to be served once what came has been parsed."""
        self._last: Exchange | None = None
        """The request whose answer ends the connection, though its client would go on."""
        self._waited_for: Exchange | None = None
        """The request whose body was waited for."""
        self._waiting: bytes | bytearray = b""
        """What came of a request that nobody looked at yet."""
        self._is_socket = False
        self._looked_at = False
        self._url = b""
        self._fields: Fields = []
        self._expects_100 = False
        self._bad_head = ""
        """What is wrong with the head that ended the parsing."""
        self._in_head = False
        self._begun = 0
        """How many heads began in what is parsed now."""
        self._first_bytes = 0
        self._head_bytes = 0
        """Of a head that did not come whole at once: how much its first piece and the others were."""
        self._fed_bytes = 0
        self._idle_bytes = 0
        """How much came since there was part of a body, or a head was whole: chunk extensions and trailers."""
        self._begin_parsing()

    # What the event loop tells ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin: a client that says nothing is not kept for ever."""
        self.transport = transport
        self.flow = FlowControl(transport)
        self.server, self.client = get_local_addr(transport), get_remote_addr(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self.extensions = {TRANSPORT: transport, LEAVING: self.server_state.is_leaving}
        self.server_state.connections.add(self)  # type: ignore[arg-type] # no protocol of uvicorn's
        self.server_state.count()
        self._deadline.set(HEADER_TIMEOUT_S, self._close)

    def data_received(self, data: bytes) -> None:
        """Take what came: an ack at once, the beginning of anything else when it is its turn."""
        if (self._waiting or not data.startswith(ACKS)) and self._waits(data):
            return
        self._take(data)

    def look(self) -> bool:
        """Take what came while it was others' turn; tells whether there was anything."""
        if not self._waiting:
            return False
        came, self._waiting = bytes(self._waiting), b""
        self._deadline.set(HEADER_TIMEOUT_S, self._close)  # it may be the end of a line, of which nothing follows
        self.flow.resume_reading()
        self._take(came)
        return True

    def _waits(self, data: bytes) -> bool:
        """Keep what came if the request has to wait; tells whether that is so."""
        if not self._waiting:
            if not self._is_at_rest() or self.server_state.arrivals.pass_one():
                return False
            self._deadline.clear()
            self.server_state.arrivals.wait(self.look)
            self._waiting = bytearray()
        self._waiting += data
        if len(self._waiting) > HEADER_LIMIT_BYTES:
            self.flow.pause_reading()
        return True

    def _is_at_rest(self) -> bool:
        """Tell whether what comes next begins a request, and all before are answered."""
        asked = self._asked
        return (
            not self._in_head
            and not self._idle_bytes
            and (asked is None or (asked.response_complete and not asked.more_body))
        )

    def _take(self, data: bytes) -> None:
        """Parse what came, and serve the request that is in it."""
        state = self.server_state
        may_be_known = self._looked_at and not state.draining and self._is_at_rest()
        raw = data[: data.find(END) + len(END)] if may_be_known else b""
        if raw:
            known = state.heads.find(raw)
            if known is not None and len(data) - len(raw) == known[1]:
                exchange = Exchange(self, known[0])
                exchange.take(data[len(raw) :])
                exchange.more_body = False
                self._asked = exchange
                self._deadline.clear()
                self._serve(exchange)
                return
        self._begun, self._fed_bytes = 0, len(data)
        self._idle_bytes += len(data)
        self._parse(data)
        to_serve, self._to_serve = self._to_serve, None
        if to_serve is not None and not self.transport.is_closing():
            if raw and self._begun == 1 and not to_serve.more_body and state.heads.came_before(raw):
                self._learn(raw, data[len(raw) :], to_serve)
            self._serve(to_serve)
        if self._is_socket:
            return
        if self._in_head:
            self._head_goes_on(len(data))
            return
        asked = self._asked
        if asked is not None and asked.more_body and not asked.response_complete and asked is not self._waited_for:
            self._waited_for = asked
            self._deadline.set(BODY_START_S, asked.tell)
        if self._idle_bytes > HEADER_LIMIT_BYTES and not self.transport.is_closing():
            self.transport.abort()

    def eof_received(self) -> None:
        """End: who sends no more is taken for gone."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._waiting = b""
        self._deadline.end()
        self.server_state.connections.discard(self)
        self.server_state.count()
        for exchange in (self._served, self._asked, *self._pipeline):
            if exchange is not None:
                exchange.leave()
        self._pipeline.clear()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        del self._parser  # it holds this

    def pause_writing(self) -> None:
        """Have answers wait for a reader that is slow."""
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        """Have them go on."""
        self.flow.resume_writing()

    # What the parser tells --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._begun += 1
        self._in_head = True
        self._first_bytes = self._head_bytes = 0
        self._url, self._fields, self._expects_100 = b"", [], False

    def on_url(self, part: bytes) -> None:
        """Take a part of a request's target."""
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of its head."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_100 = True
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Take a request whose head is whole."""
        if self._last is not None and not self._last.response_started:
            self._last.keep_alive, self._last = True, None  # one more came behind it
        self._idle_bytes = 0
        came_bytes = self._first_bytes + self._head_bytes + self._fed_bytes  # perhaps of other requests, too
        if came_bytes > HEADER_LIMIT_BYTES and size_of(self._url, self._fields) > HEADER_LIMIT_BYTES:
            self._refuse_head()
            raise HeadTooLargeError
        parser, fields = self._parser, self._fields
        if parser.should_upgrade():  # it comes again
            if parser.get_method() == b"CONNECT":
                raise TunnelError
            if self._is_for_socket():
                self.server_state.proxy_hint.look(fields, self.client)
            return
        version = parser.get_http_version()
        try:
            target = read_head(version, self._url, fields)
        except BadHeadError as error:
            self._bad_head = str(error)
            raise
        self._in_head = False
        self._deadline.clear()
        if not self._looked_at:  # PERF: a proxy speaks for clients in all it sends on a connection
            self._looked_at = True
            self.server_state.proxy_hint.look(fields, self.client)
        is_newer = version != "1.0"  # which knows of no answer before the answer, and ends with each
        keeps_alive = is_newer and parser.should_keep_alive()
        head = Head(parser.get_method(), self._url, version, target, fields, keeps_alive)
        before, self._asked = self._asked, Exchange(self, head, is_newer and self._expects_100)
        self._fields = TRAILERS
        if before is None or before.response_complete:
            self._to_serve = self._asked
        else:
            self._pipeline.append(self._asked)
            if len(self._pipeline) > MOST_PIPELINED:
                self.transport.abort()
                raise PipelineTooLongError
            if len(self._pipeline) > READ_AHEAD:
                self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._idle_bytes = 0
        asked = self._asked
        if asked is not None and not asked.response_complete and asked.take(body):
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        asked = self._asked
        if asked is None or self._in_head:
            return  # only the head of one that comes again ended
        asked.more_body = False
        if asked.response_complete:
            if not asked.keep_alive:
                self._close()
                return
            self._deadline.set(self._idle_s, self._close)
        else:
            self._deadline.clear()
            asked.tell()
        if self.server_state.draining:
            self.close_behind_answer()

    # What goes on -----------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Go on to the next request; of this one's body no more is wanted."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.read_on()
        if self._pipeline:
            self._serve(self._pipeline.popleft())
        elif self._asked is not None and self._asked.more_body:
            self._deadline.set(DISCARD_S, self.transport.abort)
        elif not self._in_head:
            self._deadline.set(self._idle_s, self._close)

    def read_on(self) -> None:
        """Have more read, unless enough requests wait for their turn."""
        if len(self._pipeline) <= READ_AHEAD:
            self.flow.resume_reading()

    def close_behind_answer(self) -> None:
        """Have the next answer say that the connection ends with it: whoever hears that sends no request into nothing.

        An answer that has begun cannot say it any more, and behind one to a request that is not whole yet it may get
        lost: then it is the one after that.
        """
        asked = self._asked
        if asked is not None and asked.keep_alive and not (asked.response_started or asked.more_body):
            asked.keep_alive, self._last = False, asked

    def shutdown(self) -> None:
        """End, behind the answer to what came so far; called by the server."""
        self.look()
        if self._asked is None or self._asked.response_complete:
            self.transport.close()
        else:
            self._asked.keep_alive = False

    def _serve(self, exchange: Exchange) -> None:
        """Have a request answered, on the quick way if there is one that takes it."""
        self._served = exchange
        way = self._quick.get(exchange.head.line)
        if (
            way is None
            or exchange.more_body
            or exchange.waits_for_100
            or self.flow.write_paused
            or not way.begin(exchange)
        ):
            self.serve_plainly(exchange)

    def serve_plainly(self, exchange: Exchange) -> None:
        """Have the application answer."""
        exchange.task = task = self.loop.create_task(exchange.run(self._app))
        self.server_state.tasks.add(task)

    def _learn(self, raw: bytes, body: bytes, exchange: Exchange) -> None:
        """Remember the head of a request that was all that came, if it ended where it says."""
        head, size = exchange.head, len(body)
        if head.keeps_alive and not exchange.waits_for_100 and head.body_bytes == size and exchange.body == body:
            self.server_state.heads.keep(raw, head, size)

    # Parsing ----------------------------------------------------------------------------------------------------------

    def _begin_parsing(self) -> None:
        self._parser = HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # a request behind the last is no error

    def _parse(self, data: bytes) -> None:
        """Parse what came. That a client would rather speak something else changes nothing.

        Only where there are web sockets, on one path, a request for one is let through.

        An `Upgrade` may be ignored (RFC 9110, section 7.8), and Java's client offers one with every request. To
        httptools all behind such a head is the other protocol, so the request has no body, and its body is the next
        request. So the head is parsed once more, without that field.
        """
        rest: bytes | memoryview = data
        try:
            while True:
                try:
                    self._parser.feed_data(rest)
                except HttpParserUpgrade as upgrade:
                    (head_end,) = upgrade.args
                else:
                    return
                if self._is_for_socket():
                    self._become_socket()
                    return
                parser = self._parser
                head = without_upgrade(parser.get_method(), self._url, parser.get_http_version(), self._fields)
                self._begin_parsing()  # behind the last request of a connection it would ignore all that comes
                self._parser.feed_data(head)
                rest = memoryview(rest)[head_end:]
        except HttpParserError:
            log.warning(_NO_HTTP)
            self._refuse(_NO_HTTP)

    def _is_for_socket(self) -> bool:
        """Tell whether the head that was parsed last asks for a web socket where there are any, and nothing is open."""
        return (
            asks_for_socket(self._parser.get_method(), self._url, self._fields)
            and (self._asked is None or self._asked.response_complete)
            and self._config.ws_protocol_class is not None
        )

    def _become_socket(self) -> None:
        """Give the connection to the protocol of web sockets, which is told the request."""
        self._is_socket = True
        self._deadline.end()
        self.server_state.connections.discard(self)
        hand_over(self._config, self.server_state, self.app_state, self.transport, self._url, self._fields)
        del self._parser  # it holds this

    # Refusing ---------------------------------------------------------------------------------------------------------

    def _refuse(self, why: str) -> None:
        """Refuse what is no HTTP, unless it was refused already."""
        asked = self._asked
        if self.transport.is_closing():
            return
        if asked is not None and not asked.response_complete:
            if asked.response_started or self._pipeline:
                self.transport.abort()  # no answer may cut into another, or be taken for another's
                return
            # Its body is broken, or had no length and was taken for a request: nothing is to be done without it.
            asked.leave()
        elif asked is not None and not asked.keep_alive:
            self.transport.close()  # its answer was the last
            return
        told = (self._bad_head or why).encode("ascii")
        fields = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n" % len(told)
        lines = self.server_state.field_lines
        self.transport.write(b"%b%b%b\r\n%b" % (STATUS_LINES[400], lines, fields, told))
        self.transport.close()

    def _head_goes_on(self, new_bytes: int) -> None:
        """Count what belongs to one head; its first piece may be the end of a body and is not counted."""
        if not self._first_bytes:
            self._first_bytes = new_bytes
            self._deadline.set(HEADER_TIMEOUT_S, self._close)
            return
        self._head_bytes += new_bytes
        if self._head_bytes > HEADER_LIMIT_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def _refuse_head(self) -> None:
        if self._asked is not None and not self._asked.response_complete:
            self.transport.abort()  # a pipelined head: no answer may cut into the one that is being sent
            return
        self.transport.write(STATUS_LINES[431] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    def _close(self) -> None:
        self.transport.close()
