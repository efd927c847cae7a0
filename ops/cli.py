"""The `syncledger` command."""

from __future__ import annotations

import sys

import click

from ledger.errors import InvalidInput, LedgerError
from ops.commands import COMMANDS

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="syncledger")
def syncledger() -> None:
    """An event-sourced sync ledger that speaks the Immich mobile protocol."""


for command in COMMANDS:
    syncledger.add_command(command)


def main() -> None:
    """Run the command: 0 done, 1 something differs or failed, 2 wrong usage, 130 interrupted. Never a traceback."""
    try:
        code = syncledger.main(standalone_mode=False)
    except click.Abort:
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except InvalidInput as error:
        for path, message in error.problems:
            click.echo(f"error: {'.'.join(map(str, path))}: {message}", err=True)
        code = 2
    except (LedgerError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        code = 1
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    sys.exit(code)
