"""Requests made of /openapi.json, fitting and unfitting: what is answered is what is described."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import schemathesis
import schemathesis.checks
import uvicorn
from hypothesis import HealthCheck, settings

from endpoints import openapi
from endpoints.routes import routes
from ledger.log.store import open_store
from projections.api_keys import SCOPES
from tests.fake_store import FakeStore
from tests.http import Service
from tests.servers import free_port, wait_until

T = TypeVar("T")

# An ack, a time or an id that fits its schema may still be refused: JSON Schema does not tell all of it.
# Who is admitted is tested by itself.
UNCHECKED = [schemathesis.checks.positive_data_acceptance, schemathesis.checks.ignored_auth]

schema = schemathesis.openapi.from_dict(openapi.document(routes(Service(FakeStore()).services)))
schema.config.generation.update(with_security_parameters=False)


@schemathesis.serializer("application/x-ndjson")
def lines(ctx: schemathesis.SerializationContext, value: Any) -> bytes:
    """Send anything, as a line."""
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"


class Server:
    """The service under uvicorn in a thread of its own."""

    def __init__(self, store_url: str) -> None:
        self._store_url = store_url
        self._loop = asyncio.new_event_loop()
        self.port = free_port()
        self.service: Service

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the service runs."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def __enter__(self) -> Server:
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.service = self.run(self._open())
        config = uvicorn.Config(self.service.app, port=self.port, log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self._serving = asyncio.run_coroutine_threadsafe(self._server.serve(), self._loop)
        wait_until(lambda: self._server.started, "uvicorn")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._serving.result(30)
        self.run(self.service.store.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _open(self) -> Service:
        return Service(await open_store(self._store_url))


@pytest.fixture
def server(valkey_url: str) -> Iterator[Server]:
    with Server(valkey_url) as server:
        yield server


@schema.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_answered_is_what_is_described(case: schemathesis.Case[Any], server: Server) -> None:
    if case.path.startswith("/ledger/"):
        text, _ = server.run(server.service.api_keys.create(SCOPES, name="", now_us=1))
        headers = {"x-api-key": text}
    else:
        headers = {"authorization": f"Bearer {server.run(server.service.sign_in()).token}"}
    case.call_and_validate(base_url=f"http://127.0.0.1:{server.port}", headers=headers, excluded_checks=UNCHECKED)
