"""`syncledger serve`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ledger.errors import InvalidInput, LedgerError
from ops.commands.options import Command, run, settings_from, store_options
from ops.opening.identity_provider import check_identity
from ops.opening.sources import check_source
from ops.server.listening import check_free
from ops.server.logs import configure_logging
from ops.server.supervisor import serve as serve_until_stopped
from ops.server.systemd import is_activated
from ops.settings.variables import VARIABLES, from_environment
from ops.tracing.sending import check_installed


def serve_options(command: Command) -> Command:
    """Add the options that say where a service listens and with what."""
    host = click.option("--host", help="Address to listen on, or several with commas [default: 127.0.0.1].")
    port = click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on [default: 2283].")
    workers = click.option("--workers", type=click.IntRange(1, 256), help="Worker processes [default: 1].")
    return host(port(workers(store_options(command))))


@click.command()
@serve_options
@click.option("--replace", is_flag=True, help="Take over from the service that runs on the data folder, if one does.")
def serve(
    host: str | None, port: int | None, workers: int | None, data_dir: Path | None, redis_url: str | None, replace: bool
) -> None:
    """Serve until stopped; SIGTERM ends it within LEDGER_GRACE.

    SIGHUP replaces the running workers with new ones, which have the code and the settings as they are by then;
    --replace does so for the whole service. Either way no request fails, open streams go on for LEDGER_DRAIN, and if
    the new ones do not start, the old ones serve on. A service that was started at a terminal ends with it.
    """
    given = {"host": host, "port": port, "workers": workers, "data_dir": data_dir, "redis_url": redis_url}
    with _errors_in_form():
        settings = settings_from(**given)
        if not (replace or is_activated()):
            check_free(settings)
        check_installed(settings)
        check_identity(settings)
        configure_logging(settings.log, settings.log_format)
        run(check_source(settings))
    if settings.log_format == "json":  # nobody reads it at a terminal, and its lines are all JSON
        raise click.exceptions.Exit(
            serve_until_stopped(settings, on_ready=lambda _: None, overrides=given, replace=replace)
        )
    raise click.exceptions.Exit(serve_until_stopped(settings, overrides=given, replace=replace))


@contextmanager
def _errors_in_form() -> Iterator[None]:
    """Have what keeps the service from starting told as its log is, where that is JSON."""
    try:
        yield
    except (LedgerError, click.ClickException, OSError) as error:
        form = from_environment(VARIABLES["log_format"], os.environ) or ""
        if form.strip().lower() != "json":
            raise
        configure_logging("error", "json")
        for line in error.lines if isinstance(error, InvalidInput) else [str(error)]:
            logging.getLogger("syncledger.serve").critical("%s", line)
        raise click.exceptions.Exit(getattr(error, "exit_code", 1)) from None
