"""/openapi.json: valid, complete, and true to the routes."""

from __future__ import annotations

import re
from typing import Any

import falcon.inspect
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from endpoints.http import openapi
from endpoints.routes import build, routes
from tests.support.phones.http import Service, serving
from tests.support.stores.fake_store import FakeStore


@pytest.fixture
def service() -> Service:
    return Service(FakeStore())


@pytest.fixture
def described(service: Service) -> dict[str, Any]:
    return openapi.document(routes(service.services))


def test_the_document_is_valid(described: dict[str, Any]) -> None:
    validate(described, cls=OpenAPIV31SpecValidator)


def test_every_operation_that_answers_is_described_and_no_other(service: Service, described: dict[str, Any]) -> None:
    answered = {
        (method.method, route.path.replace(":path}", "}"))
        for route in falcon.inspect.inspect_app(build(service.services)).routes
        for method in route.methods
        if not method.internal and method.method not in {"HEAD", "OPTIONS"}
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
