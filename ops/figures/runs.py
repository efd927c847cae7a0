"""Noting in the ledger how commands went that somebody runs now and then, so that the service's figures tell of it."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from ledger.errors import LedgerError
from ledger.store.interface import Store
from ops.opening.ledger import Opened, opened
from ops.settings.settings import Settings
from projections.census.record import Command, Kept

log = logging.getLogger("syncledger.figures")


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


@asynccontextmanager
async def opened_to_run(settings: Settings, command: Command) -> AsyncIterator[Opened]:
    """Open the ledger for a run; raises what `opened` does.

    One that fails here already, as where the archive is a folder that cannot be made, is noted as failed too, if the
    ledger can be opened without the archive.
    """
    async with AsyncExitStack() as stack:
        try:
            found = await stack.enter_async_context(opened(settings))
        except LedgerError:
            await note_failed(settings, command)
            raise
        yield found


async def note_failed(settings: Settings, command: Command) -> None:
    """Note a run that failed before its places were open; raises nothing."""
    began_s = time.monotonic()
    try:
        async with opened(msgspec.structs.replace(settings, archive=None)) as found:
            await Kept(found.store).ran(command, began_s, ok=False)
    except LedgerError as error:
        log.warning("that %s failed could not be noted: %s", command, error)
