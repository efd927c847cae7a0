"""Opening the store that settings name, and waiting for one that is not there yet."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Final, TypeVar

from ledger.errors import LayoutError, StoreUnavailable
from ledger.figures.of_store import StoreFigures
from ledger.store.addresses import read_url
from ledger.store.error_replies import NotPermitted
from ledger.store.interface import Store, open_store
from ledger.store.permissions import lacking, lacking_text
from ledger.store.shared_connection import Mux
from ledger.store.standalone import StandaloneStore
from ops.embedded.server import embedded_server
from ops.opening.known_nodes import NotedNodes
from ops.settings.settings import Settings
from ops.tracing.wrapping import store_kinds

log = logging.getLogger("syncledger.store")

T = TypeVar("T")

FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 1.0
TOLD_EVERY_S: Final = 15.0


async def connect(url: str, settings: Settings, figures: StoreFigures | None = None) -> Store:
    """Open a store by its URL, the embedded server's or that of the settings; raises LayoutError, StoreUnavailable.

    `figures`: where its links are counted.
    """
    return await open_store(
        url,
        timeout_s=settings.reply_timeout_s,
        known=NotedNodes.of(settings),
        figures=figures,
        kinds=store_kinds(settings),
    )


async def check_permissions(url: str, settings: Settings) -> None:
    """See that the store's user may do all that a ledger needs; raises LayoutError with what is lacking.

    A password that is wrong raises NotPermitted.
    """
    target = read_url(url)
    if target.options.get("username") is None:  # everything, unless somebody went out of their way
        return
    try:
        store = await connect(url, settings)
    except NotPermitted as error:  # one server can be asked without a word about itself
        if target.wants_cluster or "NOPERM" not in str(error):
            raise
        store = StandaloneStore(Mux(target, settings.reply_timeout_s))
    try:
        if rules := await lacking(store, waits=settings.durability == "replica"):
            raise LayoutError(lacking_text(rules, str(target.options["username"])))
    finally:
        await store.close()


@asynccontextmanager
async def store_of(settings: Settings) -> AsyncIterator[Store]:
    """Open the store that settings name, whatever it holds; raises EmbeddedServerError, StoreUnavailable."""
    with ExitStack() as stack:
        store = await connect(settings.redis_url or stack.enter_context(embedded_server(settings.data_dir)), settings)
        try:
            yield store
        finally:
            await store.close()


async def until_there(work: Callable[[], Awaitable[T]], stop: Callable[[], bool] = lambda: False) -> T:
    """Do what needs the store, again and again until it is there, and say what is waited for.

    `stop` tells whether to give up. Raises what else the work does, at once, and NotPermitted; StoreUnavailable when it
    was given up.
    """
    pause_s, began_s, told_s, told = FIRST_PAUSE_S, time.monotonic(), -TOLD_EVERY_S, ""
    while True:
        try:
            found = await work()
        except NotPermitted:
            raise  # a wrong password is not waited for
        except StoreUnavailable as error:
            now_s = time.monotonic()
            if str(error) != told or now_s >= told_s + TOLD_EVERY_S:
                log.warning("waiting for the store since %.0f s: %s", now_s - began_s, error)
                told_s, told = now_s, str(error)
            if await _stopped_within(pause_s, stop):
                raise
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
        else:
            if told:
                log.info("the store is there, after %.1f s", time.monotonic() - began_s)
            return found


async def _stopped_within(pause_s: float, stop: Callable[[], bool]) -> bool:
    """Wait; tell at once if it is to stop."""
    deadline_s = time.monotonic() + pause_s
    while not stop():
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            return False
        await asyncio.sleep(min(left_s, 0.05))
    return True
