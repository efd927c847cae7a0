"""`syncledger key`: API keys."""

from __future__ import annotations

from pathlib import Path

import click
from click import echo

from ledger.positions import iso_from_us
from ops.commands.options import json_option, print_json, run, settings_from, store_options
from ops.connect import now_us, opened
from projections.api_keys import SCOPES, ApiKey


@click.group()
def key() -> None:
    """API keys, for scripts: no session, only the scopes they were made with."""


@key.command()
@click.option("--scope", "scopes", required=True, multiple=True, type=click.Choice(SCOPES), help="May be repeated.")
@click.option("--name", default="", help="What it is for.")
@store_options
def create(scopes: tuple[str, ...], name: str, data_dir: Path | None, redis_url: str | None) -> None:
    """Make a key and print it, alone. It is shown once and kept nowhere."""

    async def work() -> str:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            text, _ = await found.api_keys.create(scopes, name=name, now_us=now_us())
            return text

    echo(run(work()))


@key.command("list")
@store_options
@json_option
def list_keys(data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """List the keys: their ids, names and scopes."""

    async def work() -> list[ApiKey]:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            return await found.api_keys.all()

    keys = run(work())
    if as_json:
        print_json(
            [
                {"id": kept.id, "name": kept.name, "scopes": kept.scopes, "createdAt": iso_from_us(kept.created_at_us)}
                for kept in keys
            ]
        )
        return
    for kept in keys:
        echo(f"{kept.id}  {iso_from_us(kept.created_at_us)}  {','.join(kept.scopes)}  {kept.name}")


@key.command()
@click.argument("key_id")
@store_options
def revoke(key_id: str, data_dir: Path | None, redis_url: str | None) -> None:
    """Revoke the key of this id."""

    async def work() -> bool:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            return await found.api_keys.revoke(key_id)

    if not run(work()):
        raise click.ClickException(f"no key has the id {key_id}; syncledger key list shows them")
