"""Options that are instants."""

from __future__ import annotations

import click

from ledger.positions import us_from_iso


def instant(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Read an option that is an instant, as µs since 1970."""
    try:
        return None if value is None else us_from_iso(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
