"""The floors: bare Falcon applications that do the least anything with the same result could do.

They run under gunicorn, uvicorn, uvloop and httptools as the service does, with uvicorn's own HTTP protocol.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, cast

import falcon
import falcon.asgi
import msgspec
from redis.asyncio import Redis
from uvicorn_worker import UvicornWorker

from ops.server.worker import LedgerWorker

REDIS_VARIABLE: Final = "BENCH_REDIS"
IDS: Final = "bench:ids"
LINES: Final = "bench:lines"
PAGE: Final = 1000
CHUNK_BYTES: Final = 64 * 1024
_COMPLETE_LINE: Final = (
    b'{"type":"SyncCompleteV1","data":{},"ack":"SyncCompleteV1|2025-01-20T10:31:00.000000Z|7c",'
    b'"ids":["2025-01-20T10:31:00.000000Z"]}\n'
)
_READ: Final = b'{"authStatus":true}'


class _Acks(msgspec.Struct):
    acks: list[str]


class _Acked:
    """Decodes an ack request and forgets it."""

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(_Acks).decode

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        self._decode(await req.stream.read())
        resp.status = falcon.HTTP_204


class _Streamed:
    """Sends a sorted set of ids with their lines from a hash: ZRANGE and HMGET in pages, 64 KB a write."""

    def __init__(self, url: str) -> None:
        self._redis: Redis = Redis.from_url(url)

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        await req.stream.read()
        resp.content_type = "application/jsonlines+json"
        resp.stream = self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        start = 0
        while ids := cast(list[bytes], await self._redis.zrange(IDS, start, start + PAGE - 1)):
            start += PAGE
            lines: Sequence[Any] = await self._redis.hmget(LINES, ids)
            step = max(1, CHUNK_BYTES // len(lines[0]))  # all lines are about as long
            for first in range(0, len(lines), step):
                yield b"".join(lines[first : first + step])


class _Polls(msgspec.Struct):
    types: list[str]


class _Polled:
    """Decodes what a stream is asked for and answers with the one line of a stream that finds nothing."""

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(_Polls).decode

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        self._decode(await req.stream.read())
        resp.content_type = "application/jsonlines+json"
        resp.data = _COMPLETE_LINE


class _Read:
    """Answers with one line of JSON."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, **_: str) -> None:
        resp.content_type = falcon.MEDIA_JSON
        resp.data = _READ

    on_post = on_get


def acks() -> falcon.asgi.App[Any, Any]:
    """The floor of `acks`."""
    app = falcon.asgi.App()
    app.add_route("/api/sync/ack", _Acked())
    return app


def poll() -> falcon.asgi.App[Any, Any]:
    """The floor of `poll`."""
    app = falcon.asgi.App()
    app.add_route("/api/sync/stream", _Polled())
    return app


def reads() -> falcon.asgi.App[Any, Any]:
    """The floor of `reads`: whatever is asked."""
    app = falcon.asgi.App()
    app.add_route("/api/{group}/{name}", _Read())
    return app


def stream() -> falcon.asgi.App[Any, Any]:
    """The floor of `stream`; finds the store by an environment variable."""
    app = falcon.asgi.App()
    app.add_route("/api/sync/stream", _Streamed(os.environ[REDIS_VARIABLE]))
    return app


class FloorWorker(UvicornWorker):  # type: ignore[misc] # gunicorn has no types
    """The service's worker as uvicorn has it: the same settings, without anything of ours on a request's way."""

    CONFIG_KWARGS = LedgerWorker.CONFIG_KWARGS | {"http": "httptools"}
