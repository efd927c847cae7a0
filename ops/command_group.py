"""The commands together, and the exit code that each end of one has."""

from __future__ import annotations

import gc
import os
from importlib import import_module
from typing import Any, Final

import click

from ledger.errors import InvalidInput, LedgerError
from ops.commands import COMMANDS

_LOG_IT: Final = ("serve", "demo")
"""What serves says in its log which settings are none."""


_SECTIONS: Final = {
    "": "Serving, and what is served",
    "devices": "Devices",
    "storage": "The store, its archive and its log",
    "access": "Who may do what, and what is proved",
}
"""Headings of the help, by the folder of `ops/commands` that a command is in."""


class LoadInterrupted(BaseException):
    """A Ctrl-C came while a command was loaded; Click would begin a line of its own for one."""


class OutputUnread(BaseException):
    """Nobody reads the output any more; Click would end the program for one, as if something had failed."""


class Program(click.Group):
    """The commands by name; only one that is wanted is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of this name. Raises LoadInterrupted."""
        named = COMMANDS.get(cmd_name)
        if named is None:
            return None
        module, _, attribute = named.where.partition(":")
        gc.disable()  # PERF: what is imported stays, and would be looked through a dozen times while it grows
        try:
            command: Any = getattr(import_module(f"ops.commands.{module}"), attribute)
        except KeyboardInterrupt:
            raise LoadInterrupted from None
        finally:
            gc.enable()
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant, and say first which settings are none."""
        found = super().resolve_command(ctx, args)
        # PERF: without any setting nothing is imported
        if found[0] not in _LOG_IT and any(name.startswith("LEDGER_") for name in os.environ):
            from ops.settings.variables import told_unknown

            for told in told_unknown(os.environ):
                click.echo(f"warning: {told}", err=True)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; raises OutputUnread."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise OutputUnread from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their first sentences, by the folders that they are in, and import none."""
        widest = max(map(len, COMMANDS))
        for room, title in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (name.ljust(widest), named.help.rstrip("."))
                        for name, named in sorted(COMMANDS.items())
                        if named.where.rpartition(".")[0] == room
                    ]
                )


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="syncledger")
def syncledger() -> None:
    """An event-sourced sync ledger that speaks the Immich mobile protocol.

    To try it: syncledger demo. Why is a phone stuck? syncledger session find, then syncledger explain. Each command has
    --help; exit codes are 0 done, 1 something failed or differs, 2 wrong usage, 130 interrupted.
    """


def run() -> int | str | None:
    """Run the command that the arguments name and give what to exit with; raises KeyboardInterrupt, BrokenPipeError."""
    try:
        code: int | str | None = syncledger.main(standalone_mode=False)
    except (click.Abort, LoadInterrupted):
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"see: {error.ctx.command_path} --help", err=True)
        return error.exit_code
    except InvalidInput as error:
        for line in error.lines:
            click.echo(f"error: {line}", err=True)
        return error.exit_code
    except LedgerError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except OutputUnread:
        raise BrokenPipeError from None
    except OSError as error:
        click.echo(f"error: {error}", err=True)
        return 1
    return code
