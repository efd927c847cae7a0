"""The source that settings name: opened, asked how it is, and what it knows of a user."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import msgspec

from endpoints.readiness import ProtocolReadiness, SourceReadiness
from ledger.errors import InvalidInput, LedgerError
from ledger.events import IMMICH
from ops.figures.of_worker import HOLDER, HORIZON, LookedAt
from ops.opening.identity_provider import gumnut_config
from ops.opening.ledger import Opened, open_credentials
from ops.settings.settings import Settings
from ops.settings.source import PostgresSettings, Source
from ops.tracing.wrapping import statement_watch
from projections.entities.catalog.catalog import Catalog
from projections.entities.lines import data_of
from projections.entities.origins import Origins
from projections.entities.protocol_version import DEFAULT, NEWEST, ProtocolVersion, announced_for, read_version
from projections.entities.source import EntitySource, SourceHealth, SourceUnavailable
from projections.unknown_types import UnknownType, told

if TYPE_CHECKING:
    from projections.entities.postgres.pool import Postgres

log = logging.getLogger("syncledger.source")

BACKEND_S: Final = 60.0
"""For how long the version that a backend's database tells is taken to be that: it updates itself."""
ANSWER_S: Final = 2.0
"""How long a source may take for what nobody should have to wait for: its health, and one user."""
AUTH_USER: Final = "AuthUserV1"
_EVER_US: Final = 2**53


async def open_source(
    settings: Settings, found: Opened, closing: AsyncExitStack, *, catalog: Catalog | None = None
) -> EntitySource:
    """Open the source; `closing` gets what must be closed. One that is down is no error yet. Raises InvalidInput.

    The embedded catalog is `catalog`, or else that of the opened ledger.
    """
    # PERF: each takes a part of a second to import, which only who uses it need wait for.
    if settings.source == "postgres":
        from projections.entities.postgres.mapping.from_toml import load_mapping
        from projections.entities.postgres.source import PostgresSource
        from projections.entities.postgres.unfit_parents import Stored

        mapping = load_mapping(settings.postgres.mapping)
        postgres = await open_postgres(settings.postgres, statement_watch(settings))
        closing.push_async_callback(postgres.close)
        return PostgresSource(postgres, mapping, Stored(found.store), Origins(found.store))
    if settings.source == "gumnut":
        from projections.entities.gumnut.source import GumnutSource

        credentials = open_credentials(found, settings)
        gumnut = GumnutSource(gumnut_config(settings), credentials, found.store, settings.gumnut.api_key)
        closing.push_async_callback(gumnut.close)
        return gumnut
    return catalog or found.catalog


async def open_postgres(settings: PostgresSettings, watch: Callable[[Any], Awaitable[None]] | None = None) -> Postgres:
    """Open the database; one that is down tells that when it is first used. `watch` is called with each connection."""
    from projections.entities.postgres.pool import Postgres

    assert settings.url is not None, "LEDGER_POSTGRES is checked where settings are read"
    return await Postgres.open(
        settings.url,
        size=settings.pool,
        wait_s=settings.wait_s,
        statement_timeout_s=settings.timeout_s,
        watch=watch,
    )


async def check_source(settings: Settings) -> None:
    """Find out before anything starts whether the source has what the mapping says; raises InvalidInput.

    A source that does not answer may do so later: that is logged, and no reason not to start.
    """
    if settings.source != "postgres":
        return
    from projections.entities.postgres.check.check import check_schema
    from projections.entities.postgres.mapping.from_toml import load_mapping

    mapping = load_mapping(settings.postgres.mapping)
    postgres = await open_postgres(settings.postgres)
    try:
        found = await check_schema(postgres, mapping)
        grants = []
        if settings.identity == IMMICH:
            from projections.immich.grants import grant_problems

            grants = [each for each in await grant_problems(postgres, mapping) if each.weight == "problem"]
    except SourceUnavailable as error:
        log.warning("the source does not answer yet, so whether the mapping fits is not known: %s", error)
        return
    finally:
        await postgres.close()
    if grants:
        lacks = ", ".join(".".join(filter(None, (each.table, each.column))) for each in grants)
        says = (
            f"needs what our role may not read, or is not there: {lacks}; `syncledger source check` prints the grants"
        )
        raise InvalidInput([(("LEDGER_IDENTITY=immich",), says)])
    wrong = [problem for problem in found if problem.weight == "problem"]
    if wrong:
        raise InvalidInput([((mapping.name, problem.place), problem.told) for problem in wrong])


class SourceLook:
    """What is asked of a source beside streams: it must answer at once, or is taken to be down."""

    def __init__(
        self,
        kind: Source,
        source: EntitySource,
        announced: ProtocolVersion | None = None,
        looked: LookedAt | None = None,
    ) -> None:
        """`announced` is the version of the protocol that the settings give; None: the backend's, or the default.

        `looked`: where it is noted how far the source is behind.
        """
        self._looked = looked or LookedAt()
        self._kind = kind
        self._source = source
        self._given = announced
        self._backend: tuple[ProtocolVersion | None, float] = (None, -math.inf)
        self._asked: asyncio.Task[SourceHealth] | None = None

    async def health(self) -> SourceReadiness:
        """Tell how the source is; all who ask at the same time get one answer, so that asking often costs it little."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._source.health())
        try:
            async with asyncio.timeout(ANSWER_S):
                found = await asyncio.shield(self._asked)
        except TimeoutError:
            return SourceReadiness(self._kind, ok=False, text=f"no answer within {ANSWER_S:g} s")
        if found.ok:
            self._looked.set(HORIZON.name, to=found.behind_s)
            self._looked.set(HOLDER.name, to=found.holder_s)
        return SourceReadiness(self._kind, found.ok, found.text)

    @property
    def is_beside_backend(self) -> bool:
        """Tell whether the source is the database of a backend, of which apps may learn another version than ours."""
        if self._kind != "postgres":
            return False
        from projections.entities.postgres.source import PostgresSource  # PERF: as above

        return isinstance(self._source, PostgresSource) and self._source.has_backend

    async def protocol_version(self) -> ProtocolVersion:
        """Tell the version to announce: the one given, or else that of the backend, or else the default.

        The backend's is asked for once in BACKEND_S; one that does not answer is what it was, or else the default.
        """
        if self._given is not None:
            return self._given
        backend = await self._backend_version()
        return DEFAULT if backend is None else announced_for(backend)

    async def protocol_readiness(self, unknown: Collection[UnknownType]) -> ProtocolReadiness:
        """Tell which version is announced and why that one; `unknown` are types that apps ask for in vain."""
        version = await self.protocol_version()
        backend = self._backend[0]
        if self._given is not None:
            text = "as LEDGER_PROTOCOL_VERSION says"
        elif backend is None:
            text = "by default"
        elif backend[:2] > NEWEST[:2]:
            text = f"the backend is {backend}, whose types this version does not know: upgrade this service"
        else:
            text = "as the backend's database says"
        text = f"{text}. {told(unknown)}" if unknown else text
        return ProtocolReadiness(str(version), text, [each.name for each in unknown])

    async def _backend_version(self) -> ProtocolVersion | None:
        known, asked_s = self._backend
        if not self.is_beside_backend or time.monotonic() - asked_s < BACKEND_S:
            return known
        self._backend = known, time.monotonic()  # who asks meanwhile need not wait
        try:
            async with asyncio.timeout(ANSWER_S):
                text = await self._source.backend_version()  # type: ignore[attr-defined]
            found = None if text is None else read_version(text)
        except (TimeoutError, LedgerError, ValueError) as error:
            log.warning("the backend's version stays what it was (%s): %s", known, str(error) or "no answer in time")
            return known
        if found is not None and found != known:
            log.info("the backend is %s: announced is %s", found, announced_for(found))
        self._backend = found or known, time.monotonic()
        return self._backend[0]

    async def auth_user(self, library: str, user: str) -> dict[str, Any] | None:
        """Read a user's own row in a library; None without one. Raises SourceUnavailable or another Unavailable."""
        try:
            async with asyncio.timeout(ANSWER_S):
                if isinstance(self._source, Catalog):  # which can look it up
                    found = await self._source.entity(library, AUTH_USER, user)
                    return None if found is None else msgspec.json.decode(found, type=dict[str, Any])
                source = self._source.of_session(user, "")
                async for page in source.pages(library, AUTH_USER, None, _EVER_US, 1000):
                    for line in page.lines:
                        data = msgspec.json.decode(data_of(line), type=dict[str, Any])
                        if data["id"] == user:
                            return data
        except TimeoutError:
            raise SourceUnavailable(f"{self._kind}: no answer within {ANSWER_S:g} s") from None
        return None

    async def close(self) -> None:
        """Wait for nothing any more."""
        if self._asked is not None and not self._asked.done():
            self._asked.cancel()
            await asyncio.wait([self._asked])
