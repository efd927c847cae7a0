"""Opening all that the endpoints work with: on the store, on connections beside it, and the identity provider."""

from __future__ import annotations

import logging
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from endpoints.figures.worker import WorkerFigures
from endpoints.http.limits import LimitRules
from endpoints.readiness import IdentityReadiness, Readiness
from endpoints.services import HttpSettings, Services
from ledger.errors import CorruptLedger
from ledger.events import IMMICH
from ledger.log.store_check import eviction_text, read_promise
from ledger.store.interface import check_writes
from ops.figures.of_worker import LookedAt
from ops.opening.identity_provider import make_provider, open_immich, open_jwt
from ops.opening.known_nodes import NotedNodes
from ops.opening.ledger import SECOND_US, Opened, keyring_source, open_all, open_credentials, waiting_text
from ops.opening.limits import open_limits
from ops.opening.observing import Observing
from ops.opening.proof import TRIES_NOTE, open_place, proof_readiness
from ops.opening.sources import SourceLook, open_source
from ops.opening.store import connect
from ops.settings.settings import Settings, without_password
from projections.accounts.claim_conflicts import ClaimConflicts
from projections.accounts.tokens import TokenIssuer
from projections.archive.errors import ArchiveNotGiven, ArchiveUnavailable
from projections.census.held_back import held_back_rows
from projections.census.taking import Census
from projections.counters import Counters
from projections.entities.catalog.catalog import Catalog
from projections.entities.origins import Origins
from projections.entities.source import EntitySource, SourceUnavailable
from projections.feed.hub import FeedHub
from projections.immich import PLACE
from projections.transparency.job import LogOf
from projections.transparency.published import PublishedLog
from projections.transparency.telling import LogFigures
from projections.transparency.telling import figures as figures_of_log
from projections.unknown_types import UnknownTypes

if TYPE_CHECKING:
    from endpoints.accounts.identity.jwt.backend import JwtBackend
    from endpoints.accounts.identity.port import IdentityProvider
    from projections.immich.identity import ImmichIdentity

log = logging.getLogger("syncledger.app")
LOOKED_AT_EVERY_S = 60.0


async def open_services(
    redis_url: str,
    settings: Settings,
    closing: AsyncExitStack,
    ledger_id: str = "",
    looked: LookedAt | None = None,
    observing: Observing | None = None,
) -> tuple[Opened, Services]:
    """Open the ledger (`ledger_id`, also where it is gone) and what the endpoints use beside it.

    `closing` gets what must be closed, `looked` what is noted of the source; `observing` watches requests.

    Raises LayoutError, StoreUnavailable and InvalidInput. An identity provider that is down is none of them.
    """
    figures, looked, observing = WorkerFigures(), looked or LookedAt(), observing or Observing(settings)
    figures.take(looked)
    found = await open_all(redis_url, settings, serving=ledger_id, figures=(figures.store, figures.log))
    closing.push_async_callback(found.close)
    try:
        await found.user_keys.check_begun()
    except ArchiveUnavailable as error:  # sign-ins wait for it, nothing else does
        log.warning("the place of users' keys does not answer: %s", error)
    # The catalog's pages of 64 KB travel on a connection of their own, so that no ack waits behind them.
    pages = await connect(redis_url, settings, figures.store)
    closing.push_async_callback(pages.close)
    profiles = found.identities.profile
    catalog = Catalog(pages, profiles=profiles, origins=Origins(pages), replicas=found.replicas, looks=found.store)
    source = await open_source(settings, found, closing, catalog=catalog)
    rules = LimitRules(**msgspec.structs.asdict(settings.limits))
    limits = await open_limits(redis_url, rules, settings.reply_timeout_s, NotedNodes.of(settings))
    closing.push_async_callback(limits.close)
    provider = make_provider(settings)
    if provider is not None:
        closing.push_async_callback(provider.close)
        provider.health()  # looks at it, so that what signing in cannot do is in the log before anybody tries
    conflicts = ClaimConflicts(found.store)
    immich = await open_immich(settings, found, source) if settings.identity == IMMICH else None
    if immich is not None:
        closing.push_async_callback(immich.close)
    jwt = open_jwt(settings, found) if settings.identity == "jwt" else None
    if jwt is not None:
        closing.push_async_callback(jwt.close)
    tokens = TokenIssuer(keyring_source(settings))
    look = SourceLook(settings.source, source, settings.protocol_version, looked)
    unknown_types = UnknownTypes(found.store) if look.is_beside_backend else None
    closing.push_async_callback(look.close)

    feed = FeedHub(found.ledger, found.archive, found.presence, store=pages, most=settings.feed_followers)
    closing.push_async_callback(feed.close)

    log_place = open_place(settings)

    archive = ArchiveLook(found)
    if wrong := await archive.wrong():
        log.error("histories are not whole: %s", wrong)

    async def readiness() -> Readiness:
        await found.presence.check()
        promise = await read_promise(found.store)
        await check_writes(found.store)
        waits = await waiting_text(found, settings)
        where = "embedded" if settings.redis_url is None else without_password(settings.redis_url)
        return Readiness(
            store=f"{promise.server} ({where})",
            durability=f"{promise.fsync}: {promise.text}{waits}",
            embedded=where == "embedded",
            source=await look.health(),
            archive=await archive.wrong(),
            clock=found.clock.trouble,
            eviction=eviction_text(promise.eviction),
            protocol=await look.protocol_readiness(
                () if unknown_types is None else await unknown_types.all(found.ledger.clock())
            ),
            proof=await proof_readiness(found, settings),
            identity=await _identity(immich, jwt, provider, conflicts),
        )

    return found, Services(
        ledger=found.ledger,
        past=found.past,
        feed=feed,
        auth=observing.auth(tokens.read, found.api_keys, settings.external_domain, immich or jwt),
        tokens=tokens,
        identities=found.identities,
        claim_conflicts=conflicts,
        credentials=open_credentials(found, settings),
        provider=provider,
        limits=limits,
        counters=Counters(found.store),
        source=source,
        auth_user=look.auth_user,
        readiness=readiness,
        present=found.presence.check,
        settings=http_settings(settings),
        stall_s=settings.stall_s,
        protocol_version=look.protocol_version,
        unknown_types=unknown_types,
        backend_logout=jwt,
        users_elsewhere=None if immich is None else immich.user_of,
        log=None if log_place is None else PublishedLog(log_place, TRIES_NOTE if settings.proof_tries else ""),
        figures=figures,
        stream_over=observing.stream_over,
    )


async def _identity(
    immich: ImmichIdentity | None,
    jwt: JwtBackend | None,
    provider: IdentityProvider | None,
    conflicts: ClaimConflicts,
) -> IdentityReadiness | msgspec.UnsetType:
    """Tell how who tells who somebody is, where that is another service; nothing where it was not looked at yet."""
    if immich is not None:
        return IdentityReadiness("immich", *await immich.health())
    if jwt is not None:
        return IdentityReadiness("jwt", *await jwt.health())
    if provider is None or (health := provider.health()) is None:
        return msgspec.UNSET
    return IdentityReadiness("oidc", health.ok, "; ".join(filter(None, (health.text, await conflicts.told()))))


class ArchiveLook:
    """Whether the archive is the one that holds the ledger's older events, looked at once a minute at most."""

    def __init__(self, found: Opened) -> None:
        self._found = found
        self._wrong = ""
        self._looked_s = -LOOKED_AT_EVERY_S

    async def wrong(self) -> str:
        """Tell what keeps older events from being read, '' if nothing does."""
        if time.monotonic() >= self._looked_s + LOOKED_AT_EVERY_S:
            self._looked_s = time.monotonic()
            try:
                await self._found.check_archive()
            except (ArchiveNotGiven, CorruptLedger, ArchiveUnavailable) as error:
                self._wrong = str(error)
            else:
                self._wrong = ""
        return self._wrong


def http_settings(settings: Settings) -> HttpSettings:
    """Pick the settings that clients see."""
    oidc = settings.oidc
    return HttpSettings(
        external_domain=settings.external_domain,
        oauth_auto_launch=oidc.auto_launch,
        oauth_button_text=oidc.button_text,
        mobile_redirect_uri=oidc.mobile_redirect_uri,
        auto_register=oidc.auto_register,
        secure_cookies=settings.secure_cookies == "always",
        token_ttl_us=None if settings.token_ttl_s is None else int(settings.token_ttl_s * SECOND_US),
        log_open=settings.proof.open,
        sessions_elsewhere=PLACE if settings.identity == IMMICH else "",
        tokens_elsewhere=f"from {settings.jwt.issuer}" if settings.identity == "jwt" else "",
    )


def open_census(settings: Settings, found: Opened, source: EntitySource, proof: LogOf | None) -> Census:
    """Give the census what it asks; of a source that answers sessions alone no horizon is known."""

    async def of_log(now_us: int) -> LogFigures:
        assert proof is not None
        return await figures_of_log(found.store, proof.place, proof.witnesses, found.ledger.partitions, now_us)

    async def horizon(library: str) -> int:
        if settings.source == "gumnut":
            raise SourceUnavailable("Gumnut is asked by sessions alone")
        return await source.horizon(library)

    return Census(
        found.store,
        found.ledger.partitions,
        found.ledger.clock,
        horizon,
        partial(held_back_rows, source, found.store),
        None if proof is None else of_log,
    )
