"""Noting in the ledger how commands went that somebody runs now and then, so that the service's figures tell of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from ledger.store.interface import Store
from projections.census.record import Command, Kept


class Run(msgspec.Struct):
    """A run of a command; `ok` is set once it has done all that it was to do."""

    ok: bool = False


@asynccontextmanager
async def noted(store: Store, command: Command) -> AsyncIterator[Run]:
    """Note a run: as failed if the block raises or leaves `ok` unset. One that is interrupted is not noted."""
    run, began_s, kept = Run(), time.monotonic(), Kept(store)
    try:
        yield run
    except Exception:
        await kept.ran(command, began_s, ok=False)
        raise
    await kept.ran(command, began_s, ok=run.ok)
