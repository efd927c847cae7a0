"""Ending sessions because their identity provider says that its own are over."""

from __future__ import annotations

from itertools import groupby
from typing import Final

from endpoints.accounts.identity.port import LoggedOut, LogoutSender, provider_session_digest
from endpoints.services import Services
from ledger.commands import EndSession
from ledger.errors import LedgerError, NotAllEnded
from ledger.log.finding import by_provider_session
from ledger.log.service import Ledger
from ledger.personal import plain

REASON: Final = "provider_logout"


async def end_sessions(services: Services, sender: LogoutSender, over: LoggedOut) -> None:
    """End the sessions that belong to one session at the provider, or all of a subject who signed in there.

    The same again finds nothing to end but what was begun within the clocks' difference. What cannot be read is raised
    behind the end of all others, so that the provider tries again.
    """
    ledger = services.ledger
    failed: LedgerError | None = None
    if over.provider_session is not None:
        digest = provider_session_digest(over.issuer, over.provider_session)
        found, failed = await by_provider_session(ledger.stored, digest)
        ending = sorted((user, sid) for user, sid in found if over.session in (None, sid))
    elif user := await _user_of(services, over):
        ending = await _signed_in(ledger, user, sender.name, over.before_us)
    else:
        return
    for user, sids in groupby(ending, key=lambda found: found[0]):
        try:
            await ledger.end_all(user, [sid for _, sid in sids], EndSession(REASON, by=plain(sender.name)))
        except NotAllEnded as left:
            failed = left
    if failed is not None:
        raise failed


async def _user_of(services: Services, over: LoggedOut) -> str | None:
    """Tell which user a subject is; None if nobody knows."""
    if over.user is not None or over.subject is None:
        return over.user
    return await services.identities.user_of(over.issuer, over.subject)


async def _signed_in(ledger: Ledger, user: str, by: str, before_us: int) -> list[tuple[str, str]]:
    states = await ledger.devices(user)
    return [(user, state.sid) for state in states if state.authenticated_by == by and state.created_at_us < before_us]
