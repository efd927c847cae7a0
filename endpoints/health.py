"""Is the process alive, and is it of use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import falcon.asgi
import msgspec

from endpoints.http.errors import NotReady
from endpoints.http.operations import NOBODY, Operation, Route
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.readiness import Readiness
from endpoints.server_info import Fixed
from endpoints.services import Services
from ledger.errors import StoreFull, StoreUnavailable

READY: Final = "/readyz"


class Alive(msgspec.Struct, frozen=True):
    """The process answers; nothing is said of its store."""

    status: str = "ok"


class Ready:
    """Whether the store takes writes, and what it promises; 503 as long as not. A source that is down is told."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        try:
            send(resp, await self._services.readiness())
        except (StoreUnavailable, StoreFull) as error:
            raise NotReady(str(error)) from error


def alive_routes() -> Iterator[Route]:
    """List the routes that need no store."""
    alive = Operation("GET", "getHealth", "Tell that the process is alive", {200: Alive}, NOBODY)
    yield Route("/healthz", Fixed(Alive()), (alive,))


def routes(services: Services) -> Iterator[Route]:
    """List the health routes."""
    yield from alive_routes()
    ready = Operation(
        "GET", "getReadiness", "Tell that the store takes writes, and how the source is", {200: Readiness}, NOBODY
    )
    yield Route(READY, Ready(services), (ready,))
