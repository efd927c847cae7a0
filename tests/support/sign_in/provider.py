"""An identity provider in this process: a double of the port, which checks what every provider checks."""

from __future__ import annotations

import secrets
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

from authlib.oauth2.rfc7636 import create_s256_code_challenge

from endpoints.accounts.identity.port import (
    Answer,
    Authorization,
    Health,
    Identity,
    LoggedOut,
    ProviderUnavailable,
    SignInRefused,
)

ISSUER: Final = "https://id.example"
ANN: Final = Identity(
    issuer=ISSUER,
    subject="sub-ann",
    email="Ann@Example.test",
    name="Ann",
    provider_session="op-session-1",
    credential="credential-of-ann",
)


class _Code(NamedTuple):
    """What a code was given out for."""

    who: Identity
    redirect_uri: str
    challenge: str


class MemoryProvider:
    """Signs in whom the test says, by codes that are good once, for one redirect URI and one verifier."""

    def __init__(self, name: str = "oidc", *, checks_state: bool = False, has_logout_page: bool = True) -> None:
        self.name = name
        self.checks_state = checks_state
        self.down = False
        """Whether it is out of reach."""
        self.refuses = ""
        """Why it refuses whoever comes next, in the words of the counters."""
        self.logout_tokens: dict[str, LoggedOut] = {}
        self._has_logout_page = has_logout_page
        self._codes: dict[str, _Code] = {}
        self._own_states: set[str] = set()

    async def authorize(self, redirect_uri: str, state: str, challenge: str) -> Authorization:
        self._answer()
        if self.checks_state:
            state = secrets.token_urlsafe(16)
            self._own_states.add(state)
        asked = {"redirect_uri": redirect_uri, "state": state, "code_challenge": challenge}
        return Authorization(f"{ISSUER}/authorize?{urlencode(asked)}", state)

    def send_back(self, url: str, who: Identity = ANN) -> str:
        """Let a user sign in on the page at `url`; returns the address they are sent back to."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        code = secrets.token_urlsafe(16)
        self._codes[code] = _Code(who, asked["redirect_uri"], asked["code_challenge"])
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state'], 'iss': ISSUER})}"

    async def sign_in(self, answer: Answer, redirect_uri: str, verifier: str) -> Identity:
        self._answer()
        if self.refuses:
            raise SignInRefused(self.refuses)
        if answer.error:
            raise SignInRefused("provider_refused")
        if self.checks_state and answer.state not in self._own_states:
            raise SignInRefused("state_mismatch")
        code = self._codes.pop(answer.code, None)
        if code is None or (code.redirect_uri, code.challenge) != (redirect_uri, create_s256_code_challenge(verifier)):
            raise SignInRefused("code_refused")
        return code.who

    async def logout_url(self, credential: str | None, return_to: str | None) -> str | None:
        self._answer()
        if not self._has_logout_page:
            return None
        asked = {"id_token_hint": credential, "post_logout_redirect_uri": return_to}
        return f"{ISSUER}/end?" + urlencode({name: value for name, value in asked.items() if value is not None})

    async def logged_out(self, logout_token: str) -> LoggedOut:
        self._answer()
        if logout_token not in self.logout_tokens:
            raise SignInRefused("logout_token_invalid")
        return self.logout_tokens[logout_token]

    def health(self) -> Health | None:
        return None

    async def close(self) -> None:
        self.down = True

    def _answer(self) -> None:
        if self.down:
            raise ProviderUnavailable("the identity provider does not answer")
