"""`syncledger immich`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
from click import echo

from ops.commands.options import json_option, print_json, progress, run, settings_from, store_options
from ops.commands.source import report_of
from ops.commands.tables import plain
from ops.settings import parsers
from ops.settings.durations import parse_duration

_LONGEST_S = 900.0


@click.group()
def immich() -> None:
    """Look at an installation beside Immich."""


@immich.command()
@click.option("--url", required=True, metavar="URL", help="Where users reach it, like https://photos.example.org.")
@click.option("--pause", default="0s", show_default=True, metavar="DURATION",
              help="Also see whether a stream may pause for so long, at most 15m; usual time-outs: 60s.")  # fmt: skip
@store_options
@json_option
def check(url: str, pause: str, data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """Check a real installation through its public address: settings, database, proxy, streams, web socket.

    Run it where the ledger runs, with the ledger's settings; for the time of the check it makes itself an API key of
    scope proxy.check. Elsewhere give one in LEDGER_API_KEY (or LEDGER_API_KEY_FILE). It signs nobody in and changes
    nothing. What must be mended is printed with the SQL or the proxy's lines that do it.

    \b
    Exit codes: 0 nothing must be mended, 1 something must, 2 wrong usage, 130 interrupted.
    """
    from ops.beside.installation import BY_ADDRESS, BY_PROBE, check_installation  # PERF: httpx takes 0.1 s to import

    try:
        address = parsers.origin(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--url") from None
    try:
        pause_s = parse_duration(pause)
        if pause_s > _LONGEST_S:
            raise ValueError(f"{pause!r} is longer than 15m")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--pause") from None
    with progress("checking", len(BY_ADDRESS) + len(BY_PROBE) + 3) as advance:
        found = run(
            check_installation(
                address,
                lambda: settings_from(data_dir=data_dir, redis_url=redis_url),
                os.environ,
                report_of,
                pause_s=pause_s,
                advance=advance,
            )
        )
    if as_json:
        print_json({"ok": found.ok, "url": found.url, "checks": found.checks})
    else:
        for line in _told(found):
            echo(line)
    if not found.ok:
        raise click.exceptions.Exit(1)


def _told(found: object) -> Iterator[str]:
    """Write what was found as lines."""
    from ops.beside.checked import STATUSES, Found

    assert isinstance(found, Found)
    for check in found.checks:
        yield f"{check.status:<5} {check.name}: {plain(check.says)}"
        for line in check.mend:
            yield f"          {line}"
    counts = {status: sum(check.status == status for check in found.checks) for status in STATUSES}
    yield ""
    yield f"{counts['ok']} ok, {counts['warn']} warn, {counts['FAIL']} FAIL, {counts['skip']} not checked"
