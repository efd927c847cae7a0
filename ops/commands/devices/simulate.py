"""`syncledger simulate`: be a device, as the Immich app is one."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ops.commands.tables import counted
from ops.simulate.api import PRESENTATIONS, Presentation
from ops.simulate.check import CheckResult, check
from ops.simulate.device import Device, SyncResult
from ops.simulate.errors import DeviceError
from ops.simulate.tables import REQUESTS, TYPES_V1, TYPES_V2, TYPES_V3

DIFFERS, FAILED, INCOMPLETE, INTERRUPTED = 1, 3, 4, 130
_ELSEWHERE = (
    "note: this session has synced into another copy, so only what is new since then comes into this one; "
    "give that copy with --db, or start over with --fresh"
)
_RATE = re.compile(r"(\d+(?:\.\d+)?)(B|KB|KiB|MB|MiB)(?:/s)?")
_UNIT_BYTES = {"B": 1, "KB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2}


def _rate(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Read a rate like `8KB/s` as bytes per second."""
    match = _RATE.fullmatch(text) if text is not None else None
    if text is not None and (match is None or float(match[1]) <= 0):
        raise click.BadParameter(f"{text!r} is not a rate such as 8KB/s or 1.5MiB/s")
    return float(match[1]) * _UNIT_BYTES[match[2]] if match else None


class Failed(click.ClickException):
    """A sync that failed, as one line on stderr."""

    exit_code = FAILED


@click.command("simulate")
@click.option("--url", required=True, metavar="URL", help="Where the server is, like http://127.0.0.1:2283.")
@click.option("--token", envvar="LEDGER_TOKEN", required=True, help="The session's token.  [env: LEDGER_TOKEN]")
@click.option(
    "--db",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The device's own copy; the same file resumes.  [default: one per token in the data folder's devices]",
)
@click.option("--data-dir", type=click.Path(path_type=Path),
              help="Data folder, in which the copy lies [default: LEDGER_DATA_DIR, or ./var].")  # fmt: skip
@click.option("--protocol", type=click.Choice(["v3", "v2", "v1"]), default="v2", show_default=True,
              help="Ask for the types of a 3.3 server, of a 3.2 one, or of one older than 2.6.")  # fmt: skip
@click.option("--types", metavar="TYPE,…", help="Ask for these request types instead.")
@click.option("--present", type=click.Choice(PRESENTATIONS), default="cookie", show_default=True,
              help="How the token is presented.")  # fmt: skip
@click.option("--read-rate", callback=_rate, metavar="RATE", help="Read the stream no faster than this, like 8KB/s.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=300.0, show_default=True,
              metavar="SECONDS", help="How long to wait for the next bytes.")  # fmt: skip
@click.option("--kill-after-lines", type=click.IntRange(min=1), metavar="N",
              help="Die by SIGKILL once N lines are stored, as a crash would.")  # fmt: skip
@click.option("--fresh", is_flag=True, help="First empty the copy and clear all that the session has acknowledged.")
@click.option("--check", "compare", is_flag=True, help="Afterwards compare the copy with what a new device gets.")
@click.option("--library", metavar="LIBRARY", help="The library to compare with.")
@click.option("--key", envvar="LEDGER_API_KEY", help="The API key for --check, instead of the token.  "
              "[env: LEDGER_API_KEY]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def simulate(
    url: str,
    token: str,
    db: Path | None,
    protocol: str,
    data_dir: Path | None,
    types: str | None,
    present: Presentation,
    read_rate: float | None,
    timeout_s: float,
    kill_after_lines: int | None,
    fresh: bool,
    compare: bool,
    library: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Sync once, as the Immich app does, into a copy of its own.

    It streams, stores each run of lines of one type in a transaction, and acknowledges it before the next. It may be
    interrupted or killed anywhere; run it again with the same file to go on.

    \b
    Exit codes: 0 synced, 1 the copy differs from the library, 3 the sync or
    the comparison failed, 4 the stream ended cleanly but without
    SyncCompleteV1, 130 interrupted.
    """
    if compare and not library:
        raise click.UsageError("--check needs --library, the library that the token's session syncs")
    folder = data_dir or Path(os.environ.get("LEDGER_DATA_DIR") or "var")
    path = db or folder.joinpath("devices", f"{hashlib.sha256(token.encode()).hexdigest()[:16]}.db")
    errors = Console(stderr=True)
    checked: CheckResult | None = None
    unchecked = ""
    try:
        with Device(
            url, token, path, types=_chosen(types, protocol), present=present, timeout_s=timeout_s,
            read_bytes_per_s=read_rate, kill_after_lines=kill_after_lines,
        ) as device:  # fmt: skip
            if fresh:
                device.start_over()
            elif device.lacks_what_was_acked:
                errors.print(_ELSEWHERE, soft_wrap=True)
            with _progress(errors) as bar:
                task = bar.add_task("starting")
                result = device.sync(lambda so_far: bar.update(task, description=_sync_line(so_far)))
                if compare and library:
                    try:
                        checked = check(
                            device.copy, device.server, library, device.types, api_key=key,
                            progress=lambda rows: bar.update(task, description=f"comparing: {counted(rows, 'row')}"),
                        )  # fmt: skip
                    except DeviceError as error:  # what was synced is told all the same
                        unchecked = str(error)
            rows = device.copy.counts()
    except DeviceError as error:
        raise Failed(str(error)) from error
    except sqlite3.Error as error:
        raise Failed(f"{path}: {error}") from error
    except KeyboardInterrupt:
        errors.print(f"interrupted; the same command goes on from here (copy: {path})")
        raise click.exceptions.Exit(INTERRUPTED) from None
    if as_json:
        click.echo(msgspec.json.encode({"db": str(path), "sync": result, "rows": rows, "check": checked}))
    else:
        _show(result, rows, checked, path)
    if not result.complete:
        errors.print("the stream ended without SyncCompleteV1: the app would take this for success")
        raise click.exceptions.Exit(INCOMPLETE)
    if unchecked:
        raise Failed(f"it synced, but the copy could not be compared: {unchecked}")
    if checked is not None and not checked.equal:
        raise click.exceptions.Exit(DIFFERS)


def _chosen(types: str | None, protocol: str) -> tuple[str, ...]:
    if types is None:
        return {"v3": TYPES_V3, "v2": TYPES_V2, "v1": TYPES_V1}[protocol]
    chosen = tuple(name.strip() for name in types.split(",") if name.strip())
    unknown = [name for name in chosen if name not in REQUESTS]
    if unknown:
        raise click.BadParameter(f"no such request type: {', '.join(unknown)}", param_hint="--types")
    return chosen


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar


def _sync_line(result: SyncResult) -> str:
    seconds = max(result.seconds, 0.001)
    latest = next(reversed(result.by_type), "")
    rates = f"{result.lines / seconds:,.0f} lines/s, {result.bytes / seconds / 1e6:,.1f} MB/s"
    return f"syncing: {counted(result.lines, 'line')}, {counted(result.acks, 'ack')}, {rates}  {latest}"


def _show(result: SyncResult, rows: dict[str, int], checked: CheckResult | None, path: Path) -> None:
    console = Console()
    table = Table("entity type", "lines", box=None)
    table.columns[1].justify = "right"
    for entity_type, lines in result.by_type.items():
        table.add_row(entity_type, f"{lines:,}")
    console.print(table)
    reset = "started over (SyncResetV1), " if result.reset else ""
    ahead = f", {counted(result.placeholders, 'placeholder')}" if result.placeholders else ""
    console.print(
        f"{reset}{counted(result.lines, 'line')} in {result.seconds:.2f} s, {counted(result.acks, 'ack')}, "
        f"{counted(result.duplicates, 'duplicate')}{ahead}; {counted(sum(rows.values()), 'row')} in {path}",
        soft_wrap=True,
    )
    if result.unterminated:
        console.print("the last line had no LF and was lost, as in the app")
    if checked is not None and checked.equal:
        console.print(f"the copy is exactly the library: {counted(checked.compared, 'entity', 'entities')} compared")
    elif checked is not None:
        console.print(
            f"the copy differs from the library: {checked.missing:,} missing, {checked.extra:,} extra, "
            f"{checked.different:,} different, {checked.dangling:,} dangling"
        )
        for difference in checked.differences:
            console.print(f"  {difference}", markup=False)
