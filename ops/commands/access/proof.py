"""`syncledger proof`: the transparency log's keys, and checking what it proves."""

from __future__ import annotations

from pathlib import Path

import click
from click import echo

from ledger.transparency.notes import BadNote, SignerKey, VerifierKey, parse_signer
from ledger.transparency.session_proof import NotProved, check, plain, read, words
from ops.commands.access.proof_close import close
from ops.commands.access.proof_prune import prune
from ops.commands.options import json_option, print_json, settings_from
from ops.commands.verifier_keys import verifier_keys
from ops.opening.key_files import alone, replace
from ops.opening.proof import KEY_FILE, keys_in, make_key, read_keys
from ops.settings.settings import Settings

DEFAULT_KEPT = 1

data_dir_option = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder where the keys are [default: ./var]."
)


@click.group()
def proof() -> None:
    """The transparency log: who signs it, and what it proves."""


@proof.command("keys")
@data_dir_option
@json_option
def list_keys(data_dir: Path | None, as_json: bool) -> None:
    """Print the keys that verify the log's checkpoints, newest first. Publish them where auditors trust you."""
    keys = [str(key.public) for key in _keys(settings_from(data_dir=data_dir))]
    if as_json:
        print_json(keys)
        return
    for key in keys:
        echo(key)


@proof.command()
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=DEFAULT_KEPT,
    show_default=True,
    help="How many of the earlier keys sign too.",
)
@data_dir_option
def rotate(keep: int, data_dir: Path | None) -> None:
    """Make a new key in the data folder, which signs all checkpoints from now on, and print what verifies it.

    The earlier keys sign beside it, so those who know only them still believe the log. Publish the new key; when
    everybody has it, rotate again or remove the old line.
    """
    settings = settings_from(data_dir=data_dir)
    if settings.proof.key is not None:
        raise click.ClickException(
            "the keys come from LEDGER_PROOF_KEY, not from the data folder: put a new line first there"
        )
    folder = settings.data_dir
    with alone(folder):
        keys = _keys(settings)
        made = make_key(keys[0].name)
        kept = [made, *keys[:keep]]
        replace(folder / KEY_FILE, "".join(f"{key.written()}\n" for key in kept))
    echo(str(made.public))


@proof.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--key",
    "keys",
    multiple=True,
    required=True,
    callback=verifier_keys,
    help="A key that verifies the log (see proof keys).",
)
@click.option(
    "--witness",
    "witnesses",
    multiple=True,
    callback=verifier_keys,
    help="The key of a witness that must have signed, too.",
)
@json_option
def verify(file: Path, keys: list[VerifierKey], witnesses: list[VerifierKey], as_json: bool) -> None:
    """Check the proof of a session's history, without any store, and say what it proves and what not.

    Exits 1 if it proves nothing. ops/proof/check.py does the same without this program.
    """
    try:
        found = read(file.read_bytes())
        verdict = check(found, keys, witnesses)
    except NotProved as error:
        raise click.ClickException(f"NOT PROVED: {plain(str(error))}") from None
    lines = words(found, verdict)
    if as_json:
        checkpoint = verdict.checkpoint
        print_json(
            {"session": found.session, "seq": verdict.seq, "events": verdict.events, "origin": checkpoint.origin,
             "size": checkpoint.size, "root": checkpoint.root.hex(), "says": lines}
        )  # fmt: skip
        return
    for line in lines:
        echo(line)


proof.add_command(close)
proof.add_command(prune)


def _keys(settings: Settings) -> list[SignerKey]:
    """Read the keys, wherever they are."""
    try:
        text = keys_in(settings.data_dir) if settings.proof.key is None else settings.proof.key
        if text is None:
            raise click.ClickException(
                f"there is no key in {settings.data_dir / KEY_FILE}: the log makes one when it begins"
            )
        return read_keys(KEY_FILE, text, parse_signer(text.split()[0]).name)
    except (BadNote, ValueError) as error:
        raise click.ClickException(str(error)) from None
