"""Calls to Gumnut in the name of a session, with the JWT that is held for it."""

from __future__ import annotations

from gumnut import AsyncGumnut
from gumnut.types import UserResponse

from ledger.errors import NotAllowed
from projections.accounts.credentials import Credentials
from projections.entities.gumnut.client import RETRIES, Declined, GumnutUnavailable, Pool
from projections.entities.gumnut.config import GumnutConfig
from projections.entities.gumnut.token import SessionToken


class SignInAgain(NotAllowed):
    """Gumnut admits a session no more, or never did; the session itself lives on."""

    def __init__(self) -> None:
        super().__init__("Gumnut does not admit this session any more; sign in again")


class GumnutSessions:
    """Gumnut as the users of sessions see it. Answers that bring a new JWT have it kept; the session stays as it is."""

    def __init__(self, config: GumnutConfig, credentials: Credentials, pool: Pool | None = None) -> None:
        """`pool` is one that others use too; it is closed here all the same."""
        self._credentials = credentials
        self._pool = pool or Pool(config)

    async def client(self, user: str, sid: str, *, retries: int = RETRIES) -> AsyncGumnut:
        """Make a client that speaks for a session, for as long as one request of it takes; never to be closed.

        Raises SignInAgain if no JWT is held, CredentialUnreadable, CorruptLedger, StoreUnavailable.
        """
        jwt = await self._credentials.read(user, sid)
        if jwt is None:
            raise SignInAgain
        return self._pool.client(SessionToken(self._credentials, user, sid, jwt), retries=retries)

    async def profile(self, user: str, sid: str) -> UserResponse:
        """Ask who a session's user is at Gumnut; raises GumnutUnavailable and what `client` raises."""
        client = await self.client(user, sid)
        try:
            return await self._pool.ask("user", client.users.me(), UserResponse)
        except Declined as no:
            if no.status in (401, 403):
                raise SignInAgain from None
            raise GumnutUnavailable(f"Gumnut's user answered with {no}") from None

    async def close(self) -> None:
        """Close connections."""
        await self._pool.close()
