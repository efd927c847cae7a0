"""What commands share: options of the store, running on the event loop, progress, and output."""

from __future__ import annotations

import getpass
import os
import re
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import uvloop

from ledger.errors import InvalidInput
from ops.archive.options import place_from
from ops.settings.settings import Settings, read_settings
from projections.archive.objects import Objects

T = TypeVar("T")
Command = Callable[..., Any]


def store_options(command: Command) -> Command:
    """Add the options that say where the ledger is."""
    data_dir = click.option(
        "--data-dir", type=click.Path(path_type=Path), help="Folder of the embedded server [default: ./var]."
    )
    redis = click.option(
        "--redis",
        "redis_url",
        help="Use this store instead: redis://, rediss://, unix://, redis+cluster://HOST,HOST or "
        "redis+sentinel://HOST,HOST/NAME.",
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
    """Read an argument that is a session id."""
    if value is not None and not re.fullmatch("[0-9a-f]{64}", value):
        raise click.BadParameter("a session id is 64 hex digits")
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


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int, str], None]]:
    """Show progress on a terminal's stderr; gives `advance_to(done, note)`. Elsewhere shows nothing."""
    if sys.stderr is None or not sys.stderr.isatty():
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
