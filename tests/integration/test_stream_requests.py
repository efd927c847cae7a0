"""What is asked of the stream: who may, what is refused, starting over, and what an idle device costs."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import httpx
import pytest

from ops.demo_library import DemoLibrary
from tests.support.phones.raw_stream import RawStream
from tests.support.processes.running import APP_TYPES, RunningService

Line = dict[str, Any]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("requests"), workers=2) as service:
        service.put("lib", DemoLibrary(user="ann", name="Ann", assets=40))
        yield service


def lines_of(service: RunningService, token: str, *types: str, **body: Any) -> list[Line]:
    with RawStream(service.port, token, types, **body) as stream:
        assert stream.read_to_end().clean is True
        assert stream.status == 200
        return stream.lines


def test_no_types_give_only_the_completion(service: RunningService) -> None:
    token = service.sign_in("nobody")
    (line,) = lines_of(service, token)
    assert (line["type"], line["data"]) == ("SyncCompleteV1", {})
    assert line["ack"] == f"SyncCompleteV1|{line['ids'][0]}|"
    with service.client(token) as client:
        assert client.post("/api/sync/ack", json={"acks": [line["ack"]]}).status_code == 204


def test_both_paths_stream_the_same(service: RunningService) -> None:
    token = service.sign_in("root")
    with RawStream(service.port, token, APP_TYPES, path="/sync/stream") as stream:
        at_root = stream.read_to_end().lines
    assert at_root == lines_of(service, token, *APP_TYPES)


def test_reset_true_forgets_all_checkpoints_and_a_pending_reset(service: RunningService) -> None:
    token = service.sign_in("resetter")
    first = lines_of(service, token, *APP_TYPES)
    with service.client(token) as client:
        last = {line["type"]: line["ack"] for line in first}
        assert client.post("/api/sync/ack", json={"acks": list(last.values())}).status_code == 204
        assert len(lines_of(service, token, *APP_TYPES)) == 1
        sid = sha256(token.encode()).hexdigest()
        assert client.put(f"/api/sessions/{sid}", json={"isPendingSyncReset": True}).json()["isPendingSyncReset"]
        assert [line["type"] for line in lines_of(service, token, *APP_TYPES)] == ["SyncResetV1"]
        again = lines_of(service, token, *APP_TYPES, reset=True)
        assert [line["data"] for line in again] == [line["data"] for line in first]
        assert client.get("/api/sync/ack").json() == []
        # An ack of the stream before must not count for the one after.
        assert client.post("/api/sync/ack", json={"acks": list(last.values())}).status_code == 204
        assert client.get("/api/sync/ack").json() == []


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"types": ["AssetsV2", "AssetV2"]}, ["types", 1]),
        ({"types": "AssetsV2"}, ["types"]),
        ({"types": [None]}, ["types", 0]),
        ({}, ["types"]),
        ({"types": [], "reset": "yes"}, ["reset"]),
    ],
)
def test_an_unknown_type_or_a_wrong_body_is_400_and_names_the_field(
    service: RunningService, body: Any, path: list[Any]
) -> None:
    with service.client(service.sign_in("wrong")) as client:
        answer = client.post("/api/sync/stream", json=body)
    assert (answer.status_code, answer.json()["message"]) == (400, "Validation failed")
    assert answer.json()["errors"][0]["path"] == path
    assert answer.headers["content-type"].startswith("application/json")


def test_an_api_key_is_403_on_all_sync_endpoints(service: RunningService) -> None:
    with httpx.Client(base_url=service.url, headers={"x-api-key": service.entities_key}, trust_env=False) as client:
        for method, path, body in (
            ("POST", "sync/stream", {"types": []}),
            ("POST", "sync/ack", {"acks": []}),
            ("GET", "sync/ack", None),
            ("DELETE", "sync/ack", {}),
        ):
            for prefix in ("/api/", "/"):
                answer = client.request(method, prefix + path, json=body)
                assert (answer.status_code, answer.json()) == (
                    403, {"message": "Sync endpoints cannot be used with API keys"},
                )  # fmt: skip


@pytest.mark.parametrize("polls", [100, pytest.param(1000, marks=pytest.mark.soak)])
def test_an_idle_device_appends_nothing(service: RunningService, polls: int) -> None:
    token = service.sign_in("idler")
    with service.client(token, Accept="application/jsonlines+json") as client:
        first = lines_of(service, token, *APP_TYPES)
        for ack in {line["type"]: line["ack"] for line in first}.values():
            assert client.post("/api/sync/ack", json={"acks": [ack]}).status_code == 204
        service.put("another", DemoLibrary(user="bob", name="Bob", assets=4))
        before = service.events_of(token)
        for _ in range(polls):
            answer = client.post("/api/sync/stream", json={"types": APP_TYPES})
            assert answer.status_code == 200
            (line,) = answer.text.splitlines()
            assert line.startswith('{"type":"SyncCompleteV1"')
        for _ in range(20):  # the app acknowledges each completion; it is the same one
            assert client.post("/api/sync/ack", json={"acks": [first[-1]["ack"]]}).status_code == 204
    assert service.events_of(token) == before
