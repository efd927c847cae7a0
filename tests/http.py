"""The service's HTTP app over a store of the test's own, and a client to it in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import falcon.asgi
import falcon.testing

from endpoints.auth import Auth
from endpoints.routes import build
from endpoints.services import HttpSettings, Readiness, Services
from ledger.commands import CreateSession
from ledger.log.store import Store
from ledger.positions import Position
from ledger.service import Ledger
from ledger.tokens import Issued, TokenIssuer, make_key, read_key, read_token
from projections.api_keys import ApiKeys
from projections.entities.source import Held, Page

START_US = 1_700_000_000_000_000
SECOND_US = 1_000_000


class EmptySource:
    """A source without entities."""

    async def horizon(self, library: str) -> int:
        return 1

    async def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        pages: list[Page] = []
        for page in pages:
            yield page

    async def first_held(
        self, library: str, entity_type: str, page: Page, snapshot_us: int, limits: Mapping[str, Position]
    ) -> Held | None:
        return None

    async def tombstone_floor(self, library: str) -> int:
        return 0


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        return self.now_us


class Service:
    """The app, what it is made of, and requests to it."""

    def __init__(self, store: Store, settings: HttpSettings | None = None) -> None:
        self.clock = Clock()
        self.store = store
        self.rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.ledger = Ledger(store, 8, self.clock)
        self.api_keys = ApiKeys(store)
        self.tokens = TokenIssuer(read_key(make_key()))
        self.services = Services(
            ledger=self.ledger,
            auth=Auth(read_token, self.api_keys),
            tokens=self.tokens,
            source=EmptySource(),
            row=self._row,
            readiness=self._readiness,
            settings=settings or HttpSettings(),
        )
        self.app = build(self.services)
        self.client: falcon.testing.ASGIConductor

    async def sign_in(self, user: str = "ann", library: str = "lib", **fields: Any) -> Issued:
        """Create a session and return its token and id."""
        issued = self.tokens.issue(user, self.clock())
        await self.ledger.execute(user, issued.sid, CreateSession(user=user, library=library, **fields))
        return issued

    async def ask(
        self, method: str, path: str, token: str | None = None, *, json: Any = None, **options: Any
    ) -> falcon.testing.Result:
        """Send a request, with a session's token if one is given."""
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if json is not None:
            options["json"] = json
        result: falcon.testing.Result = await self.client.simulate_request(method, path, headers=headers, **options)
        return result

    async def _row(self, library: str, entity_type: str, entity_id: str) -> dict[str, Any] | None:
        return self.rows.get((library, entity_type, entity_id))

    async def _readiness(self) -> Readiness:
        await self.store.command("PING", key=b"ping")
        return Readiness("test", "none", embedded=False)


@asynccontextmanager
async def serving(store: Store, settings: HttpSettings | None = None) -> AsyncIterator[Service]:
    """Run the app in this process for the length of a test."""
    service = Service(store, settings)
    async with falcon.testing.ASGIConductor(service.app) as client:
        service.client = client
        yield service
