"""What the endpoints are given to work with. `ops` builds it; nothing here is made at import."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from endpoints.accounts.auth import Auth
from endpoints.accounts.identity.port import IdentityProvider, LogoutSender
from endpoints.figures.worker import WorkerFigures
from endpoints.http.limits import Limits
from endpoints.readiness import Readiness
from endpoints.sync.stream_over import StreamOver, log_it
from ledger.errors import Refused
from ledger.log.service import Ledger
from projections.accounts.claim_conflicts import ClaimConflicts
from projections.accounts.credentials import Credentials
from projections.accounts.identities import Identities
from projections.accounts.tokens import TokenIssuer
from projections.counters import Counters
from projections.devices.listing import Devices
from projections.entities.protocol_version import DEFAULT, ProtocolVersion
from projections.entities.source import EntitySource
from projections.feed.hub import FeedHub
from projections.finding.people import Elsewhere, user_of_email
from projections.history.event_pages import EventPages
from projections.transparency.published import PublishedLog
from projections.unknown_types import UnknownTypes


class HttpSettings(msgspec.Struct, frozen=True):
    """The settings that clients see."""

    external_domain: str = ""
    login_page_message: str = ""
    oauth_auto_launch: bool = False
    oauth_button_text: str = "Login with OAuth"
    mobile_redirect_uri: str = ""
    """An https address that stands in for the app's own scheme at providers that take no other; empty: none."""
    auto_register: bool = True
    """Whether an identity that nobody knows yet gets a user."""
    secure_cookies: bool = False
    """Whether cookies are `Secure` also where the request does not show that it came over TLS."""
    token_ttl_us: int | None = None
    """How long a token is good for; None for tokens that last as long as their session."""
    log_open: bool = False
    """Whether auditors read the transparency log without a key."""
    sessions_elsewhere: str = ""
    """Where sessions begin and end, in words, if that is another service's; empty: here."""

    tokens_elsewhere: str = ""
    """Where tokens come from, in words, if another service gives them out and sessions end here; empty: from here."""

    def check_sessions_here(self) -> None:
        """Refuse to end a session where that is another service's."""
        if self.sessions_elsewhere:
            raise Refused(f"Devices sign in and out {self.sessions_elsewhere}; what is done there is followed here")

    def check_tokens_here(self) -> None:
        """Refuse to begin a session, or to renew its token, where that is another service's."""
        self.check_sessions_here()
        if self.tokens_elsewhere:
            raise Refused(f"Tokens come {self.tokens_elsewhere}, and no others admit: get one there")


async def _present() -> None:
    """Take the ledger for there: nobody else uses its store."""


async def _by_default() -> ProtocolVersion:
    """Announce the newest version whose SDK is published."""
    return DEFAULT


class Services(msgspec.Struct, frozen=True):
    """All that resources use.

    `auth_user` reads the `AuthUserV1` payload of a user in a library, None where there is none; raises Unavailable.
    `readiness` asks store and source how they are; raises StoreUnavailable and StoreFull where it takes no writes,
    and LedgerGone as `present` does: where the store has lost the ledger. `stall_s` is for how long a stream's reader
    may take nothing. Without a
    `provider` nobody signs in over HTTP: sessions are made by the command.
    `protocol_version` tells the version to announce; it raises nothing. `unknown_types` is there beside a backend, of
    which apps learn the version: what they ask for and nobody here knows is left out and noted there, else refused.
    `figures` are what this worker counts, those of ledger and store too.
    `users_elsewhere` tells whose an e-mail address is where another service has users.
    `stream_over` is told of each sync stream that is over, and raises nothing.
    `backend_logout` is there where a backend gives tokens out and says when its sessions are over.
    """

    ledger: Ledger
    past: EventPages
    feed: FeedHub
    auth: Auth
    tokens: TokenIssuer
    identities: Identities
    claim_conflicts: ClaimConflicts
    credentials: Credentials
    provider: IdentityProvider | None
    limits: Limits
    counters: Counters
    source: EntitySource
    auth_user: Callable[[str, str], Awaitable[dict[str, Any] | None]]
    readiness: Callable[[], Awaitable[Readiness]]
    present: Callable[[], Awaitable[None]] = _present
    settings: HttpSettings = HttpSettings()
    stall_s: float = 600.0
    protocol_version: Callable[[], Awaitable[ProtocolVersion]] = _by_default
    unknown_types: UnknownTypes | None = None
    backend_logout: LogoutSender | None = None
    users_elsewhere: Elsewhere | None = None
    log: PublishedLog | None = None
    figures: WorkerFigures = msgspec.field(default_factory=WorkerFigures)
    stream_over: Callable[[StreamOver], None] = log_it

    async def user_of_email(self, email: str) -> str | None:
        """Tell whose e-mail address this is; None if it is nobody's. Raises InvalidInput, Unavailable."""
        return await user_of_email(self.ledger.store, email, self.users_elsewhere)

    @property
    def devices(self) -> Devices:
        """What lists devices."""
        return Devices(self.ledger, self.past, self.source)
