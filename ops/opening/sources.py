"""The source that settings name: opened, asked how it is, and what it knows of a user."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import msgspec

from endpoints.services import SourceReadiness
from ledger.errors import InvalidInput
from ops.opening.identity_provider import gumnut_config
from ops.opening.ledger import Opened, open_credentials
from ops.settings.settings import Settings
from ops.settings.source import PostgresSettings, Source
from projections.entities.catalog.catalog import Catalog
from projections.entities.lines import data_of
from projections.entities.origins import Origins
from projections.entities.source import EntitySource, SourceHealth, SourceUnavailable

if TYPE_CHECKING:
    from projections.entities.postgres.pool import Postgres

log = logging.getLogger("syncledger.source")

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
        from projections.entities.postgres.mapping.mapping import load_mapping
        from projections.entities.postgres.source import PostgresSource
        from projections.entities.postgres.unfit_parents import Stored

        mapping = load_mapping(settings.postgres.mapping)
        postgres = await open_postgres(settings.postgres)
        closing.push_async_callback(postgres.close)
        return PostgresSource(postgres, mapping, Stored(found.store), Origins(found.store))
    if settings.source == "gumnut":
        from projections.entities.gumnut.source import GumnutSource

        credentials = open_credentials(found, settings)
        gumnut = GumnutSource(gumnut_config(settings), credentials, found.store, settings.gumnut.api_key)
        closing.push_async_callback(gumnut.close)
        return gumnut
    return catalog or found.catalog


async def open_postgres(settings: PostgresSettings) -> Postgres:
    """Open the database; one that is down tells that when it is first used."""
    from projections.entities.postgres.pool import Postgres

    assert settings.url is not None, "LEDGER_POSTGRES is checked where settings are read"
    return await Postgres.open(
        settings.url, size=settings.pool, wait_s=settings.wait_s, statement_timeout_s=settings.timeout_s
    )


async def check_source(settings: Settings) -> None:
    """Find out before anything starts whether the source has what the mapping says; raises InvalidInput.

    A source that does not answer may do so later: that is logged, and no reason not to start.
    """
    if settings.source != "postgres":
        return
    from projections.entities.postgres.check.check import check_schema
    from projections.entities.postgres.mapping.mapping import load_mapping

    mapping = load_mapping(settings.postgres.mapping)
    postgres = await open_postgres(settings.postgres)
    try:
        found = await check_schema(postgres, mapping)
    except SourceUnavailable as error:
        log.warning("the source does not answer yet, so whether the mapping fits is not known: %s", error)
        return
    finally:
        await postgres.close()
    wrong = [problem for problem in found if problem.weight == "problem"]
    if wrong:
        raise InvalidInput([((mapping.name, problem.place), problem.told) for problem in wrong])


class SourceLook:
    """What is asked of a source beside streams: it must answer at once, or is taken to be down."""

    def __init__(self, kind: Source, source: EntitySource) -> None:
        self._kind = kind
        self._source = source
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
        return SourceReadiness(self._kind, found.ok, found.text)

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
