"""The sockets of `sockets`: its own process, many of them at once, and writes that they are woken by.

`python -m ops.bench.children.held_sockets` reads a `Held` as JSON from stdin and prints a `Woken` at its end. The
writes are its own, so that both ends of a wake-up are told by one clock.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

WAKE: Final = b'42["on_album_update"]'
PING: Final = b"\x81\x012"
PONG: Final = b"\x81\x810000\x03"
"""A masked text frame of `3`, with a mask that is `0000`."""
JOIN: Final = b"\x81\x820000\x04\x00"
OPENING: Final = 200
"""Sockets that are opened at the same time."""
REST_S: Final = 6.0
WAIT_S: Final = 120.0


class Held(msgspec.Struct, frozen=True):
    """`tokens` of one library after the other; `libraries` in their order, `key` to write to them.

    Each library is written to `writes` times, apart enough for no wake-up to be held back. Then `ready` is made, and
    the sockets are held until `release` is there.
    """

    port: int
    tokens: tuple[tuple[str, ...], ...]
    libraries: tuple[str, ...]
    key: str
    writes: int
    ready: str
    release: str


class Woken(msgspec.Struct, frozen=True):
    """How long each wake-up took from the sending of its write, in ms, and how many sockets were open to the end."""

    took_ms: tuple[float, ...]
    open: int


class Socket(asyncio.Protocol):
    """One socket, as bytes: it joins, answers pings, and notes when it was woken."""

    def __init__(self, token: str, port: int, woken: Any) -> None:
        self._token = token
        self._port = port
        self._woken = woken
        self._transport: asyncio.Transport
        self.joined = asyncio.get_running_loop().create_future()
        self.open = False
        self._asked = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        head = (
            f"GET /api/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\n"
            "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
            f"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nx-immich-user-token: {self._token}\r\n\r\n"
        )
        transport.write(head.encode())

    def data_received(self, data: bytes) -> None:
        """Frames of the server's are short: what is looked for is never cut, or comes again."""
        if not self._asked:
            self._asked = b'0{"sid"' in data
            if self._asked:
                self._transport.write(JOIN)
        if WAKE in data:
            if not self.joined.done():
                self.open = True
                self.joined.set_result(None)  # it never synced, so it is woken when it joins
            else:
                self._woken(time.monotonic())
        if PING in data:
            self._transport.write(PONG)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if not self.joined.done():
            self.joined.set_exception(ConnectionError(f"a socket was not let in: {exc}"))


async def hold(held: Held) -> Woken:
    """Open the sockets, write, and hold them."""
    loop = asyncio.get_running_loop()
    came: list[float] = []
    sockets: list[Socket] = []
    turns = asyncio.Semaphore(OPENING)

    async def one(token: str) -> None:
        async with turns:
            socket = Socket(token, held.port, came.append)
            sockets.append(socket)
            await loop.create_connection(lambda: socket, "127.0.0.1", held.port)
            await asyncio.wait_for(socket.joined, WAIT_S)

    await asyncio.gather(*(one(token) for tokens in held.tokens for token in tokens))
    _touch(f"{held.ready}.open")
    took: list[float] = []
    for number in range(held.writes):
        await asyncio.sleep(REST_S)
        for library, tokens in zip(held.libraries, held.tokens, strict=True):
            came.clear()
            began = time.monotonic()
            await _write(held, library, f"w{number}")
            until = began + WAIT_S
            while len(came) < len(tokens) and time.monotonic() < until:  # noqa: ASYNC110 - what comes is counted
                await asyncio.sleep(0.001)
            took += [(at - began) * 1000 for at in came]
    _touch(held.ready)
    while not _exists(held.release):  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.05)
    return Woken(tuple(took), sum(socket.open for socket in sockets))


def _touch(path: str) -> None:
    Path(path).touch()


def _exists(path: str) -> bool:
    return Path(path).exists()


async def _write(held: Held, library: str, user: str) -> None:
    body = b'{"type":"UserDeleteV1","data":{"userId":"%s"}}\n' % user.encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", held.port)
    writer.write(
        f"POST /ledger/libraries/{library}/entities HTTP/1.1\r\nhost: x\r\nx-api-key: {held.key}\r\n"
        f"content-type: application/x-ndjson\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
        + body
    )
    answer = await reader.read()
    writer.close()
    if b" 200 " not in answer[:16]:
        raise RuntimeError(f"a write was not taken: {answer[:300]!r}")


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main() -> None:
    """Do what stdin says."""
    held = msgspec.json.decode(sys.stdin.buffer.read(), type=Held)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(hold(held))))


if __name__ == "__main__":
    main()
