"""The stores that every contract holds for: three kinds of servers, and fakeredis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ledger.log.whole import mark_new
from ledger.store.interface import Store, open_store
from tests.support.stores.fake_store import FakeStore

PARTITIONS = 16
"""No test here has more."""


@pytest.fixture(params=["valkey", "redis7", "cluster", "fake"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """A store without events of each kind in turn: sessions may begin in it."""
    if request.param == "fake":
        store: Store = FakeStore()
    else:
        store = await open_store(request.getfixturevalue(f"{request.param}_url"))
        await mark_new(store, PARTITIONS)
    yield store
    await store.close()


@pytest.fixture(params=["valkey", "redis7", "cluster"])
async def real_store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """A store without events on each kind of server in turn."""
    store = await open_store(request.getfixturevalue(f"{request.param}_url"))
    await mark_new(store, PARTITIONS)
    yield store
    await store.close()


@pytest.fixture
async def valkey_store(valkey_url: str) -> AsyncIterator[Store]:
    """A store without events on Valkey 9, where one kind is enough."""
    store = await open_store(valkey_url)
    await mark_new(store, PARTITIONS)
    yield store
    await store.close()
