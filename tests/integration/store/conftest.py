"""The store's connections are tested on both event loops: the service runs on uvloop, tools on asyncio's own.

`make test` runs them on uvloop alone (the contracts of stores run on asyncio's), `make soak` on both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from ledger.store.interface import open_store
from ledger.store.standalone import StandaloneStore
from tests.integration.store.proxy import Proxy
from tests.support.stores.servers import RedisServer


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def proxy(valkey_server: RedisServer) -> AsyncIterator[Proxy]:
    """A proxy in front of the test's own Valkey."""
    async with Proxy(valkey_server.port) as proxy:
        yield proxy


@pytest.fixture
async def open_standalone() -> AsyncIterator[Callable[..., object]]:
    """`await open_standalone(url, timeout_s=…)`: a store of one server, closed after the test."""
    stores: list[StandaloneStore] = []

    async def open_one(url: str, timeout_s: float = 5.0) -> StandaloneStore:
        store = await open_store(url, timeout_s=timeout_s)
        assert isinstance(store, StandaloneStore)
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        await store.close()
