"""Gumnut behind the port. Gumnut does the OAuth part with its own provider; what comes here is its word on a user."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar
from urllib.parse import parse_qs, urlsplit

from gumnut.types import AuthURLResponse, ExchangeResponse, LogoutEndpointResponse, UserResponse
from gumnut.types.exchange_response import User

from endpoints.accounts.identity.gumnut.library import choose_library, is_library
from endpoints.accounts.identity.port import (
    MAX_SUBJECT_CHARS,
    Answer,
    Authorization,
    Health,
    Identity,
    LoggedOut,
    ProviderUnavailable,
    SignInRefused,
)
from ledger.errors import InvalidInput
from ledger.keys import check_name
from projections.accounts.addresses import problem_of
from projections.entities.gumnut.client import ANONYMOUS, Declined, GumnutUnavailable, Pool, expected
from projections.entities.gumnut.config import GumnutConfig
from projections.entities.gumnut.token import Token, is_jwt

MAX_PART_CHARS: Final = 4096

T = TypeVar("T")

_NO_LIBRARY: Final = "Your Gumnut account has no library yet; make one there, then sign in again"
_NOT_ADMITTED: Final = "Gumnut does not admit this account; it may have been deleted or deactivated"
_OTHER_ACCOUNT: Final = "Gumnut has another account of yours already; settle that there, then sign in again"


class GumnutProvider:
    """Signs users of Gumnut in. Nothing of a sign-in is kept: Gumnut holds its state."""

    name = "gumnut"
    checks_state = True

    def __init__(self, config: GumnutConfig) -> None:
        self._config = config
        self._pool = Pool(config)

    async def authorize(self, redirect_uri: str, state: str, challenge: str) -> Authorization:
        """Have Gumnut make the address of the sign-in page, and with it the state; `state` is not used."""
        call = self._pool.client().oauth.auth_url(
            redirect_uri=redirect_uri,
            code_challenge=challenge,
            code_challenge_method="S256",
            extra_headers=ANONYMOUS,
        )
        try:
            answer = await self._ask("sign-in page", call, AuthURLResponse)
        except Declined as no:
            text = f"Gumnut does not begin a sign-in ({no}); is this redirect address registered there?"
            raise SignInRefused("provider_refused", text) from None
        url = self._address("sign-in page", answer.url)
        states = parse_qs(urlsplit(url).query).get("state", [])
        if len(states) != 1 or len(states[0]) > MAX_PART_CHARS:
            raise ProviderUnavailable("Gumnut's sign-in page has no state")
        return Authorization(url, states[0])

    async def sign_in(self, answer: Answer, redirect_uri: str, verifier: str) -> Identity:
        """Exchange the code of an answer, whose state Gumnut checks, for who signed in and which library is theirs."""
        if answer.error:
            raise SignInRefused("provider_refused", "The identity provider did not sign in")
        if not all(1 <= len(part) <= MAX_PART_CHARS for part in (answer.code, answer.state, verifier)):
            raise SignInRefused("answer_invalid", "The answer of the identity provider holds no code or no state")
        found = await self._exchange(answer, verifier)
        with _told_as_provider():
            user = expected("exchange", found.user, User)
        if user.is_active is False:
            raise SignInRefused("provider_refused", _NOT_ADMITTED)
        subject, email = _text(user.id), _text(user.email)
        if subject is None or len(subject) > MAX_SUBJECT_CHARS or not is_jwt(found.access_token):
            raise ProviderUnavailable("Gumnut's exchange is not what it should be")
        if email is None:
            raise SignInRefused("email_missing", "OAuth profile does not have an email address")
        token = Token(found.access_token)
        library = self._config.library or await self._library(subject, token)
        name = " ".join(filter(None, (_text(user.first_name), _text(user.last_name))))
        return Identity(
            issuer=self._config.issuer,
            subject=subject,
            email=email,
            name=name or None,
            library=library,
            credential=token.jwt,
        )

    async def logout_url(self, credential: str | None, return_to: str | None) -> str | None:
        """Ask Gumnut where its own provider ends sessions; that takes nobody back, so `return_to` is not used."""
        client = self._pool.client(Token(credential) if credential else None)
        call = client.oauth.logout_endpoint(extra_headers=None if credential else ANONYMOUS)
        try:
            answer = await self._ask("logout page", call, LogoutEndpointResponse)
        except Declined:
            return None
        return self._address("logout page", answer.logout_endpoint)

    async def logged_out(self, logout_token: str) -> LoggedOut:
        """Refuse: Gumnut tells nobody of ended sessions."""
        raise SignInRefused("logout_token_invalid", "Gumnut sends no logout tokens")

    def health(self) -> Health | None:
        """Tell nothing: Gumnut says how it is when it is asked."""
        return None

    async def close(self) -> None:
        """Close connections."""
        await self._pool.close()

    async def _ask(self, what: str, call: Awaitable[T], kind: type[T]) -> T:
        """Ask Gumnut; raises ProviderUnavailable, Declined."""
        with _told_as_provider():
            return await self._pool.ask(what, call, kind)

    async def _exchange(self, answer: Answer, verifier: str) -> ExchangeResponse:
        """Exchange a code, once: it is good for no second time."""
        call = self._pool.client(retries=0).oauth.exchange(
            code=answer.code, state=answer.state, code_verifier=verifier, extra_headers=ANONYMOUS
        )
        try:
            return await self._ask("exchange", call, ExchangeResponse)
        except Declined as no:
            match no.status:
                case 401:
                    raise SignInRefused("provider_refused", _NOT_ADMITTED) from None
                case 409:
                    raise SignInRefused("provider_refused", _OTHER_ACCOUNT) from None
                case _:
                    raise SignInRefused("code_refused") from None

    async def _library(self, subject: str, token: Token) -> str:
        """Ask which library a user syncs; their token must be theirs."""
        client = self._pool.client(token)
        try:
            user = await self._ask("user", client.users.me(), UserResponse)
            libraries = await self._ask("libraries", client.libraries.list(), list)
        except Declined:
            raise SignInRefused("provider_refused", _NOT_ADMITTED) from None
        if _text(user.id) != subject or not all(map(is_library, libraries)):
            raise ProviderUnavailable("Gumnut's user and libraries are not what they should be")
        library = choose_library(libraries, _text(user.immich_library_id))
        if library is None:
            raise SignInRefused("provider_refused", _NO_LIBRARY)
        try:
            return check_name("library", library)
        except InvalidInput:
            raise ProviderUnavailable("Gumnut's libraries are not what they should be") from None

    def _address(self, what: str, url: object) -> str:
        """Return an address users may be sent to; raises ProviderUnavailable."""
        if not isinstance(url, str) or problem_of(url, plain=self._config.plain):
            raise ProviderUnavailable(f"Gumnut's {what} has no usable address")
        return url


@contextmanager
def _told_as_provider() -> Iterator[None]:
    """Have a Gumnut that does not answer told as the identity provider that it is in a sign-in."""
    try:
        yield
    except GumnutUnavailable as error:
        raise ProviderUnavailable(str(error)) from None


def _text(value: object) -> str | None:
    """Return what should be a text: the SDK takes whatever it is sent."""
    return value.strip() or None if isinstance(value, str) else None
