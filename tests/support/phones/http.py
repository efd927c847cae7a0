"""The service's HTTP app over a store of the test's own, and a client to it in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import falcon.asgi
import falcon.testing
import httpx
import msgspec
import uvicorn
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from endpoints.accounts.identity.jwt.backend import JwtBackend
from endpoints.accounts.identity.port import IdentityProvider
from endpoints.http.limits import LimitRules, Limits
from endpoints.readiness import Readiness
from endpoints.routes import build
from endpoints.services import HttpSettings, Services
from ledger.commands import CreateSession
from ledger.log.presence import Presence
from ledger.log.service import Ledger
from ledger.log.store_check import open_layout, read_id
from ledger.personal import plain
from ledger.store.interface import Store, open_store
from ops.opening.observing import Observing
from ops.opening.sources import SourceLook
from ops.server.connection_balance import Load
from ops.server.http_protocol import LedgerHttpProtocol
from ops.server.proxies import ProxyHint
from ops.server.worker_state import WorkerState
from ops.settings.settings import Settings
from ops.settings.source import Source
from projections.accounts.api_keys import ApiKeys
from projections.accounts.claim_conflicts import ClaimConflicts
from projections.accounts.credentials import Cipher, Credentials
from projections.accounts.identities import Identities
from projections.accounts.tokens import Issued, TokenIssuer, make_key, read_keyring
from projections.checking.mending import Mending
from projections.counters import Counters
from projections.entities.catalog.catalog import Catalog
from projections.entities.postgres.source import PostgresSource
from projections.entities.protocol_version import ProtocolVersion
from projections.entities.source import EntitySource
from projections.feed.hub import FeedHub
from projections.history.event_pages import EventPages
from projections.immich.identity import ImmichIdentity
from projections.transparency.published import PublishedLog
from projections.unknown_types import UnknownTypes
from tests.support.stores.fake_store import FakeStore
from tests.support.stores.servers import free_port, wait_until

T = TypeVar("T")

PARTITIONS = 8
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

    def __init__(
        self,
        store: Store,
        settings: HttpSettings | None = None,
        *,
        provider: IdentityProvider | None = None,
        rules: LimitRules | None = None,
        source: EntitySource | None = None,
        announced: ProtocolVersion | None = None,
        beside_backend: bool = False,
        immich: Callable[[Ledger, EventPages], ImmichIdentity] | None = None,
        jwt: Callable[[Ledger], JwtBackend] | None = None,
        log: PublishedLog | None = None,
        observing: Observing | None = None,
        beside: Service | None = None,
        ledger: type[Ledger] = Ledger,
        catalog: type[Catalog] = Catalog,
    ) -> None:
        """Take what the app is to work with; the source is the catalog unless another one is given.

        `immich` makes what admits Immich's tokens, of the ledger and its past; `jwt` what admits a backend's. `beside`
        is another worker of the same service, with which it shares clock and signing key.
        `observing` watches requests; without it nothing does.
        """
        observing = observing or Observing(Settings())
        self.clock: Clock = Clock() if beside is None else beside.clock
        self.store = store
        self.ledger = ledger(store, PARTITIONS, self.clock, present=self._present, mender=Mending(store))
        self.api_keys = ApiKeys(store)
        self.identities = Identities(store, PARTITIONS)
        self.catalog = catalog(store, self.clock, self.identities.profile)
        keyring = read_keyring(make_key())
        self.tokens: TokenIssuer = TokenIssuer(lambda: keyring) if beside is None else beside.tokens
        self.credentials = Credentials(store, PARTITIONS, Cipher.from_keys([Cipher.make_key()]))
        self.counters = Counters(store)
        kind: Source = "postgres" if isinstance(source, PostgresSource) else "catalog"
        self.look = SourceLook(kind, source or self.catalog, announced)
        self.unknown_types = UnknownTypes(store) if beside_backend else None
        self.presence = Presence(store, "")
        settings = settings or HttpSettings()
        self.immich = None if immich is None else immich(self.ledger, EventPages(store))
        self.jwt = None if jwt is None else jwt(self.ledger)
        backend = self.immich or self.jwt
        self.ledger.begin = None if backend is None else backend.begin
        self.services = Services(
            ledger=self.ledger,
            past=EventPages(store),
            feed=FeedHub(self.ledger, None, self.presence, turn_s=0.05),
            auth=observing.auth(self.tokens.read, self.api_keys, settings.external_domain, backend),
            tokens=self.tokens,
            identities=self.identities,
            claim_conflicts=ClaimConflicts(store),
            credentials=self.credentials,
            provider=provider,
            limits=Limits(MovingWindowRateLimiter(MemoryStorage()), rules or LimitRules()),
            counters=self.counters,
            source=source or self.catalog,
            auth_user=self.look.auth_user,
            readiness=self._readiness,
            present=self._present,
            settings=settings,
            protocol_version=self.look.protocol_version,
            unknown_types=self.unknown_types,
            backend_logout=self.jwt,
            users_elsewhere=None if self.immich is None else self.immich.user_of,
            log=log,
            stream_over=observing.stream_over,
        )
        built = build(self.services, observing.middleware)
        self.app, self.quick = observing.around(built), built.quick
        self.client: falcon.testing.ASGIConductor

    async def open(self) -> None:
        """Create the ledger, as a service does when it starts; the store of unit tests cannot tell what it is."""
        if not isinstance(self.store, FakeStore):
            await open_layout(self.store, PARTITIONS, self.clock())
            self.presence.ledger_id = await read_id(self.store)

    async def sign_in(self, user: str = "ann", library: str = "lib", **fields: Any) -> Issued:
        """Create a session and return its token and id; what the device says of itself is given as text."""
        fields |= {name: plain(fields[name]) for name in ("device_type", "device_os", "app_version") if name in fields}
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
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(cast(Any, self.app)), base_url="http://test"
        ) as client:
            return await client.get(path, headers=headers, params=params)

    async def stream(self, token: str, *types: str, **body: Any) -> list[dict[str, Any]]:
        """Read a sync stream to its end and return its lines; raises AssertionError unless it is answered 200."""
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(cast(Any, self.app)), base_url="http://test"
        ) as client:
            headers = {"Authorization": f"Bearer {token}"}
            answer = await client.post("/api/sync/stream", json={"types": types, **body}, headers=headers)
        assert answer.status_code == 200, answer.text
        return [msgspec.json.decode(line) for line in answer.content.splitlines()]

    async def _present(self) -> None:
        if self.presence.ledger_id:
            await self.presence.check()

    async def _readiness(self) -> Readiness:
        await self._present()
        await self.store.command("PING", key=b"ping")
        return Readiness(
            "test", "none", embedded=False, source=await self.look.health(),
            protocol=await self.look.protocol_readiness(
                () if self.unknown_types is None else await self.unknown_types.all(self.clock())
            ),
        )  # fmt: skip


@asynccontextmanager
async def serving(store: Store, settings: HttpSettings | None = None, **options: Any) -> AsyncIterator[Service]:
    """Run the app in this process for the length of a test; `options` are those of Service."""
    service = Service(store, settings, **options)
    await service.open()
    async with falcon.testing.ASGIConductor(service.app) as client:
        service.client = client
        yield service


class Live:
    """The app under the server's own HTTP protocol on a port of its own, in a thread of its own."""

    def __init__(self, store_url: str, settings: HttpSettings | None = None, **options: Any) -> None:
        """Take what a Service takes, but for the store its address."""
        self._store_url = store_url
        self._settings, self._options = settings, options
        self._loop = asyncio.new_event_loop()
        self.port = free_port()
        self.service: Service

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._server.server_state.connections)

    def tasks(self) -> int:
        """How many tasks run in its event loop, this question left out."""

        async def counted() -> int:
            return len(asyncio.all_tasks()) - 1

        return self.run(counted())

    def run(self, work: Coroutine[Any, Any, T], within_s: float = 30) -> T:
        """Run a coroutine where the service runs."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(within_s)

    def __enter__(self) -> Live:
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.service = self.run(self._open())
        config = uvicorn.Config(
            self.service.app, http=LedgerHttpProtocol, ws="none", port=self.port, log_level="critical", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._server.server_state = WorkerState(Load(1), 0, ProxyHint(lambda host: False))
        self._serving = asyncio.run_coroutine_threadsafe(self._server.serve(), self._loop)
        wait_until(lambda: self._server.started, "uvicorn")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._serving.result(30)
        self.run(self.service.store.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _open(self) -> Service:
        service = Service(await open_store(self._store_url), self._settings, **self._options)
        await service.open()
        return service
