"""/openapi.json: valid, complete, and true to the routes."""

from __future__ import annotations

import json
import re
from typing import Any

import falcon.inspect
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from endpoints.http.routing import Router
from endpoints.openapi.document import document
from endpoints.routes import build, routes
from projections.entities.payloads.meanings import MEANINGS
from projections.entities.registry import ROWS
from tests.support.phones.http import Service, serving
from tests.support.sources.samples import SAMPLES, sample
from tests.support.stores.fake_store import FakeStore

falcon.inspect.register_router(Router)(falcon.inspect.inspect_compiled_router)


@pytest.fixture
def service() -> Service:
    return Service(FakeStore())


@pytest.fixture
def described(service: Service) -> dict[str, Any]:
    return document(routes(service.services))


def test_the_document_is_valid(described: dict[str, Any]) -> None:
    validate(described, cls=OpenAPIV31SpecValidator)


def test_every_operation_that_answers_is_described_and_no_other(service: Service, described: dict[str, Any]) -> None:
    for_people = {route.path for route in routes(service.services) if route.for_people}
    assert all(path == "/console" or path.startswith("/console/") for path in for_people)
    answered = {
        (method.method, route.path.replace(":path}", "}"))
        for route in falcon.inspect.inspect_app(build(service.services)).routes
        for method in route.methods
        if not method.internal and method.method not in {"HEAD", "OPTIONS"} and route.path not in for_people
    }
    assert answered == {(method.upper(), path) for path, way in described["paths"].items() for method in way}


def test_operation_ids_are_unique(described: dict[str, Any]) -> None:
    ids = [operation["operationId"] for way in described["paths"].values() for operation in way.values()]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    for kind, name in re.findall(r"'#/components/(\w+)/([^']+)'", str(described)):
        assert name in described["components"][kind]


async def test_it_is_served_with_a_page_that_needs_nothing_from_elsewhere() -> None:
    async with serving(FakeStore()) as service:
        answer = await service.ask("GET", "/openapi.json")
        assert answer.status_code == 200
        assert answer.json["openapi"] == "3.1.0"
        assert "/docs" in answer.json["paths"]
        page = await service.ask("GET", "/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert not re.search(r"https?://|//cdn|@import", page.text)
        assert "default-src 'none'" in page.headers["content-security-policy"]


def test_every_line_that_is_sent_has_a_schema(described: dict[str, Any]) -> None:
    components = described["components"]["schemas"]
    line_schema = jsonschema.Draft202012Validator({"$ref": "#/components/schemas/SyncLine"} | described)
    for row in ROWS:
        data = sample(row.name) if row.name in SAMPLES else {}
        line = {"type": row.name, "data": data, "ack": f"{row.name}|2025-01-20T10:30:45.123456Z|x"}
        assert list(line_schema.iter_errors(line)) == [], row.name
        for field in data:
            assert components[row.payload.__name__]["properties"][field]["description"], field
        if data:
            missing = line | {"data": dict(list(data.items())[1:])}
            assert not line_schema.is_valid(missing), row.name


def test_no_meaning_is_left_over() -> None:
    fields = {(row.payload.__name__, name) for row in ROWS for name in row.payload.__struct_encode_fields__}
    known = {f"{kind}.{name}" for kind, name in fields} | {name for _, name in fields}
    assert set(MEANINGS) <= known


def test_sessions_are_named_by_the_start_of_their_ids_where_that_is_taken(described: dict[str, Any]) -> None:
    """Reading routes take `5e88` as commands do; what ends or changes a session takes the whole id alone."""
    takes_start = {
        path
        for path, operations in described["paths"].items()
        for operation in operations.values()
        for parameter in operation["parameters"]
        if parameter["in"] == "path" and "session" in path and re.fullmatch(parameter["schema"]["pattern"], "5e88")
    }
    reading = ("events", "explain", "health", "plot", "proof", "state", "streams")
    assert takes_start == {f"/ledger/sessions/{{session_id}}/{what}" for what in reading}


def test_patterns_are_those_of_json_schema(described: dict[str, Any]) -> None:
    assert not re.search(r"\\\\[AZ]", json.dumps(described))
