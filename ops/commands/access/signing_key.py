"""`syncledger signing-key`: the keys that sign tokens."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from click import echo

from ops.commands.options import Listed, json_option, print_json, settings_from
from ops.opening.key_files import alone, read_or_make, replace
from ops.opening.ledger import TOKEN_KEY_FILE, keyring_source
from projections.accounts.tokens import Keyring, make_key, read_keyring

DEFAULT_KEPT = 4

data_dir_option = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder where the keys are [default: ./var]."
)


@click.group("signing-key", cls=Listed)
def signing_key() -> None:
    """List and rotate the keys that sign tokens."""


@signing_key.command("list")
@data_dir_option
@json_option
def list_keys(data_dir: Path | None, as_json: bool) -> None:
    """List the keys by their ids: the first one signs, the others still verify what they signed. Makes none."""
    settings = settings_from(data_dir=data_dir)
    file = settings.data_dir / TOKEN_KEY_FILE
    if settings.token_key is None and not file.exists():
        echo(f"there are no keys in {settings.data_dir} yet: what makes a token makes the first one", err=True)
        if as_json:
            print_json([])
        return
    keyring = keyring_source(settings)()
    uses = [(kid, "verifies" if number else "signs") for number, kid in enumerate(_kids(keyring))]
    if as_json:
        print_json([{"kid": kid, "use": use} for kid, use in uses])
        return
    for kid, use in uses:
        echo(f"{kid}  {use}")


@signing_key.command()
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=DEFAULT_KEPT,
    show_default=True,
    help="How many of the earlier keys still verify.",
)
@data_dir_option
def rotate(keep: int, data_dir: Path | None) -> None:
    """Make a new key that signs from now on, in the data folder, and print its id.

    Running services take it up by themselves. No session ends: a token is good for as long as it is in its session.
    """
    settings = settings_from(data_dir=data_dir)
    if settings.token_key is not None:
        name = "LEDGER_TOKEN_KEY" if settings.token_key_file is None else "LEDGER_TOKEN_KEY_FILE"
        raise click.ClickException(
            f"the keys come from {name}, not from the data folder: put a JSON Web Key Set there, the new key first"
        )
    file = settings.data_dir / TOKEN_KEY_FILE
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(settings.data_dir):
        try:
            current = read_keyring(read_or_make(file, make_key))
        except ValueError as error:
            raise click.ClickException(f"{file}: {error}") from None
        keyring = (*read_keyring(make_key()), *current[:keep])
        replace(file, msgspec.json.encode({"keys": [key.as_dict(private=True) for key in keyring]}).decode())
    echo(_kids(keyring)[0])


def _kids(keyring: Keyring) -> list[str]:
    return [key.kid or key.thumbprint() for key in keyring]
