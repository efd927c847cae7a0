"""`syncledger credentials`: what identity providers entrust, and users' keys, held encrypted."""

from __future__ import annotations

from pathlib import Path

import click
from click import echo

from ops.commands.options import Listed, progress, run, settings_from, store_options
from ops.opening.ledger import open_credentials, opened


@click.group(cls=Listed)
def credentials() -> None:
    """What identity providers entrust to sessions, held encrypted."""


@credentials.command()
@store_options
def rekey(data_dir: Path | None, redis_url: str | None) -> None:
    """Encrypt all anew with the newest key, so that older ones can be taken out of LEDGER_CREDENTIAL_KEY.

    Services must know the new key beforehand. The ledger may be in use meanwhile; if it is interrupted, run it again.
    """
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)

    async def work() -> int:
        async with opened(settings) as found:
            with progress("encrypting") as advance:
                held = await open_credentials(found, settings).rekey(lambda done: advance(done, "credentials"))
                return held + await found.user_keys.rewrap(lambda done: advance(done, "users' keys"))

    echo(f"{run(work()):,} encrypted with the newest key")
