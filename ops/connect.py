"""Opening what settings name: the store, and on it the ledger, the catalog and the API keys."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from joserfc.jwk import OKPKey

from ledger.errors import InvalidInput, LayoutError
from ledger.log.layout import StorePromise, open_layout, read_promise
from ledger.log.store import Store, open_store
from ledger.service import Ledger
from ledger.tokens import make_key, read_key
from ops.embedded import embedded_server
from ops.settings import Settings
from projections.api_keys import ApiKeys
from projections.entities.catalog import Catalog

TOKEN_KEY_FILE = "token-key.json"  # noqa: S105 - a file's name


class Opened(msgspec.Struct, frozen=True):
    """A ledger with all that lies beside it, on one store."""

    store: Store
    ledger: Ledger
    catalog: Catalog
    api_keys: ApiKeys
    promise: StorePromise


def now_us() -> int:
    """Tell the time in µs since 1970 UTC."""
    return time.time_ns() // 1000


async def open_all(url: str, settings: Settings) -> Opened:
    """Open the ledger at a store's URL; raises LayoutError, StoreUnavailable."""
    store = await open_store(url, timeout_s=settings.redis_timeout_s)
    try:
        partitions = await open_layout(store, settings.partitions, now_us())
        promise = await read_promise(store)
        if settings.durability == "fsync" and promise.fsync != "always":
            raise LayoutError(
                f"LEDGER_DURABILITY=fsync needs appendonly yes and appendfsync always; the server has {promise.fsync}"
            )
    except BaseException:
        await store.close()
        raise
    return Opened(store, Ledger(store, partitions, now_us), Catalog(store), ApiKeys(store), promise)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Opened]:
    """Open the ledger that settings name, for one command: the embedded server is joined, or started and stopped."""
    if settings.redis_url is not None:
        found = await open_all(settings.redis_url, settings)
        try:
            yield found
        finally:
            await found.store.close()
        return
    with embedded_server(settings.data_dir) as url:
        found = await open_all(url, settings)
        try:
            yield found
        finally:
            await found.store.close()


def token_key(settings: Settings) -> OKPKey:
    """Read the key that signs tokens, from the settings or the data folder, where it is made on first use."""
    text = settings.token_key
    if text is None:
        text = _kept_key(settings.data_dir / TOKEN_KEY_FILE)
    try:
        return read_key(text)
    except ValueError as error:
        raise InvalidInput([(("LEDGER_TOKEN_KEY",), str(error))]) from None


def _kept_key(file: Path) -> str:
    """Read the key file, made whole and only once however many start together; readable by its owner only."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not file.exists():
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(make_key())
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(draft, file)
        draft.unlink()
    return file.read_text()
