"""`syncledger store`: what lies under a ledger."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click import echo

from ops.backup.listing import stamp
from ops.commands.options import Listed, json_option, print_json, progress, run, settings_from, store_options
from ops.commands.tables import counted
from ops.embedded.append_only import Damage, find_damage
from ops.embedded.append_only import mend as mend_files
from ops.embedded.files import check_begun
from ops.embedded.server import EmbeddedServer
from ops.opening.ledger import begin_on_purpose, now_us
from ops.opening.store import store_of


@click.group("store", cls=Listed)
def store() -> None:
    """The store under a ledger: begin one in it, mend the file of an embedded one."""


@store.command()
@click.option("--anew", is_flag=True, help="Also where one is known that was lost: every device must sign in again.")
@store_options
def begin(anew: bool, data_dir: Path | None, redis_url: str | None) -> None:
    """Begin a ledger in an empty store and print its id.

    In a new data folder with keys of its own this is not needed: serve begins a ledger there. Elsewhere an empty store
    may be one that was lost, and a new ledger would sign every device out. So services begin none by themselves where
    the key comes from LEDGER_TOKEN_KEY, or a ledger was there before.
    """
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)

    async def work() -> str:
        async with store_of(settings) as opened:
            return await begin_on_purpose(opened, settings, anew=anew)

    echo(run(work()))


@store.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only tell what is damaged; exits 1 if anything is.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the embedded server [default: ./var].")
@json_option
def mend(yes: bool, dry_run: bool, data_dir: Path | None, as_json: bool) -> None:
    """Mend the append-only files of an embedded server that does not start: cut them at the last whole command.

    What is cut off stays in files beside them, and it says first what that loses. No service may run on the folder.
    """
    settings = settings_from(data_dir=data_dir)
    check_begun(settings.data_dir)
    with EmbeddedServer(settings.data_dir).alone() as files:
        size = sum(file.stat().st_size for file in files.folder.rglob("*.aof"))
        with progress("reading append-only files", size) as advance:
            damage = find_damage(files.folder, lambda done: advance(done, "bytes"))
        kept: list[Path] = []
        if not as_json:
            _tell(damage)
        if damage and not dry_run:
            if not yes:
                _confirm()
            kept = mend_files(files.folder, damage, stamp(now_us()))
    if as_json:
        print_json({"damage": damage, "kept": [str(path) for path in kept]})
    for path in kept if not as_json else ():
        echo(f"what was cut is in {path}")
    if kept and not as_json:
        echo("mended: start the service, then run syncledger verify")
    if damage and dry_run:
        raise click.exceptions.Exit(1)


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to ask: add --yes")
    click.confirm("Mend them?", abort=True)


def _tell(damage: Damage) -> None:
    if not damage:
        echo("nothing is damaged")
    if damage.no_manifest:
        echo("the list of append-only files is lost: it can be made anew from their names")
    for cut in damage.cuts:
        whole = "is put aside, it belongs behind what is cut" if not cut.at else f"is whole up to byte {cut.at:,}"
        echo(f"{cut.name} {whole}; {counted(cut.bytes, 'byte')} are cut")
    if damage.cuts:
        echo(
            f"in what is cut {counted(damage.commands, 'command')} can be read, {damage.events:,} of them events of "
            f"{counted(damage.sessions, 'session')}"
        )
    for sid in damage.named:
        echo(f"  session {sid}")
    if damage.sessions > len(damage.named):
        echo(f"  … and {damage.sessions - len(damage.named):,} more")
