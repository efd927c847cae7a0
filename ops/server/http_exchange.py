"""One request and its answer, as ASGI has them: `receive` gives the body as it comes, `send` writes the answer.

It takes the place of uvicorn's. An answer that is whole leaves in one write, and what a request may not need is not
made for it, as an event to wait for more of a body that is all there.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, Protocol

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from endpoints.http.quick import BEGUN
from ops.server.http_heads import Head
from ops.server.worker_state import WorkerState

log = logging.getLogger("uvicorn.error")

STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_FIELD_LINES: Final = re.compile(rb"(?:[^\x00-\x1f\x7f()<>@,;:\[\]={} \t\\\"]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")
"""Fields of an answer, a line each; a value that held a line's end would be a field of its own."""
_COPIED_BYTES: Final = 64 * 1024
"""How long a body may be to be copied behind its head, which costs less than another write."""
_BODILESS: Final = (204, 304)
_FAILED: Final = b"Internal Server Error"

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class Connection(Protocol):
    """What requests are asked on."""

    transport: asyncio.Transport
    flow: FlowControl
    server: tuple[str, int | None] | None
    client: tuple[str, int] | None
    scheme: str
    server_state: WorkerState
    app_state: dict[str, Any]
    extensions: dict[str, Any]

    def on_response_complete(self) -> None:
        """Go on to the next request."""

    def read_on(self) -> None:
        """Have more read, unless enough waits."""

    def serve_plainly(self, exchange: Exchange) -> None:
        """Have the application answer."""


class Exchange:
    """A request that is asked on a connection, and its answer."""

    __slots__ = (
        "_chunked", "_event", "_held", "_left", "_news", "_unframed", "body", "disconnected", "extension", "head",
        "keep_alive", "more_body", "protocol", "response_complete", "response_started", "task", "waits_for_100",
    )  # fmt: skip

    def __init__(self, protocol: Connection, head: Head, waits_for_100: bool = False) -> None:
        self.protocol = protocol
        self.head = head
        self.waits_for_100 = waits_for_100
        self.body: bytes | bytearray = b""
        """What came of the body and was not received yet."""
        self.more_body = True
        """Whether more is to come."""
        self.extension: dict[str, Any] | None = None
        """What the application is given beside what it is given on this connection."""
        self.task: asyncio.Task[None] | None = None
        self.disconnected = False
        self.keep_alive = head.keeps_alive
        self.response_started = False
        self.response_complete = False
        self._news = False
        self._event: asyncio.Event | None = None
        self._chunked = False
        self._unframed = False
        self._held = b""
        self._left = 0

    def take(self, part: bytes) -> bool:
        """Take a part of the body; tells whether so much waits that no more is to be read meanwhile."""
        held = self.body
        if not held:
            self.body = part
        elif isinstance(held, bytearray):
            held += part
        else:
            self.body = bytearray(held) + part
        self.tell()
        return len(self.body) > HIGH_WATER_LIMIT

    def tell(self) -> None:
        """Wake who waits in `receive`."""
        self._news = True
        if self._event is not None:
            self._event.set()

    def leave(self) -> None:
        """Note that the client is gone, or that nothing is to be done for it any more."""
        self.disconnected = self.disconnected or not self.response_complete
        self.tell()

    async def run(self, app: App) -> None:
        """Have an application answer."""
        protocol = self.protocol
        try:
            await app(self._scope(), self.receive, self.send)
        except BaseException as error:
            log.error("Exception in ASGI application\n", exc_info=error)
            await self._fail()
        else:
            if not self.response_complete and not self.disconnected:
                log.error("ASGI callable returned without completing its response")
                await self._fail()
        finally:
            if self.task is not None:
                protocol.server_state.tasks.discard(self.task)

    async def receive(self) -> dict[str, Any]:
        """Return what came of the body since, or wait for more of it, or for the end."""
        protocol = self.protocol
        if self.waits_for_100 and not protocol.transport.is_closing():
            self.waits_for_100 = False
            protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.disconnected and not self.response_complete:
            protocol.read_on()
            if not self._news:
                self._event = self._event or asyncio.Event()
                await self._event.wait()
            self._news = False
            if self._event is not None:
                self._event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), b""
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: dict[str, Any]) -> None:
        """Take an event of the answer; raises RuntimeError for one that does not follow, or would not be HTTP."""
        flow = self.protocol.flow
        if flow.write_paused and not self.disconnected:
            await flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            self._begin(message["status"], message.get("headers", ()))
        elif self.response_complete or kind != "http.response.body":
            raise RuntimeError(f"Unexpected ASGI message '{kind}'")
        else:
            self._go_on(message.get("body", b""), message.get("more_body", False))

    def answer(self, status: int, field_lines: bytes) -> None:
        """Answer without a body; `field_lines` are known to be HTTP."""
        if self.disconnected:
            return
        self.response_started = True
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        lines = self.protocol.server_state.field_lines
        self.protocol.transport.write(b"%b%b%b%b" % (STATUS_LINES[status], lines, field_lines, end))
        self._complete()

    def serve_plainly(self, begun: object) -> None:
        """Have the application answer, which is given what a quick way began."""
        self.extension = {BEGUN: begun}
        self.protocol.serve_plainly(self)

    def _scope(self) -> dict[str, Any]:
        head, protocol = self.head, self.protocol
        target = head.target
        extensions = protocol.extensions
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "server": protocol.server,
            "client": protocol.client,
            "scheme": protocol.scheme,
            "method": head.method,
            "root_path": "",
            "path": target.path,
            "raw_path": target.raw_path,
            "query_string": target.query,
            "headers": head.fields.copy(),
            "state": protocol.app_state.copy(),
            "extensions": extensions if self.extension is None else extensions | self.extension,
        }

    def _begin(self, status: int, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """Write the head of the answer, or hold it for a body that comes with it."""
        self.response_started = True
        self.waits_for_100 = False
        framed = closes = False
        lines: list[bytes] = []
        count = 0
        for name, value in fields:
            name = name.lower()
            if name == b"content-length" and not framed:
                framed, self._left = True, int(value)
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                framed = self._chunked = True
                self._left = 0
            elif name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]:
                self.keep_alive, closes = False, True
            lines += (name, b": ", value, b"\r\n")
            count += 1
        told = b"".join(lines)
        if told.count(b"\n") != count or not _FIELD_LINES.fullmatch(told):
            raise RuntimeError("Invalid HTTP header name or value.")
        more = b"" if self.keep_alive or closes else b"connection: close\r\n"
        bodiless = self.head.method == "HEAD" or status in _BODILESS
        if not framed and not bodiless:
            if self.head.version == "1.0":  # chunks are of 1.1, and would be taken for the body: it ends as it closes
                self._unframed = True
            else:
                self._chunked = True
                more += b"transfer-encoding: chunked\r\n"
        head = b"%b%b%b%b\r\n" % (STATUS_LINES[status], self.protocol.server_state.field_lines, told, more)
        if framed or bodiless:
            self._held = head
        else:  # its first part may be long in coming
            self.protocol.transport.write(head)

    def _go_on(self, body: bytes, more_body: bool) -> None:
        """Write a part of the answer's body, and its end if no more comes."""
        if self.head.method == "HEAD":
            self._left, body = 0, b""
        elif self._chunked:
            end = b"" if more_body else b"0\r\n\r\n"
            body = b"%x\r\n%b\r\n%b" % (len(body), body, end) if body else end
        elif not self._unframed:
            if len(body) > self._left:
                raise RuntimeError("Response content longer than Content-Length")
            self._left -= len(body)
        if not more_body and self._left:
            raise RuntimeError("Response content shorter than Content-Length")
        write = self.protocol.transport.write
        if self._held:
            head, self._held = self._held, b""
            if len(body) > _COPIED_BYTES:
                write(head)
            else:
                body = head + body
        if body:
            write(body)
        if not more_body:
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self.tell()
        if not self.keep_alive:
            self._close()
        self.protocol.on_response_complete()

    def _close(self) -> None:
        """End the connection; while more of a body comes, only its own side: else the client may not see the answer."""
        transport = self.protocol.transport
        if self.more_body and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
        else:
            transport.close()

    async def _fail(self) -> None:
        """Answer that something went wrong here, or break the connection where an answer has begun."""
        if self.response_started or self.disconnected:
            self.protocol.transport.close()
            return
        length = b"%d" % len(_FAILED)
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", length)]
        await self.send(
            {"type": "http.response.start", "status": 500, "headers": [*headers, (b"connection", b"close")]}
        )
        await self.send({"type": "http.response.body", "body": _FAILED})
