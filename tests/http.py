"""The service's HTTP app over a store of the test's own, and a client to it in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import falcon.asgi
import falcon.testing
import httpx
import msgspec

from endpoints.auth import Auth
from endpoints.routes import build
from endpoints.services import HttpSettings, Readiness, Services
from ledger.commands import CreateSession
from ledger.log.store import Store
from ledger.service import Ledger
from ledger.tokens import Issued, TokenIssuer, make_key, read_key, read_token
from projections.api_keys import ApiKeys
from projections.entities.catalog import Catalog

START_US = 1_700_000_000_000_000
SECOND_US = 1_000_000


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
        self.ledger = Ledger(store, 8, self.clock)
        self.api_keys = ApiKeys(store)
        self.catalog = Catalog(store, self.clock)
        self.tokens = TokenIssuer(read_key(make_key()))
        self.services = Services(
            ledger=self.ledger,
            auth=Auth(read_token, self.api_keys),
            tokens=self.tokens,
            source=self.catalog,
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

    async def read(self, path: str, headers: dict[str, str], params: dict[str, Any] | None = None) -> httpx.Response:
        """GET a streamed body to its end. Falcon's test client leaves as soon as the request is sent."""
        async with httpx.AsyncClient(transport=httpx.ASGITransport(cast(Any, self.app)), base_url="http://test") as client:
            return await client.get(path, headers=headers, params=params)

    async def _row(self, library: str, entity_type: str, entity_id: str) -> dict[str, Any] | None:
        data = await self.catalog.entity(library, entity_type, entity_id)
        return None if data is None else msgspec.json.decode(data, type=dict[str, Any])

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
