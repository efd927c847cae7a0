"""Ending sessions because their identity provider says that its own are over."""

from __future__ import annotations

from contextlib import suppress

from endpoints.identity.port import IdentityProvider, LoggedOut, provider_session_digest
from endpoints.services import Services
from ledger.commands import EndSession
from ledger.errors import SessionEnded

REASON = "provider_logout"


async def end_sessions(services: Services, provider: IdentityProvider, over: LoggedOut) -> None:
    """End the sessions that belong to one session at the provider, or all of a subject who signed in there.

    The same again finds nothing to end.
    """
    ledger = services.ledger
    if over.provider_session is not None:
        digest = provider_session_digest(over.issuer, over.provider_session)
        ending = await ledger.by_provider_session(digest)
    elif over.subject is not None and (user := await services.identities.user_of(over.issuer, over.subject)):
        states = await ledger.devices(user)
        ending = [(user, state.sid) for state in states if state.authenticated_by == provider.name]
    else:
        return
    for user, sid in ending:
        with suppress(SessionEnded):  # it ended meanwhile
            await ledger.execute(user, sid, EndSession(REASON, by=provider.name))
