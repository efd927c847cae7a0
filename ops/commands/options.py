"""What commands share: options of the store, running on the event loop, progress, and output."""

from __future__ import annotations

import getpass
import os
import stat
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import uvloop

from ledger.errors import InvalidInput
from ops.settings.places import place_from
from ops.settings.settings import Settings, read_settings
from projections.archive.objects import Objects
from projections.finding.prefixes import FEWEST_CHARS, PREFIX

T = TypeVar("T")
Command = Callable[..., Any]


class Listed(click.Group):
    """A group whose help has the first sentence of each command, whole."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands."""
        told = [(name, first_sentence(command.help or "")) for name, command in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(told)


def first_sentence(text: str) -> str:
    """Give the first sentence of a help."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".")


def store_options(command: Command) -> Command:
    """Add the options that say where the ledger is."""
    data_dir = click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="Where the embedded store and the keys are [default: LEDGER_DATA_DIR, or ./var].",
    )
    redis = click.option(
        "--redis",
        "redis_url",
        metavar="URL",
        help="A store of your own instead: redis://, rediss://, unix://, redis+cluster://HOST,HOST or "
        "redis+sentinel://HOST,HOST/NAME [default: LEDGER_REDIS].",
    )
    return data_dir(redis(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _login() -> str:
    """Tell whose account runs the command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name
        return f"uid {os.getuid()}"


by_option = click.option("--by", default=_login, show_default="your login", help="Who decides it, to be kept.")


def session_id(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Read an argument that is a session id, or the start of one."""
    if value is not None and not PREFIX.fullmatch(value):
        raise click.BadParameter(
            f"{value[:80]!r} is no session id, nor the start of one: they are 64 hexadecimal digits, of which "
            f"{FEWEST_CHARS} or more will do. syncledger session find looks for a phone by its user"
        )
    return value


def settings_from(**overrides: object) -> Settings:
    """Read the environment, overridden by what was given on the command line."""
    return read_settings(os.environ, **overrides)


def objects_at(option: str, url: str, endpoint: str | None = None, *, make: bool) -> Objects:
    """Open the object storage that an option's URL names, to write to it (`make`) or only to read.

    How to reach it is said as for LEDGER_ARCHIVE. Raises InvalidInput that names the option.
    """
    given = {"LEDGER_ARCHIVE": url, **({"LEDGER_ARCHIVE_ENDPOINT": endpoint} if endpoint else {})}
    place = place_from({**os.environ, **given})
    if place is None:
        raise click.UsageError("an empty URL: give one like file:///srv/ledger or s3://bucket/prefix")
    try:
        return place.open(make=make)
    except InvalidInput as error:
        raise InvalidInput([((option,), what) for _, what in error.problems]) from None


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work on the event loop."""
    return uvloop.run(work)


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    click.echo(msgspec.json.encode(value))


def _is_quiet() -> bool:
    """Tell whether no program behind a pipe may write to the terminal meanwhile."""
    try:
        return not stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):  # closed, or none of the system's
        return True


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int, str], None]]:
    """Show progress on a terminal's stderr; gives `advance_to(done, note)`. Elsewhere shows nothing.

    Nor where stdout is a pipe: the program behind it may write to the same terminal, as pagers and `head` do.
    """
    if sys.stderr is None or not sys.stderr.isatty() or not _is_quiet():
        yield lambda done, note: None
        return
    # PERF: a tenth of a second, which a script's commands need not wait for
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda done, note: bar.update(task, completed=done, note=note)
