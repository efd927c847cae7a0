"""What is looked at before a generation with new code and settings may take the place of one that serves."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from ledger.errors import InvalidInput, LayoutError
from ops.opening.identity_provider import check_identity
from ops.opening.ledger import open_ledger
from ops.opening.sources import check_source
from ops.opening.store import check_permissions, connect
from ops.server.messages import Start
from ops.settings.settings import Settings, read_settings
from ops.tracing.sending import check_installed

_FIXED: Final = {"host": "LEDGER_HOST", "port": "LEDGER_PORT", "data_dir": "LEDGER_DATA_DIR"}


def checked_anew(start: Start, before: Settings) -> Settings:
    """Read the settings of this process, and see that a service with them would do what the one with `before` does.

    Raises InvalidInput, LayoutError, StoreUnavailable, and what else keeps a service from starting.
    """
    settings = read_settings(os.environ, **start.overrides)
    problems = [
        ((name,), "is not changed while the service runs: stop and start it, or `syncledger serve --replace`")
        for field, name in _FIXED.items()
        if getattr(settings, field) != getattr(before, field)
    ]
    if (settings.redis_url is None) != (before.redis_url is None):
        text = "the embedded store and one of your own do not change places while the service runs: stop and start it"
        problems.append((("LEDGER_REDIS",), text))
    if problems:
        raise InvalidInput(problems)
    check_identity(settings)
    check_installed(settings)
    asyncio.run(check_source(settings))
    asyncio.run(_check_ledger(start, settings))
    return settings


async def _check_ledger(start: Start, settings: Settings) -> None:
    """See that the store can be used, and holds the ledger that is served."""
    url = settings.redis_url or start.redis_url
    await check_permissions(url, settings)
    store = await connect(url, settings)
    try:
        _, found = await open_ledger(store, settings, begin=False)
    finally:
        await store.close()
    if found != start.ledger_id:
        raise LayoutError(f"This store holds ledger {found}, and {start.ledger_id} is being served")
