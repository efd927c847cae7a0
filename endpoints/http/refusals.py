"""What is counted when a request is refused, and what too many refusals become.

Only a request that is refused comes here: a good credential costs nothing and is never limited, however many bad ones
come from its address or claim its account. A token of a session that has ended is no guess: it stays 401, however often
a device shows it.
"""

from __future__ import annotations

from collections.abc import Callable

from endpoints.accounts.auth import presented
from endpoints.accounts.identity.port import ProviderUnavailable
from endpoints.http.bodies import BodyTooSlow
from endpoints.http.errors import Unauthenticated
from endpoints.http.limits import Limited, Limits
from endpoints.http.request import Request
from ledger.admission import Caller
from ledger.errors import LedgerError, SessionEnded, TokenReused
from ledger.log.service import Ledger
from projections.counters import Counters
from projections.entities.source import SourceUnavailable


class Refusals:
    """Counts refused requests."""

    def __init__(
        self, ledger: Ledger, read_token: Callable[[str], Caller | None], limits: Limits, counters: Counters
    ) -> None:
        self._ledger = ledger
        self._read_token = read_token
        self._limits = limits
        self._counters = counters

    async def judged(self, req: Request, error: Exception) -> Exception:
        """Count an error that a request ended with, once, and return the one to answer with.

        A bad credential that came too often becomes Limited, or StoreUnavailable where its limit is not known.
        """
        if isinstance(error, SessionEnded | Unauthenticated) and (credential := presented(req).value):
            await self._counters.note("bad_tokens")
            if isinstance(error, TokenReused):
                await self._counters.note("token_reused")
            caller = self._read_token(credential)
            try:
                if caller is None or not await self._ledger.once_admitted(caller):
                    await self._limits.bad_token(req, caller.user if caller else None)
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
