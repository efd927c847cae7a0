"""`syncledger completion` and `syncledger man`: what a shell and its manual know of the command."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class
from click_man.core import write_man_pages

PROGRAM: Final = "syncledger"
_VARIABLE: Final = "_SYNCLEDGER_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands and options.

    \b
    bash: syncledger completion bash > ~/.local/share/bash-completion/completions/syncledger
    zsh:  syncledger completion zsh > ~/.zfunc/_syncledger, with ~/.zfunc in fpath
    fish: syncledger completion fish > ~/.config/fish/completions/syncledger.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, PROGRAM, _VARIABLE).source())


@click.command()
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("~/.local/share/man/man1"),
    show_default=True,
    help="Folder to write to; made where it is missing.",
)
@click.pass_context
def man(ctx: click.Context, folder: Path) -> None:
    """Write manual pages, one for each command.

    `man syncledger-session-end` finds them in the default folder.
    """
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    names = root.command.list_commands(root)
    loaded = {name: found for name in names if (found := root.command.get_command(root, name)) is not None}
    whole = click.Group(PROGRAM, loaded, params=root.command.params, help=root.command.help)
    write_man_pages(PROGRAM, whole, version=metadata.version(PROGRAM), target_dir=str(folder))
    click.echo(f"{len(list(folder.glob(f'{PROGRAM}*.1')))} manual pages are in {folder}")
