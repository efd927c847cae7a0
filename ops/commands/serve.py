"""`syncledger serve`."""

from __future__ import annotations

from pathlib import Path

import click

from ops.commands.options import Command, run, settings_from, store_options
from ops.opening.identity_provider import check_identity
from ops.opening.sources import check_source
from ops.server.listening import check_free
from ops.server.logs import configure_logging
from ops.server.supervisor import serve as serve_until_stopped
from ops.server.systemd import is_activated


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

    SIGHUP has workers with the code and the settings as they are by then take the place of those that run; so does
    --replace, for all of a service. Either way no request fails, open streams go on for LEDGER_DRAIN, and where the new
    one does not start, the old one serves on. The end of the terminal ends a service that was started at it.
    """
    given = {"host": host, "port": port, "workers": workers, "data_dir": data_dir, "redis_url": redis_url}
    settings = settings_from(**given)
    if not (replace or is_activated()):
        check_free(settings)
    check_identity(settings)
    configure_logging(settings.log)
    run(check_source(settings))
    raise click.exceptions.Exit(serve_until_stopped(settings, overrides=given, replace=replace))
