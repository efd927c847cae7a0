"""`completion` and `man`: a shell offers what there is, and every command has a page that its manual can print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click

from ops.command_group import syncledger
from ops.commands import COMMANDS
from tests.support.processes.running import COMMAND


def leaves(command: click.Command, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """List a command and all below it, each by its words."""
    found = [path]
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            found += leaves(inner, (*path, name))
    return found


def test_the_help_names_every_command_once() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=60, check=True)
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", done.stdout.partition("Options:")[2], re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_every_command_has_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "man1"
    done = subprocess.run([*COMMAND, "man", "--to", folder], capture_output=True, text=True, timeout=60, check=True)
    wanted = {"-".join(path) + ".1" for path in leaves(syncledger, ("syncledger",))}
    assert {path.name for path in folder.iterdir()} == wanted
    assert str(len(wanted)) in done.stdout
    page = (folder / "syncledger-session-end.1").read_text()
    assert "End a session and those that belong to it" in page
    assert "syncledger session end" in page


def test_a_shell_completes_commands_and_their_options() -> None:
    script = subprocess.run([*COMMAND, "completion", "bash"], capture_output=True, text=True, timeout=60, check=True)
    assert "_SYNCLEDGER_COMPLETE=bash_complete" in script.stdout
    for words, offered in (("syncledger sess", "plain,session"), ("syncledger serve --po", "plain,--port")):
        environ = {
            "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_SYNCLEDGER_COMPLETE": "bash_complete",
            "PYTHONPATH": ":".join(path for path in sys.path if path),
        }  # fmt: skip
        code = [sys.executable, "-c", "import sys; sys.argv[0] = 'syncledger'; from ops.cli import main; main()"]
        done = subprocess.run(code, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.split() == [offered]
