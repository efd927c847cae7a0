"""What is counted when a request is refused, and what too many refusals become.

Only a request that is refused comes here: a good credential costs nothing and is never limited, however many bad ones
come from its address or claim its account. A token of a session that has ended is no guess: it stays 401, however often
a device shows it. And where the store has lost its ledger, no token of our own is refused: that would sign every device
out, and a restore would come too late.
"""

from __future__ import annotations

from endpoints.accounts.auth import Kind, Presented, presented
from endpoints.accounts.identity.port import ProviderUnavailable
from endpoints.http.bodies import BodyTooSlow
from endpoints.http.errors import Unauthenticated
from endpoints.http.limits import Limited
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.errors import LedgerError, LedgerGone, Rebuilding, SessionEnded, TokenReused
from projections.entities.source import SourceUnavailable


class Refusals:
    """Counts refused requests."""

    def __init__(self, services: Services) -> None:
        self._ledger = services.ledger
        self._tokens = services.tokens
        self._claimed_by = services.auth.claimed_by
        self._gave_out = services.auth.gave_out
        self._limits = services.limits
        self._counters = services.counters
        self._present = services.present

    async def judged(self, req: Request, error: Exception) -> Exception:
        """Count an error that a request ended with, once, and return the one to answer with.

        A bad credential that came too often becomes Limited, or StoreUnavailable where its limit is not known. One that
        the ledger may know becomes LedgerGone while the store has lost it, and NotReplicated while too few replicas
        have the end of its session.
        """
        if isinstance(error, SessionEnded | Unauthenticated | Rebuilding) and (shown := presented(req)).value:
            try:
                await self._bad_credential(req, shown, error)
            except LedgerError as instead:
                error = instead
        if isinstance(error, Limited):
            await self._counters.note("limited", what=error.what)
        elif isinstance(error, ProviderUnavailable):
            await self._counters.note("provider_unavailable")
        elif isinstance(error, SourceUnavailable):
            await self._counters.note("source_unavailable")
        elif isinstance(error, BodyTooSlow):
            await self._counters.note("slow_bodies")
        return error

    async def _bad_credential(self, req: Request, shown: Presented, error: LedgerError) -> None:
        """Count a credential that did not admit; raises what to answer with instead."""
        gone = False
        try:
            await self._present()
        except LedgerGone:
            # Nothing tells a key that was lost from a guess; of a token its signature does, or who gave it out.
            if shown.kind is Kind.KEY or self._tokens.is_ours(shown.value) or self._gave_out(shown.value):
                raise
            gone = True
        if isinstance(error, Rebuilding) and not gone:
            return
        await self._counters.note("bad_tokens")
        if isinstance(error, TokenReused):
            await self._counters.note("token_reused")
        caller = self._claimed_by(shown.value)
        if isinstance(error, SessionEnded) and caller is not None and not gone:
            await self._ledger.stored.confirm_ended(self._ledger.partition_of(caller.user), caller.sid)
        if gone or caller is None or not await self._ledger.admissions.once_admitted(caller):
            await self._limits.bad_token(req, caller.user if caller else None)
        if gone:
            raise SessionEnded
