"""The service as the HTTP tests talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ledger.store.interface import open_store
from tests.support.phones.http import Service, serving


@pytest.fixture
async def service(valkey_url: str) -> AsyncIterator[Service]:
    """The whole application on an empty Valkey 9, asked without a network."""
    store = await open_store(valkey_url)
    async with serving(store) as service:
        yield service
    await store.close()
