"""`syncledger demo`: a library to try things on, and a device signed in to it."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import click
from click import echo
from msgspec import structs

from ledger.errors import SessionEnded
from ops.commands.access.console import make_link
from ops.commands.devices.creating import sign_in
from ops.commands.options import progress, run, settings_from
from ops.commands.serve import serve_options
from ops.demo_library import DEFAULT_ASSETS, DemoLibrary
from ops.opening.identity_provider import check_identity
from ops.opening.ledger import Opened, opened
from ops.server.listening import check_free
from ops.server.supervisor import serve
from ops.settings.settings import Settings
from ops.tracing.sending import check_installed
from projections.accounts.tokens import read_token
from projections.entities.catalog.ingest import ingest

USER = "demo"
LIBRARY = "demo"
TOKEN_FILE = "demo-token"  # noqa: S105 - a file's name
_BATCH = 500


@click.command()
@click.option(
    "--assets", default=DEFAULT_ASSETS, type=click.IntRange(1, 1_000_000), show_default=True, help="Photos to make."
)
@serve_options
def demo(
    assets: int,
    host: str | None,
    port: int | None,
    workers: int | None,
    data_dir: Path | None,
    redis_url: str | None,
) -> None:
    """Load a demo library (the first time), sign a device in, tell how to sync it, and serve.

    The library is in the embedded catalog, whatever LEDGER_SOURCE says.
    """
    given = {"host": host, "port": port, "workers": workers, "data_dir": data_dir, "redis_url": redis_url}
    settings = settings_from(**given)
    settings = structs.replace(settings, source="catalog")
    check_free(settings)
    check_installed(settings)
    check_identity(settings)

    async def prepare() -> tuple[str, str]:
        async with opened(settings, begin=True) as found:
            await _load_library(found, assets)
            return await _token(found, settings), await make_link(found, "", USER)

    token, link = run(prepare())
    given["source"] = settings.source
    on_ready = partial(_tell, token=token, link=link, settings=settings)
    raise click.exceptions.Exit(serve(settings, on_ready=on_ready, overrides=given))


async def _load_library(found: Opened, assets: int) -> None:
    """Load the demo library unless it is there."""
    if sum((await found.catalog.count(LIBRARY)).values()):
        return
    with progress("loading the demo library") as advance:

        async def chunks() -> AsyncIterator[bytes]:
            lines: list[bytes] = []
            for done, line in enumerate(DemoLibrary(user=USER, name="Demo", assets=assets).lines()):
                lines.append(line)
                if len(lines) == _BATCH:
                    yield b"".join(lines)
                    lines.clear()
                    advance(done, "entities")
            yield b"".join(lines)

        report = await ingest(found.catalog, LIBRARY, chunks())
    if report.refused or report.waiting:
        raise click.ClickException(f"the demo library does not fit: {report.refusals[:3] or report.waits[:3]}")


async def _token(found: Opened, settings: Settings) -> str:
    """Return the demo device's token: the one kept beside the data while its session lives, else a new one."""
    file = settings.data_dir / TOKEN_FILE
    if file.exists():
        kept = file.read_text().strip()
        caller = read_token(kept)
        try:
            if caller is not None:
                await found.ledger.admit(caller)
                return kept
        except SessionEnded:
            pass
    issued = await sign_in(found, settings, USER, LIBRARY, user_agent="immich-android/3.2.0")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(issued.token + "\n")
    return issued.token


def _tell(urls: Sequence[str], *, token: str, link: str, settings: Settings) -> None:
    """Print how to sync the demo library, and the link to the console."""
    url = urls[0]
    folder = shlex.quote(str(settings.data_dir))
    echo(
        f"""
The sync ledger serves the demo library at {url}; its data is in {settings.data_dir}.

Open the console. This link signs in once, within five minutes; the command below it makes another one:

  {url}{link}
  .venv/bin/syncledger console link --url {url} --data-dir {folder}

A demo device is signed in. To sync as it, in a second terminal:

  TOKEN={token}
  api() {{ curl -sN "{url}/api/$1" -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' "${{@:2}}"; }}
  api sync/stream -d '{{"types": ["AssetsV2", "AlbumsV2"]}}' | tee stream.jsonl | tail -n 2
  api sync/ack -d "{{\\"acks\\": [$(grep '"AssetV2"' stream.jsonl | tail -n 1 | grep -o '"AssetV2|[^"]*"')]}}"

Or let a simulated device sync everything as the app does, and look at it in the console then:

  LEDGER_TOKEN=$TOKEN .venv/bin/syncledger simulate --url {url} --library {LIBRARY} --check --fresh --data-dir {folder}

The API is described at {url}/docs.      Stop with Ctrl-C.
"""
    )
