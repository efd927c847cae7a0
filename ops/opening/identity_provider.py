"""Who says who a user is, as the settings name it: an identity provider, or a service beside this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.port import IdentityProvider
from ledger.events import IMMICH
from ops.opening.ledger import Opened, credential_cipher, keyring_source
from ops.settings.settings import Settings
from ops.tracing.wrapping import statement_watch
from projections.entities.source import EntitySource

if TYPE_CHECKING:
    from endpoints.accounts.identity.jwt.backend import JwtBackend
    from projections.entities.gumnut.config import GumnutConfig
    from projections.immich.identity import ImmichIdentity
    from projections.immich.tables import ImmichTables


def make_provider(settings: Settings) -> IdentityProvider | None:
    """Make what signs users in, or None where nobody does; nothing is connected to yet. Raises InvalidInput."""
    # PERF: these take up to half a second to import, which only who uses them need wait for.
    if settings.identity == "oidc":
        from endpoints.accounts.identity.oidc.provider import OidcProvider

        return OidcProvider(oidc_config(settings))
    if settings.identity == "gumnut":
        from endpoints.accounts.identity.gumnut.provider import GumnutProvider

        return GumnutProvider(gumnut_config(settings))
    return None


def elsewhere(settings: Settings) -> tuple[str, ...]:
    """Name how sessions were authenticated that end only as another service says."""
    return (IMMICH,) if settings.identity == IMMICH else ()


def open_jwt(settings: Settings, found: Opened) -> JwtBackend:
    """Make what admits a backend's signed tokens, and let the ledger begin its sessions; connects to nothing yet."""
    from endpoints.accounts.identity.jwt.backend import JwtBackend
    from endpoints.accounts.identity.jwt.config import JwtConfig

    jwt = settings.jwt
    backend = JwtBackend(
        JwtConfig(
            issuer=jwt.issuer,
            audience=jwt.audience,
            jwks_url=jwt.jwks,
            session_claim=jwt.session_claim,
            user_claim=jwt.user_claim,
            library_claim=jwt.library_claim,
            algorithms=jwt.algorithms,
            clock_skew_s=jwt.clock_skew_s,
        ),
        found.ledger,
    )
    found.ledger.begin = backend.begin
    return backend


async def open_immich(settings: Settings, found: Opened, source: EntitySource) -> ImmichIdentity:
    """Open what admits Immich's tokens, and let the ledger begin its sessions; a database that is down is no error."""
    from projections.immich.adopting import Adopting
    from projections.immich.identity import ImmichIdentity

    immich = ImmichIdentity(
        await open_immich_tables(settings),
        found.ledger,
        found.past,
        good_for_s=settings.immich.recheck_s,
        adoption=Adopting(lambda: max((resend.revision for resend in source.resends), default=0)),
        horizon=source.horizon,
    )
    found.ledger.begin = immich.begin
    return immich


async def open_immich_tables(settings: Settings, connections: int | None = None) -> ImmichTables:
    """Open Immich's own tables, on connections of their own: as many as a worker needs to admit, or so many."""
    from projections.entities.postgres.pool import Postgres
    from projections.immich.tables import POOL, STATEMENT_S, ImmichTables

    postgres = settings.postgres
    assert postgres.url is not None, "LEDGER_POSTGRES is checked where settings are read"
    timeout_s = min(postgres.timeout_s, STATEMENT_S)
    return ImmichTables(
        await Postgres.open(
            postgres.url,
            size=connections or POOL,
            wait_s=postgres.wait_s,
            statement_timeout_s=timeout_s,
            watch=statement_watch(settings),
        )
    )


def check_identity(settings: Settings) -> None:
    """Find out before anything starts whether users can sign in as configured; raises InvalidInput, OSError."""
    keyring_source(settings)
    credential_cipher(settings)
    if settings.identity == "oidc":
        oidc_config(settings)


def gumnut_config(settings: Settings) -> GumnutConfig:
    """Put the settings of Gumnut as it takes them, as identity provider and as source; raises InvalidInput."""
    from projections.entities.gumnut.config import GumnutConfig

    return GumnutConfig(settings.gumnut.url, library=settings.gumnut.library or None)


def oidc_config(settings: Settings) -> OidcConfig:
    """Put the settings of an OpenID Connect provider as it takes them; raises InvalidInput for what does not fit."""
    oidc = settings.oidc
    return OidcConfig(
        issuer=oidc.issuer,
        client_id=oidc.client_id,
        client_secret=oidc.client_secret,
        scope=oidc.scope,
        prompt=oidc.prompt,
        algorithms=oidc.algorithms,
        token_auth=oidc.token_auth,
        clock_skew_s=oidc.clock_skew_s,
        user_claim=oidc.user_claim,
        library_claim=oidc.library_claim,
        role_claim=oidc.role_claim,
        end_session_endpoint=oidc.end_session or None,
    )
