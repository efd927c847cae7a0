"""`syncledger store`: what lies under a ledger."""

from __future__ import annotations

from pathlib import Path

import click
from click import echo

from ops.commands.options import run, settings_from, store_options
from ops.opening.ledger import begin_on_purpose, store_of


@click.group("store")
def store() -> None:
    """The store under a ledger: begin one in it, mend the file of an embedded one."""


@store.command()
@click.option("--anew", is_flag=True, help="Also where one is known that was lost: every device must sign in again.")
@store_options
def begin(anew: bool, data_dir: Path | None, redis_url: str | None) -> None:
    """Begin a ledger in an empty store and print its id.

    A data folder that knows none, and has made its keys itself, needs no such word: serve begins one there. Elsewhere
    an empty store may be one that was lost, and to begin another would sign every device out. So services do not do it
    by themselves where the key comes from LEDGER_TOKEN_KEY or a ledger was known.
    """
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)

    async def work() -> str:
        async with store_of(settings) as opened:
            return await begin_on_purpose(opened, settings, anew=anew)

    echo(run(work()))
