"""What the service asks of an identity provider, whichever it is.

A sign-in is two requests: `authorize` gives the page to send the user to, `sign_in` turns the address that the provider
sent the user back to into an Identity. Nothing is kept between the two: what ties them together are the state and the
PKCE verifier, which the client holds, and a nonce made of both.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from ledger.errors import Refused, Unavailable

MAX_SUBJECT_CHARS: Final = 255
"""OpenID Connect Core 1.0, section 2: `sub` must not exceed 255 ASCII characters."""


class SignInRefused(Refused):
    """A sign-in that admits nobody. `reason` is one fixed word for counters and logs; neither holds a secret."""

    def __init__(self, reason: str, message: str = "OAuth authentication failed") -> None:
        super().__init__(message)
        self.reason = reason


class ProviderUnavailable(Unavailable):
    """The identity provider did not answer, or not sensibly; signing in may work later, sessions go on."""

    retry_after_s = 5


class Health(NamedTuple):
    """How signing in is: whether anybody can, and what it cannot do; `text` is empty where all is well."""

    ok: bool
    text: str


class Authorization(NamedTuple):
    """Where to send the user, and the state that must come back with them."""

    url: str
    state: str


class Answer(NamedTuple):
    """What the provider sent the user back with, as the query of the redirect has it; empty where absent."""

    code: str = ""
    state: str = ""
    iss: str = ""
    error: str = ""

    def __repr__(self) -> str:
        """Show nothing: the code is a secret until it was used."""
        return "Answer()"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who signed in, as the provider says.

    `issuer` and `subject` identify; all else only describes. `user`, `library` and `admin` come from claims named in
    the settings, None where there are none. `provider_session` is the provider's `sid`. `credential` is a secret that
    calls in the name of the user need, or that ends the provider's session: it is only ever stored encrypted.
    """

    issuer: str
    subject: str
    email: str | None = None
    name: str | None = None
    user: str | None = None
    library: str | None = None
    admin: bool | None = None
    provider_session: str | None = None
    credential: str | None = None

    def __repr__(self) -> str:
        """Show nothing personal."""
        return f"Identity(issuer={self.issuer!r})"

    def __rich_repr__(self) -> Any:
        """Show the same as `repr`."""
        yield repr(self)


class LoggedOut(NamedTuple):
    """What a provider's logout token ends: one session at the provider, or all of a subject. At least one is given.

    Sessions that began at `before_us` or later are not meant, so showing a token again does little. `user` is given
    where the token itself says which user the subject is, and `session` where it names one session here: others that
    the provider calls the same are not meant then.
    """

    issuer: str
    subject: str | None
    provider_session: str | None
    before_us: int
    user: str | None = None
    session: str | None = None


class LogoutSender(Protocol):
    """Somebody whose sessions end elsewhere, and who says so. All methods raise ProviderUnavailable."""

    name: str
    """How sessions are said to be authenticated: `oidc`, `gumnut` or `jwt`."""

    async def logged_out(self, logout_token: str) -> LoggedOut:
        """Verify a back-channel logout token; raises SignInRefused for one that is not good."""
        ...


class IdentityProvider(LogoutSender, Protocol):
    """Somebody who can tell who a user is. All methods raise ProviderUnavailable; `sign_in` also SignInRefused."""

    checks_state: bool
    """Whether the provider makes and checks the state itself; otherwise the endpoint compares it."""

    async def authorize(self, redirect_uri: str, state: str, challenge: str) -> Authorization:
        """Make the address of the provider's sign-in page; `challenge` is the S256 code challenge."""
        ...

    async def sign_in(self, answer: Answer, redirect_uri: str, verifier: str) -> Identity:
        """Exchange the code of an answer whose state was compared, and verify who signed in."""
        ...

    async def logout_url(self, credential: str | None, return_to: str | None) -> str | None:
        """Tell where the user ends their session at the provider; None if it has no such page.

        `credential` is that of the identity, `return_to` an address the provider may send the user back to.
        """
        ...

    def health(self) -> Health | None:
        """Tell how signing in was when that was last looked at; None where it was not. Waits for nothing."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


def provider_session_digest(issuer: str, provider_session: str) -> bytes:
    """Name a provider's session without telling its id: the first 16 bytes of SHA-256."""
    return sha256(b"%b\0%b" % (issuer.encode(), provider_session.encode())).digest()[:16]
