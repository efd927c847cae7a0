"""The commands together, and the exit code that each end of one has."""

from __future__ import annotations

import click

from ledger.errors import InvalidInput, LedgerError
from ops.commands import COMMANDS


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="syncledger")
def syncledger() -> None:
    """An event-sourced sync ledger that speaks the Immich mobile protocol."""


for command in COMMANDS:
    syncledger.add_command(command)


def run() -> int | str | None:
    """Run the command that the arguments name and give what to exit with; raises KeyboardInterrupt."""
    try:
        code: int | str | None = syncledger.main(standalone_mode=False)
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except InvalidInput as error:
        for path, message in error.problems:
            click.echo(f"error: {'.'.join(map(str, path))}: {message}", err=True)
        return 2
    except (LedgerError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        return 1
    return code
