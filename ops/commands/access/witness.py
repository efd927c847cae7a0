"""`syncledger witness`."""

from __future__ import annotations

import fcntl
from pathlib import Path

import click
import uvicorn
from click import echo

from ledger.transparency.notes import ED25519, BadNote, VerifierKey
from ops.commands.verifier_keys import verifier_keys
from ops.server.listening import address_of, listen
from ops.witness.server import build
from ops.witness.state import WitnessRefused, WitnessState

_AT_ONCE = 64


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), required=True, help="Folder of its key and state.")
@click.option("--name", default="", help="What it is called, for ever; given where it begins.")
@click.option(
    "--log",
    "logs",
    multiple=True,
    callback=verifier_keys,
    help="The key of a log to watch (see proof keys); may be repeated.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; TLS is a proxy's.")
@click.option("--port", type=click.IntRange(0, 65535), default=2285, show_default=True)
@click.option("--print-key", is_flag=True, help="Print what verifies what it signs, and end.")
def witness(data_dir: Path, name: str, logs: list[VerifierKey], host: str, port: int, print_key: bool) -> None:
    """Watch logs of other ledgers: sign each checkpoint that grew from the last one signed, never a fork.

    Somebody else than the log's owner runs it. In the log's LEDGER_WITNESSES stand what --print-key prints, a space,
    and the witness's address. Keep its folder on a disk that is never set back: what it signed is all that it knows. If
    that is lost, it exits with 2.
    """
    try:
        state = WitnessState(data_dir, name)
        if print_key:
            echo(str(state.key.public))
            return
        watched = _by_origin(logs)
    except BadNote as error:
        raise click.UsageError(str(error)) from None
    if not watched:
        raise click.UsageError("give the key of at least one log to watch: --log VKEY")
    with data_dir.joinpath("lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WitnessRefused(f"another witness runs on {data_dir}") from None
        state = WitnessState(data_dir, name)  # as the one before left it
        listeners = listen([host], port)
        where = ", ".join(address_of(each) for each in listeners)
        echo(f"witness {state.key.public} of {', '.join(sorted(watched))} at {where}", err=True)
        config = uvicorn.Config(
            build(state, watched),
            log_level="warning",
            lifespan="off",
            limit_concurrency=_AT_ONCE,
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(config).run(listeners)


def _by_origin(logs: list[VerifierKey]) -> dict[str, list[VerifierKey]]:
    found: dict[str, list[VerifierKey]] = {}
    for key in logs:
        if key.type != ED25519:
            raise BadNote(f"{key.name} is the key of a witness, not of a log")
        found.setdefault(key.name, []).append(key)
    return found
