"""`syncledger key`: API keys."""

from __future__ import annotations

from pathlib import Path

import click
from click import echo

from ledger.keys import MAX_NAME_BYTES
from ledger.positions import iso_from_us
from ops.commands.options import Listed, json_option, print_json, run, settings_from, store_options
from ops.commands.tables import columns, minute
from ops.opening.ledger import opened
from projections.accounts.api_keys import MAX_NAME_CHARS, SCOPES, ApiKey


@click.group(cls=Listed)
def key() -> None:
    """API keys, for scripts: no session, only the scopes they were made with."""


@key.command()
@click.option("--scope", "scopes", required=True, multiple=True, type=click.Choice(SCOPES), help="May be repeated.")
@click.option("--name", default="", help="What it is for.")
@click.option("--library", default=None, help="Only in this library: for entities.read and entities.write.")
@store_options
def create(
    scopes: tuple[str, ...], name: str, library: str | None, data_dir: Path | None, redis_url: str | None
) -> None:
    """Make a key and print it, alone. It is shown once and kept nowhere."""

    async def work() -> str:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url), begin=True) as found:
            now_us = found.ledger.clock()
            text, _ = await found.api_keys.create(scopes, name=name, now_us=now_us, library=library)
            return text

    echo(run(work()))


@key.command("list")
@store_options
@json_option
def list_keys(data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """List the keys: their ids, scopes and names, and when each was made and last used (UTC).

    A damaged key admits nobody. It is named after the others, and the exit code is then 1.
    """

    async def work() -> tuple[list[ApiKey], list[str], dict[str, int]]:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            return *await found.api_keys.all_with_damaged(), await found.api_keys.used_ms()

    keys, damaged, used_ms = run(work())
    if as_json:
        print_json([_json(kept, used_ms.get(kept.id)) for kept in keys])
    elif not keys and not damaged:
        echo("there are no keys: syncledger key create makes one", err=True)
    else:
        header = ("id", "made", "last used", "scopes", "library", "name")
        rows = [_row(kept, used_ms.get(kept.id)) for kept in keys]
        for line in columns([header, *rows], max(MAX_NAME_CHARS, MAX_NAME_BYTES)):
            echo(line)
    for key_id in damaged:
        echo(f"key {key_id} cannot be read: syncledger key revoke {key_id}, and make another", err=True)
    if damaged:
        raise click.exceptions.Exit(1)


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


def _row(key: ApiKey, used_ms: int | None) -> tuple[str, ...]:
    used = "never" if used_ms is None else minute(used_ms * 1000)
    scopes = ",".join(key.scopes or key.library_scopes)
    return key.id, minute(key.created_at_us), used, scopes, key.library or "all", key.name


def _json(key: ApiKey, used_ms: int | None) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes or key.library_scopes,
        "library": key.library or None,
        "createdAt": iso_from_us(key.created_at_us),
        "lastUsedAt": None if used_ms is None else iso_from_us(used_ms * 1000),
    }
