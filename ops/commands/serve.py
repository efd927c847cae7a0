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


def serve_options(command: Command) -> Command:
    """Add the options that say where a service listens and with what."""
    host = click.option("--host", help="Address to listen on, or several with commas [default: 127.0.0.1].")
    port = click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on [default: 2283].")
    workers = click.option("--workers", type=click.IntRange(1, 256), help="Worker processes [default: 1].")
    return host(port(workers(store_options(command))))


@click.command()
@serve_options
def serve(
    host: str | None, port: int | None, workers: int | None, data_dir: Path | None, redis_url: str | None
) -> None:
    """Serve until stopped; SIGTERM ends it within LEDGER_GRACE."""
    settings = settings_from(host=host, port=port, workers=workers, data_dir=data_dir, redis_url=redis_url)
    check_free(settings)
    check_identity(settings)
    configure_logging(settings.log)
    run(check_source(settings))
    raise click.exceptions.Exit(serve_until_stopped(settings))
