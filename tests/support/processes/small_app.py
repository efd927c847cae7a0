"""A small ASGI application to serve in tests of what serves: it tells where it runs and misbehaves on demand."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any
from urllib.parse import parse_qs

from ledger.errors import LayoutError
from ops.settings.settings import Settings


def create(settings: Settings, redis_url: str, ledger_id: str) -> SmallApp:
    """Build the application as `ops.app:create_app` does; refuses to start on request."""
    if os.environ.get("SMALL_APP") == "refuses":
        raise LayoutError("this ledger has other partitions")
    return SmallApp(redis_url)


class SmallApp:
    """`/` the worker and its store; `/stream` endless chunks; `/wait?s=` a late answer; `/abort`; `/block?s=`."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await receive()
            if os.environ.get("SMALL_APP") == "fails":
                await send({"type": "lifespan.startup.failed", "message": "no store here"})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        match scope["path"]:
            case "/stream":
                await self._start(send)
                while True:
                    await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                    await asyncio.sleep(0.02)
            case "/wait":
                await asyncio.sleep(float(query["s"]))
            case "/block":
                time.sleep(float(query["s"]))  # noqa: ASYNC251 - what no application should do
            case "/abort":
                await self._start(send)
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                scope["extensions"]["ledger.transport"].abort()
                return
        await self._start(send)
        body = f"{os.getpid()} {self._redis_url} {len(scope['headers'])}".encode()
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
