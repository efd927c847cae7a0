"""What the ledger's meta says of its log: which one it is, where, how far it came, and who writes it just now."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self
from uuid import uuid4

from ledger import keys
from ledger.errors import CorruptLedger, StoreUnavailable
from ledger.store.interface import Script, Store
from projections.transparency.errors import LogRefused

TTL_S: Final = 60.0
_AS_IT_IS: Final = "-"
_LONGEST_MS: Final = 3_600_000
_NOTE: Final = Script.load("projections.transparency", "note.lua", allow_oom=True)  # trimming waits for it
_LEASE: Final = Script.load("projections.transparency", "lease.lua", allow_oom=True)


class Noted(NamedTuple):
    """What is noted of a log: nothing where there is none. `at_ms`: when a run ended last; `wrong`: what it met.

    `refused`: of how many sessions it refused events, up to 100.
    """

    origin: str = ""
    place: str = ""
    size: int = 0
    at_ms: int = 0
    wrong: str = ""
    refused: int = 0


async def read_noted(store: Store) -> Noted:
    """Read what is noted; raises CorruptLedger."""
    name = keys.meta()
    fields = ("proof_origin", "proof_place", "proof_size", "proof_at_ms", "proof_wrong", "proof_refused")
    origin, place, size, at_ms, wrong, refused = await store.command("HMGET", name, *fields, key=name)
    try:
        texts = [(value or b"").decode() for value in (origin, place, wrong)]
        return Noted(texts[0], texts[1], int(size or 0), int(at_ms or 0), texts[2], int(refused or 0))
    except ValueError as error:
        raise CorruptLedger(f"what is noted of the log cannot be read: {error!r}") from error


async def note(
    store: Store,
    origin: str,
    place: str,
    size: int,
    at_ms: int | None = None,
    wrong: str | None = None,
    refused: int = 0,
) -> None:
    """Note how far a log is at least, when a run ended, what it met; raises LogRefused where another is noted.

    `refused`: of how many sessions it refused events, which is noted with what it met.
    """
    args = (origin, place, size, "" if at_ms is None else at_ms, _AS_IT_IS if wrong is None else wrong, refused)
    found = (await store.script(_NOTE, [keys.meta()], args)).decode()
    if found != origin:
        raise LogRefused(f"this ledger's log is {found}, not {origin}: set LEDGER_PROOF to where that one is")


class LogLease:
    """The right to write the log, as far as jobs keep to it; two that write at once lose time and nothing else."""

    def __init__(self, store: Store, ttl_s: float = TTL_S) -> None:
        self.held = False
        self._store = store
        self._ttl_s = ttl_s
        self._token = uuid4().hex

    async def __aenter__(self) -> Self:
        """Take it if it is free; `held` tells."""
        await self.renew()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.held:
            with suppress(StoreUnavailable):  # then it runs out by itself
                await self._lease(0)

    async def renew(self) -> None:
        """Keep it."""
        self.held = await self._lease(int(self._ttl_s * 1000))

    async def _lease(self, ms: int) -> bool:
        return bool(await self._store.script(_LEASE, [keys.meta()], (self._token, ms, _LONGEST_MS)))
