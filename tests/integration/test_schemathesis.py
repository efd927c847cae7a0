"""Requests made of /openapi.json, fitting and unfitting: what is answered is what is described."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
import schemathesis.checks
from hypothesis import HealthCheck, settings

from endpoints.openapi.document import document
from endpoints.routes import routes
from projections.accounts.api_keys import SCOPES
from tests.support.phones.http import Live, Service
from tests.support.sign_in.provider import MemoryProvider
from tests.support.stores.fake_store import FakeStore
from tests.support.stores.servers import RedisServer

# An ack, a time or an id that fits its schema may still be refused: JSON Schema does not tell all of it.
# Who is admitted is tested by itself.
UNCHECKED = [schemathesis.checks.positive_data_acceptance, schemathesis.checks.ignored_auth]

schema = schemathesis.openapi.from_dict(document(routes(Service(FakeStore()).services)))
schema.config.generation.update(with_security_parameters=False)
AT_LENGTH = settings.get_current_profile_name() == "soak"
# Some twenty requests for each operation, for every limit of every field, that are made when tests are collected.
schema.config.phases.coverage.enabled = AT_LENGTH


@schemathesis.serializer("application/x-ndjson")
def lines(ctx: schemathesis.SerializationContext, value: Any) -> bytes:
    """Send anything, as a line."""
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"


@pytest.fixture(scope="module")
def server(shared_valkey: RedisServer) -> Iterator[Live]:
    shared_valkey.flush()
    with Live(shared_valkey.url, provider=MemoryProvider()) as server:
        yield server


@schema.parametrize()
@settings(max_examples=50 if AT_LENGTH else 4, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_answered_is_what_is_described(case: schemathesis.Case[Any], server: Live) -> None:
    if case.path.startswith("/ledger/"):
        text, _ = server.run(server.service.api_keys.create(SCOPES, name="", now_us=1))
        headers = {"x-api-key": text}
    else:
        headers = {"authorization": f"Bearer {server.run(server.service.sign_in()).token}"}
    base_url, unchecked = f"http://127.0.0.1:{server.port}", list(UNCHECKED)
    if case.path.endswith("/sync/stream"):  # taken for one JSON text, which lines of several are not
        unchecked.append(schemathesis.checks.response_schema_conformance)
    if case.path.endswith("/feed") and isinstance(case.query, dict):  # which goes on for ever then
        case.query.pop("follow", None)
    answer = case.call_and_validate(base_url=base_url, headers=headers, excluded_checks=unchecked)
    if answer.status_code == 200 and case.path.endswith("/sync/stream"):
        assert {"type", "data", "ack"} <= json.loads(answer.content.splitlines()[-1]).keys()
