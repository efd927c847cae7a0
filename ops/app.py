"""The one place where the service is put together."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from contextlib import suppress
from typing import Any, Final

import msgspec

from endpoints.auth import Auth
from endpoints.routes import App, build
from endpoints.services import Readiness, Services
from ledger.errors import LedgerError
from ledger.log.layout import read_promise
from ledger.log.store import open_store
from ledger.tokens import TokenIssuer, read_token
from ops.connect import Opened, open_all, token_key
from ops.settings import Settings, without_password
from projections.entities.catalog import Catalog
from projections.expiry import claim, expire

log = logging.getLogger("syncledger.app")

_SECOND_US: Final = 1_000_000


class Application:
    """The ASGI application of one worker: opens its store when the server starts it, and runs the background job."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        """Take the settings and the address of the store, embedded or not, to connect to on start."""
        self._settings = settings
        self._redis_url = redis_url
        self._app: App | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        assert self._app is not None, "the server must run the lifespan protocol"
        await self._app(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        try:
            found = await open_all(self._redis_url, self._settings)
            # Pages of 64 KB travel on a connection of their own, so that no ack waits behind them.
            pages = await open_store(self._redis_url, timeout_s=self._settings.redis_timeout_s)
            self._app = build(self._services(found, Catalog(pages)))
        except LedgerError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        log.info("store: %s, %s", found.promise.server, found.promise.text)
        job = asyncio.create_task(self._expire(found))
        # PERF: what is built now lives as long as the worker; requests leave no cycles, so young garbage is rare.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        job.cancel()
        with suppress(asyncio.CancelledError):
            await job
        await pages.close()
        await found.store.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _services(self, found: Opened, pages: Catalog) -> Services:
        settings = self._settings

        async def row(library: str, entity_type: str, entity_id: str) -> dict[str, Any] | None:
            data = await found.catalog.entity(library, entity_type, entity_id)
            return None if data is None else msgspec.json.decode(data, type=dict[str, Any])

        async def readiness() -> Readiness:
            promise = await read_promise(found.store)
            where = "embedded" if settings.redis_url is None else without_password(settings.redis_url)
            return Readiness(f"{promise.server} ({where})", f"{promise.fsync}: {promise.text}", where == "embedded")

        return Services(
            ledger=found.ledger,
            auth=Auth(read_token, found.api_keys),
            tokens=TokenIssuer(token_key(settings)),
            source=pages,
            row=row,
            readiness=readiness,
            stall_s=settings.stall_s,
        )

    async def _expire(self, found: Opened) -> None:
        """End what is over, again and again; of all workers the one that claims a turn does it."""
        every_s = self._settings.expire_interval_s
        while True:
            await asyncio.sleep(every_s * random.uniform(0.5, 1))  # noqa: S311 - spreads workers, guards nothing
            try:
                if await claim(found.ledger, int(every_s * _SECOND_US)):
                    report = await expire(
                        found.ledger,
                        found.catalog,
                        idle_us=int(self._settings.idle_s * _SECOND_US),
                        tombstones_us=int(self._settings.tombstones_s * _SECOND_US),
                    )
                    if report.idle or report.expired or report.delete_markers:
                        log.info("expired: %s", msgspec.json.encode(report).decode())
            except LedgerError as error:
                log.error("the expiry job will try again: %s", error)


def create_app(settings: Settings, redis_url: str | None = None) -> Application:
    """Build the application; `redis_url` is the embedded server's where the settings name no other."""
    url = settings.redis_url or redis_url
    assert url is not None, "somebody must run the embedded server before its workers"
    return Application(settings, url)
