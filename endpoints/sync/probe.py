"""GET /api/sync/probe: what lies between a device and this service, as `syncledger immich check` asks.

The path is one of those that a proxy must treat as streams are, and a GET is what proxies ask somebody else for again.
Nothing of any session or library is in the answers.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Final, Literal

import falcon
import falcon.asgi
import msgspec

from endpoints.http import bodies
from endpoints.http.operations import KEY, Operation, Route, Text
from endpoints.http.request import Request
from endpoints.http.sending import TRANSPORT, always, guarded
from endpoints.services import Services
from endpoints.sync.stream import JSON_LINES

PATH: Final = "/api/sync/probe"
SCOPE: Final = "proxy.check"
LONGEST_S: Final = 900.0
BULK_LINES: Final = 32
BULK_BYTES: Final = 1 << 20
"""32 MiB in all: some 8 of them the kernel may hold on the way through a proxy."""
AT_ONCE: Final = 8
"""How many answers of a worker may be under way."""
_RETRY_S: Final = 5


class ProbeQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What to answer with.

    `lines`: two lines with a pause between them. `bulk`: BULK_LINES lines of BULK_BYTES, each with its time.
    `unavailable`: 503. `nothing`: no answer at all, as if the service died.
    """

    answer: Literal["lines", "bulk", "unavailable", "nothing"] = "lines"
    pause_s: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_S)] = 0.0


class FirstLine(msgspec.Struct, frozen=True):
    """How the request came: the client and the scheme that the service takes it to have."""

    client: str
    scheme: str


class BulkLine(msgspec.Struct, frozen=True, rename="camel"):
    """When a line could be sent, in seconds since the first one, and what makes it long."""

    sent_s: float
    padding: str


class Probe:
    """Answers as it is told to."""

    def __init__(self, services: Services) -> None:
        self._auth = services.auth
        self._stall_s = services.stall_s
        self._under_way = 0

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._auth.key(req, SCOPE)
        wanted = bodies.query(req, ProbeQuery)
        resp.set_header("cache-control", "no-store")
        if wanted.answer == "unavailable":
            resp.status = falcon.HTTP_503
            resp.set_header("retry-after", str(_RETRY_S))
            return
        if wanted.answer == "nothing":
            transport: asyncio.Transport | None = req.scope.get("extensions", {}).get(TRANSPORT)
            if transport is not None:
                transport.abort()
            return
        if self._under_way >= AT_ONCE:
            raise falcon.HTTPTooManyRequests(description="Too many probes at once", retry_after=_RETRY_S)
        resp.content_type = JSON_LINES
        first = msgspec.json.encode(FirstLine(req.remote_addr, req.scheme)) + b"\n"
        made = _bulk() if wanted.answer == "bulk" else _lines(first, wanted.pause_s)
        resp.stream = guarded(req, self._counted(made), always, self._stall_s)

    async def _counted(self, made: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        self._under_way += 1
        try:
            async for line in made:
                yield line
        finally:
            self._under_way -= 1
            await made.aclose()


async def _lines(first: bytes, pause_s: float) -> AsyncGenerator[bytes]:
    yield first
    await asyncio.sleep(pause_s)
    yield b"{}\n"


async def _bulk() -> AsyncGenerator[bytes]:
    """Make lines that hardly compress, each when somebody takes it."""
    began_s = time.monotonic()
    padding = base64.b64encode(os.urandom(BULK_BYTES * 3 // 4)).decode()
    for _ in range(BULK_LINES):
        yield msgspec.json.encode(BulkLine(time.monotonic() - began_s, padding)) + b"\n"


def routes(services: Services) -> Iterator[Route]:
    """List the one route."""
    operation = Operation(
        "GET",
        "probeProxy",
        "Answer so that it shows what a proxy in between does with streams",
        {200: Text(JSON_LINES, 'Two lines: {"client", "scheme"} at once, {} after the pause')},
        KEY,
        query=ProbeQuery,
        refusals=(429,),
    )
    yield Route(PATH, Probe(services), (operation,))
