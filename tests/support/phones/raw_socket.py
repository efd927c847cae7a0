"""A web socket as bytes: what the app's own client would not send can be sent, and what it hides is seen."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

SOCKET = "/api/socket.io/?EIO=4&transport=websocket"


class Refused(Exception):
    """The server answered with HTTP instead; `body` is its JSON."""

    def __init__(self, status: int, headers: dict[str, str], body: Any) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.headers = headers
        self.body = body


class RawSocket:
    """One connection; `answers` tells whether it answers pings of the server's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._texts: list[str] = []
        self.answers = True
        self.pings = 0
        self.closed: int | None = None
        """With which code the server closed it; 1006 without a word."""

    @classmethod
    async def open(cls, port: int, target: str = SOCKET, **headers: str) -> Self:
        """Open a socket without joining; `_` stands for `-` in headers. Raises Refused."""
        socket = cls(*await asyncio.open_connection("127.0.0.1", port))
        extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        socket._send(Request(host=f"127.0.0.1:{port}", target=target, extra_headers=extra))
        status, fields, body = 0, {}, b""
        while True:
            data = await asyncio.wait_for(socket._reader.read(65536), 30)
            socket._connection.receive_data(data or None)
            for event in socket._connection.events():
                if isinstance(event, AcceptConnection):
                    return socket
                if isinstance(event, RejectConnection):
                    status = event.status_code
                    fields = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, RejectData):
                    body += event.data
                    if event.body_finished:
                        socket._writer.close()
                        raise Refused(status, fields, json.loads(body) if body else None)

    @classmethod
    async def join(cls, port: int, target: str = SOCKET, **headers: str) -> Self:
        """Open a socket and join, as the app's client does."""
        socket = await cls.open(port, target, **headers)
        opened = json.loads((await socket.text())[1:])
        assert opened["upgrades"] == [], opened
        socket.say("40")
        assert (await socket.text()).startswith("40{")
        return socket

    def say(self, message: str | bytes) -> None:
        """Send a message."""
        self._send(TextMessage(message) if isinstance(message, str) else BytesMessage(message))

    async def text(self) -> str:
        """Return the next message that is no ping; raises ConnectionError where the server closed."""
        while not self._texts:
            if self.closed is not None:
                raise ConnectionError(self.closed)
            await self._take()
        return self._texts.pop(0)

    async def event(self, *passing: str) -> list[Any]:
        """Return the next event with its arguments; those named are passed over."""
        while True:
            text = await self.text()
            assert text.startswith("42"), text
            event: list[Any] = json.loads(text[2:])
            if event[0] not in passing:
                return event

    async def until_closed(self) -> list[str]:
        """Wait until the server closes and return what came before."""
        found = []
        try:
            while True:
                found.append(await self.text())
        except ConnectionError:
            return found

    async def pinged(self, count: int) -> None:
        """Wait until so many pings came."""
        while self.pings < count:
            assert self.closed is None, self.closed
            await self._take()

    async def quiet(self, seconds: float) -> bool:
        """Tell whether nothing comes for a time."""
        try:
            async with asyncio.timeout(seconds):
                self._texts.insert(0, await self.text())
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        """End the connection without a word."""
        self._writer.transport.abort()

    def _send(self, event: Any) -> None:
        self._writer.write(self._connection.send(event))

    async def _take(self) -> None:
        try:
            data = await asyncio.wait_for(self._reader.read(65536), 60)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = self.closed or 1006
            return
        self._connection.receive_data(data)
        for event in self._connection.events():
            if isinstance(event, TextMessage):
                if event.data != "2":
                    self._texts.append(event.data)
                    continue
                self.pings += 1
                if self.answers:
                    self.say("3")
            elif isinstance(event, CloseConnection):
                self.closed = event.code
                self._send(event.response())
            elif isinstance(event, Ping):
                self._send(event.response())
