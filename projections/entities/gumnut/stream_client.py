"""Who speaks to Gumnut for one stream: the session's user with their JWT, or else whoever the API key belongs to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from gumnut import AsyncGumnut

from ledger.errors import NotAllowed
from projections.entities.gumnut.client import Declined, Pool
from projections.entities.gumnut.session_calls import GumnutSessions, SignInAgain
from projections.entities.gumnut.token import ApiKey

RETRIES: Final = 2
"""As the SDK does by itself; all of them within the time one question has."""

T = TypeVar("T")


class LibraryClosed(NotAllowed):
    """Gumnut does not let a session's user into its library, or not any more."""

    def __init__(self) -> None:
        super().__init__("Gumnut does not give this session its library; sign in again to choose one")


class Speaker:
    """Asks Gumnut for one session; the client is made with the first question."""

    def __init__(self, pool: Pool, sessions: GumnutSessions, user: str, sid: str, key: ApiKey | None) -> None:
        self._pool = pool
        self._sessions = sessions
        self._session = (user, sid)
        self._key = key
        self._client: AsyncGumnut | None = None

    @property
    def is_somebody(self) -> bool:
        """Whether there is anybody to speak for."""
        return self._key is not None or bool(self._session[1])

    async def ask(self, what: str, call: Callable[[AsyncGumnut], Awaitable[T]], kind: type[T]) -> T:
        """Ask one thing; raises GumnutUnavailable, SignInAgain, LibraryClosed, and Declined for other refusals.

        Raises also what reading a session's JWT raises: CredentialUnreadable, CorruptLedger, StoreUnavailable.
        """
        if self._client is None:
            self._client = await self._admitted()
        try:
            return await self._pool.ask(what, call(self._client), kind)
        except Declined as no:
            if no.status == 401:
                raise SignInAgain from None
            if no.status in (403, 404):
                raise LibraryClosed from None
            raise

    async def _admitted(self) -> AsyncGumnut:
        user, sid = self._session
        if sid:
            try:
                return await self._sessions.client(user, sid, retries=RETRIES)
            except SignInAgain:
                if self._key is None:
                    raise
        if self._key is None:
            raise SignInAgain
        return self._pool.client(self._key, retries=RETRIES)
