"""/ledger/libraries/{library}/entities over a real store: written and read as lines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.phones.http import Service
from tests.support.sources.samples import USER_ID, sample

PATH = "/ledger/libraries/lib/entities"


@pytest.fixture
async def key(service: Service) -> str:
    text, _ = await service.api_keys.create(["entities.write", "entities.read"], name="", now_us=1)
    return text


def user(number: int, **data: Any) -> dict[str, Any]:
    whole = {
        "id": f"u{number}", "name": f"User {number}", "email": f"u{number}@example.test", "avatarColor": None,
        "deletedAt": None, "hasProfileImage": False, "profileChangedAt": "2024-01-01T00:00:00.000Z", **data,
    }  # fmt: skip
    return {"type": "UserV1", "id": f"u{number}", "data": whole}


def lines(*entities: Any) -> bytes:
    return b"".join(json.dumps(entity).encode() + b"\n" for entity in entities)


async def post(service: Service, key: str, body: bytes, path: str = PATH) -> Any:
    answer = await service.ask("POST", path, body=body, headers={"x-api-key": key})
    assert answer.status_code == 200
    return answer.json


async def test_lines_are_taken_and_read_back(service: Service, key: str) -> None:
    some = [user(number) for number in range(3)]
    report = {"lines": 3, "taken": 3, "unchanged": 0, "refused": 0, "refusals": [], "waiting": 0, "waits": []}
    assert await post(service, key, lines(*some)) == report
    assert await post(service, key, lines(*some)) == report | {"taken": 0, "unchanged": 3}
    answer = await service.read(PATH, {"x-api-key": key})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.text.splitlines()] == some


async def test_what_is_read_can_be_written_to_another_library(service: Service, key: str) -> None:
    await post(service, key, lines(*(user(number) for number in range(1500))))
    there = "/ledger/libraries/other/entities"
    read = (await service.read(PATH, {"x-api-key": key})).content
    assert (await post(service, key, read, there))["taken"] == 1500
    assert (await service.read(there, {"x-api-key": key})).content == read


async def test_a_line_that_does_not_fit_is_reported_and_stops_no_other(service: Service, key: str) -> None:
    body = lines(user(1), user(2, name=None)) + b"{nonsense\n" + lines({"type": "X", "data": {}}, user(3))
    report = await post(service, key, body)
    assert (report["lines"], report["taken"], report["refused"]) == (5, 2, 3)
    assert [refusal["line"] for refusal in report["refusals"]] == [2, 3, 4]
    assert report["refusals"][0]["type"] == "UserV1"
    assert report["refusals"][0]["id"] == "u2"
    assert report["refusals"][0]["path"] == ["data", "name"]


async def test_what_waits_for_a_parent_is_told_and_listed_if_wanted(service: Service, key: str) -> None:
    face = {"type": "AssetFaceV2", "id": "f1", "data": sample("AssetFaceV2", id="f1", assetId="a1")}
    asset = {"type": "AssetV2", "id": "a1", "data": sample("AssetV2", id="a1")}
    owner = {"type": "UserV1", "id": USER_ID, "data": sample("UserV1")}
    await post(service, key, lines(owner))
    report = await post(service, key, lines(face))
    assert (report["taken"], report["refused"], report["waiting"]) == (1, 0, 1)
    assert report["waits"] == [{"type": "AssetFaceV2", "rows": 1, "id": "f1", "parent": "asset|a1"}]

    async def listed(query: str) -> list[Any]:
        answer = await service.read(PATH + query, {"x-api-key": key})
        assert answer.status_code == 200
        return [json.loads(line) for line in answer.text.splitlines()]

    assert await listed("") == await listed("?waiting=true") == [owner, face]
    assert await listed("?waiting=false") == [owner]
    assert (await service.ask("GET", PATH + "?waiting=x", headers={"x-api-key": key})).status_code == 400
    assert (await post(service, key, lines(asset)))["waiting"] == 0
    assert await listed("") == await listed("?waiting=false") == [owner, asset, face]


async def test_a_row_is_counted_as_held_back_when_it_begins_to_wait(service: Service, key: str) -> None:
    faces = [
        {"type": "AssetFaceV2", "id": f"f{at}", "data": sample("AssetFaceV2", id=f"f{at}", assetId="a1")}
        for at in (1, 2)
    ]

    async def counted() -> int:
        counts = {(count.name, count.label_value): count.value for count in await service.counters.all()}
        return counts["rows_held_back", "AssetFaceV2"]

    await post(service, key, lines(faces[0]))
    assert await counted() == 1
    assert (await post(service, key, lines(faces[0])))["unchanged"] == 1
    assert await counted() == 1, "it waits since before"
    await post(service, key, lines(*faces))
    assert await counted() == 2
    owner = {"type": "UserV1", "id": USER_ID, "data": sample("UserV1")}
    await post(service, key, lines(owner))
    assert await counted() == 2, "what waits is counted by what was written, not by what is there"
    album = {"type": "AssetFaceV2", "id": "f3", "data": sample("AssetFaceV2", id="f3", assetId="a3")}
    asset = {"type": "AssetV2", "id": "a3", "data": sample("AssetV2", id="a3")}
    elsewhere = PATH.replace("/lib/", "/other/")
    await post(service, key, lines(album, owner, asset), elsewhere)
    assert await counted() == 2, "its parent came behind it"


async def test_an_empty_body_takes_nothing(service: Service, key: str) -> None:
    assert (await post(service, key, b""))["lines"] == 0


async def test_a_library_without_entities_is_empty(service: Service, key: str) -> None:
    answer = await service.read(PATH, {"x-api-key": key})
    assert (answer.status_code, answer.content) == (200, b"")


async def test_who_may_write_and_read(service: Service, key: str) -> None:
    await post(service, key, lines(user(1)))
    own, other = await service.sign_in(library="lib"), await service.sign_in(library="other")
    reader, _ = await service.api_keys.create(["entities.read"], name="", now_us=1)
    auditor, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)

    async def status(method: str, token: str | None = None, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await service.ask(method, PATH, token, headers=named)
        return answer.status_code

    assert [await status(method) for method in ("GET", "POST")] == [401, 401]
    assert [await status(method, x_api_key=auditor) for method in ("GET", "POST")] == [403, 403]
    assert [await status(method, x_api_key=reader) for method in ("GET", "POST")] == [200, 403]
    assert [await status(method, own.token) for method in ("GET", "POST")] == [200, 403]
    assert [await status(method, other.token) for method in ("GET", "POST")] == [403, 403]
    assert await status("GET", service.tokens.issue("ann", 1).token) == 401


@pytest.mark.parametrize("library", ["a b", "a%7Cb", "%7Bx%7D", "x" * 129])
async def test_a_library_that_keys_cannot_carry(service: Service, key: str, library: str) -> None:
    for method in ("GET", "POST"):
        answer = await service.ask(method, f"/ledger/libraries/{library}/entities", headers={"x-api-key": key})
        assert answer.status_code == 400
        assert answer.json["errors"][0]["path"] == ["library"]
