"""The `syncledger` command in processes of its own, to be killed at any point."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from ops.cli import main
from ops.command_group import syncledger
from ops.commands import COMMANDS
from tests.support.processes.forks import Forks, serve
from tests.support.processes.fuse import Fuse


class CommandForks(Forks):
    """Starts commands, one at a time, in an environment."""

    def __init__(self, environ: dict[str, str]) -> None:
        super().__init__("tests.support.processes.command_forks", environ)

    def start(self, *args: str, fuse: Fuse | None = None, **environ: str) -> int:
        """Start a command; gives its process id. `environ`: LEDGER_ settings in lower case, without that."""
        return self.start_work([args, {f"LEDGER_{name.upper()}": value for name, value in environ.items()}, None], fuse)

    def start_into(self, out: Path, *args: str) -> int:
        """Start a command that writes its output to the end of a file; gives its process id."""
        return self.start_work([args, {}, str(out)])


def _run(job: Any) -> int:
    args, environ, out = job
    os.environ.update(environ)
    if out is not None:
        os.dup2(os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), 1)
    sys.argv = ["syncledger", *args]
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


if __name__ == "__main__":
    for name in COMMANDS:  # loaded here, once, and not in each process
        syncledger.get_command(click.Context(syncledger), name)
    serve(_run)
