"""Calls to Gumnut in the name of a session, with the JWT that is held for it."""

from __future__ import annotations

from gumnut import AsyncGumnut
from gumnut.types import UserResponse

from endpoints.identity.gumnut.client import Declined, Pool
from endpoints.identity.gumnut.config import GumnutConfig
from endpoints.identity.gumnut.token import SessionToken
from endpoints.identity.port import ProviderUnavailable
from ledger.errors import NotAllowed
from projections.credentials import Credentials


class SignInAgain(NotAllowed):
    """Gumnut admits a session no more, or never did; the session itself lives on."""

    def __init__(self) -> None:
        super().__init__("Gumnut does not admit this session any more; sign in again")


class GumnutSessions:
    """Gumnut as the users of sessions see it. Answers that bring a new JWT have it kept; the session stays as it is."""

    def __init__(self, config: GumnutConfig, credentials: Credentials) -> None:
        self._credentials = credentials
        self._pool = Pool(config)

    async def client(self, user: str, sid: str) -> AsyncGumnut:
        """Make a client that speaks for a session, for as long as one request of it takes; never to be closed.

        Raises SignInAgain if no JWT is held, CredentialUnreadable, CorruptLedger, StoreUnavailable.
        """
        jwt = await self._credentials.read(user, sid)
        if jwt is None:
            raise SignInAgain
        return self._pool.client(SessionToken(self._credentials, user, sid, jwt))

    async def profile(self, user: str, sid: str) -> UserResponse:
        """Ask who a session's user is at Gumnut; raises ProviderUnavailable and what `client` raises."""
        client = await self.client(user, sid)
        try:
            return await self._pool.ask("user", client.users.me(), UserResponse)
        except Declined as no:
            if no.status in (401, 403):
                raise SignInAgain from None
            raise ProviderUnavailable(f"Gumnut's user answered with {no}") from None

    async def close(self) -> None:
        """Close connections."""
        await self._pool.close()
