"""A sign-in at an identity provider, from the page the user is sent to until their session is there.

What ties its two requests together are a state and a PKCE verifier (RFC 7636), which the client keeps: an app by
itself, a browser in cookies. Whatever refuses a sign-in is counted and logged here, by one word.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from hmac import compare_digest
from typing import Final, NamedTuple

import falcon.asgi
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from endpoints.accounts import cookies
from endpoints.accounts.device_descriptions import Device
from endpoints.accounts.identity.port import Answer, Identity, IdentityProvider, SignInRefused, provider_session_digest
from endpoints.accounts.redirects import check_redirect_uri, for_provider, read_answer
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.commands import CreateSession, EndSession
from ledger.errors import InvalidInput, LedgerError, Refused, SessionEnded
from ledger.personal import plain
from projections.accounts.person import EmailTaken, IdentityTaken, NotRegistered, Profile
from projections.accounts.tokens import Issued

log = logging.getLogger(__name__)

MAX_STATE_CHARS: Final = 512
_STATE: Final = re.compile(rf"[A-Za-z0-9._~+/=-]{{1,{MAX_STATE_CHARS}}}")
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_REASONS: Final[dict[type[Refused], str]] = {
    NotRegistered: "not_registered",
    EmailTaken: "email_taken",
    IdentityTaken: "identity_taken",
}


class Begun(NamedTuple):
    """A sign-in on its way: the provider's page, the state to come back with, and the verifier if it was made here."""

    url: str
    state: str
    verifier: str | None


class Kept(NamedTuple):
    """What a client kept between the two requests; empty where it kept nothing."""

    state: str = ""
    verifier: str = ""


@asynccontextmanager
async def counted(services: Services, req: Request, resp: falcon.asgi.Response | None = None) -> AsyncIterator[None]:
    """Log and count the refusal of a sign-in before it goes on; with `resp` a browser forgets what it kept for it."""
    try:
        yield
    except (SignInRefused, InvalidInput) as refused:
        reason = refused.reason if isinstance(refused, SignInRefused) else "answer_invalid"
        log.warning("sign-in refused: %s: %s [%s]", reason, refused, req.correlation_id)
        if resp is not None:
            cookies.clear(resp, *cookies.OAUTH)
        await services.counters.note("sign_in_refused", reason=reason)
        raise


def check_wishes(redirect_uri: str, state: str | None, challenge: str | None) -> None:
    """Check what a client wants a sign-in to be begun with; raises InvalidInput."""
    check_redirect_uri("redirectUri", redirect_uri)
    if state and not _STATE.fullmatch(state):
        raise InvalidInput([(("state",), f"must have at most {MAX_STATE_CHARS} letters, digits or any of ._~+/=-")])
    if challenge and not _CHALLENGE.fullmatch(challenge):
        raise InvalidInput([(("codeChallenge",), "must be an S256 challenge: 43 characters of base64url")])


class SignIn:
    """Signing in over HTTP with what the service was given. All methods raise SignInRefused and ProviderUnavailable."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def provider(self) -> IdentityProvider:
        """Return the identity provider; raises SignInRefused without one."""
        if self._services.provider is None:
            raise SignInRefused("not_enabled", "OAuth is not enabled")
        return self._services.provider

    async def begin(self, redirect_uri: str, state: str | None, challenge: str | None) -> Begun:
        """Make the address of the provider's page, with a state and a verifier of our own where the client has none."""
        verifier = None if challenge else secrets.token_urlsafe(32)
        url, state = await self.provider().authorize(
            for_provider(redirect_uri, self._mobile_redirect_uri),
            state or secrets.token_urlsafe(32),
            challenge or str(create_s256_code_challenge(verifier)),
        )
        return Begun(url, state, verifier)

    async def identify(self, url: str, given: Kept, in_cookies: Kept) -> Identity:
        """Tell who came back at `url`; `given` is what the request says was kept, and goes before the cookies."""
        provider = self.provider()
        redirect_uri, answer = read_answer(url)
        _check_state(provider, answer, given.state, in_cookies.state)
        verifier = given.verifier or in_cookies.verifier
        if not verifier:
            raise SignInRefused("verifier_missing", "OAuth code verifier is missing")
        if not _VERIFIER.fullmatch(verifier):
            raise InvalidInput([(("codeVerifier",), "must be 43 to 128 letters, digits or any of ._~-")])
        return await provider.sign_in(answer, for_provider(redirect_uri, self._mobile_redirect_uri), verifier)

    async def profile_of(self, identity: Identity) -> Profile:
        """Find the user of an identity, or make it one."""
        services = self._services
        await services.present()  # in a store that lost its ledger this would make a new user
        await services.limits.account(_account(identity))
        with _told_why():
            profile, is_new = await services.identities.sign_in_telling(
                identity.issuer,
                identity.subject,
                email=_email(identity),
                name=identity.name,
                user=identity.user,
                library=identity.library,
                admin=identity.admin,
                register=services.settings.auto_register,
                now_us=services.ledger.clock(),
            )
        await services.claim_conflicts.note(profile.user, identity.user)
        if is_new:
            await services.source.renamed(profile.library, profile.user)
        return profile

    async def link(self, identity: Identity, user: str, library: str) -> Profile:
        """Let a user sign in with an identity that belongs to nobody else, and whose claim names nobody else."""
        services = self._services
        if identity.user not in (None, user):
            raise SignInRefused("claim_differs", "The identity provider says that this account is another user's")
        await services.limits.account(_account(identity))
        before = await services.identities.profile(user)
        with _told_why():
            profile = await services.identities.link(
                user,
                library,
                identity.issuer,
                identity.subject,
                email=_email(identity),
                name=identity.name,
                now_us=services.ledger.clock(),
            )
        if profile != before:
            await services.source.renamed(library, user)
        return profile

    async def open_session(
        self, identity: Identity, profile: Profile, device: Device, lasts_us: int | None = None
    ) -> Issued:
        """Make the session and keep the provider's credential for it, or leave nothing behind.

        It ends after `lasts_us`; without that it lasts until it is idle too long.
        """
        services, ledger = self._services, self._services.ledger
        await services.present()
        # The app cannot refresh: its token lasts as long as its session.
        ttl_us = None if device.is_app else services.settings.token_ttl_us
        now_us = ledger.clock()
        issued = services.tokens.issue(profile.user, now_us, lasts_us or ttl_us)
        command = CreateSession(
            user=profile.user,
            library=profile.library,
            device_type=plain(device.type),
            device_os=plain(device.os),
            app_version=plain(device.app_version),
            expires_at_us=None if lasts_us is None else now_us + lasts_us,
            authenticated_by=self.provider().name,
            token_expires_at_us=issued.expires_at_us,
            provider_session=_digest(identity),
        )
        await ledger.execute(profile.user, issued.sid, command)
        if identity.credential is not None:
            try:
                with _told_why():
                    held = await services.credentials.hold(profile.user, issued.sid, identity.credential)
            except LedgerError:
                await ledger.execute(profile.user, issued.sid, EndSession("revoked"))  # nobody has its token
                raise
            if not held:
                raise SessionEnded
        return issued

    @property
    def _mobile_redirect_uri(self) -> str:
        return self._services.settings.mobile_redirect_uri


def _check_state(provider: IdentityProvider, answer: Answer, given: str, cookie: str) -> None:
    """Hold an answer's state against the one kept; one that the provider made is known here from the cookie only."""
    expected = cookie if provider.checks_state else given or cookie
    if not (expected or (provider.checks_state and answer.state)):
        raise SignInRefused("state_missing", "OAuth state is missing")
    if expected and not compare_digest(expected.encode(), answer.state.encode()):
        raise SignInRefused("state_mismatch")


def _email(identity: Identity) -> str:
    email = (identity.email or "").strip()
    if not email:
        raise SignInRefused("email_missing", "OAuth profile does not have an email address")
    return email


def _account(identity: Identity) -> str:
    return f"{identity.issuer}\0{identity.subject}"


def _digest(identity: Identity) -> bytes:
    if identity.provider_session is None:
        return b""
    return provider_session_digest(identity.issuer, identity.provider_session)


@contextmanager
def _told_why() -> Iterator[None]:
    """Turn what the identity records refuse into refusals of the sign-in."""
    try:
        yield
    except tuple(_REASONS) as refused:
        raise SignInRefused(_REASONS[type(refused)], str(refused)) from refused
    except InvalidInput as error:  # what the provider says of the user, not what the client sent
        said = "; ".join(f"{'.'.join(map(str, path))} {message}" for path, message in error.problems)
        raise SignInRefused("id_token_invalid", f"The identity provider's answer does not fit: {said}") from error
