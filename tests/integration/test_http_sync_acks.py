"""GET, POST and DELETE /sync/ack over a real store."""

from __future__ import annotations

import pytest

from ledger.commands import OfferStream
from ledger.entity_types import ENTITY_TYPES, mask_of
from projections.accounts.tokens import Issued
from tests.support.phones.http import SECOND_US, START_US, Service

OFFERED_US = START_US + 1000 * SECOND_US
ACK = "AssetV2|2023-11-14T22:13:20.000001Z|a1"
LATER = "AssetV2|2023-11-14T22:13:21.000001Z|a1"
BEYOND = "AssetV2|2024-11-14T22:13:21.000001Z|a1"


@pytest.fixture
async def device(service: Service) -> Issued:
    """A device that was offered everything up to OFFERED_US."""
    issued = await service.sign_in()
    await service.ledger.execute("ann", issued.sid, OfferStream(OFFERED_US, mask_of(ENTITY_TYPES)))
    return issued


async def acks_of(service: Service, device: Issued) -> list[str]:
    answer = await service.ask("GET", "/api/sync/ack", device.token)
    assert answer.status_code == 200
    assert all(entry["ack"].startswith(entry["type"] + "|") for entry in answer.json)
    return sorted(entry["ack"] for entry in answer.json)


@pytest.mark.parametrize("path", ["/api/sync/ack", "/sync/ack"])
async def test_an_ack_is_stored_and_listed(service: Service, device: Issued, path: str) -> None:
    answer = await service.ask("POST", path, device.token, json={"acks": [ACK]})
    assert (answer.status_code, answer.text) == (204, "")
    assert answer.headers["x-correlation-id"]
    answer = await service.ask("GET", path, device.token)
    assert answer.json == [{"type": "AssetV2", "ack": ACK}]


async def test_the_seeds_form_is_taken_too(service: Service, device: Issued) -> None:
    await service.ask("POST", "/sync/ack", device.token, json={"acks": ["AssetV1|2023-11-14T22:13:20.123456+00:00|"]})
    assert await acks_of(service, device) == ["AssetV1|2023-11-14T22:13:20.123456Z|"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"acks": []}, 204, None),
        ({"acks": [ACK] * 1000}, 204, None),
        ({"acks": [ACK] * 1001}, 400, "Validation failed"),
        ({}, 400, "Validation failed"),
        ({"acks": [5]}, 400, "Validation failed"),
        ({"acks": None}, 400, "Validation failed"),
        ({"acks": [ACK, "AssetV9|x"]}, 400, "Invalid ack type: AssetV9"),
        ({"acks": [ACK, "AssetV2|yesterday|"]}, 400, None),
        ({"acks": [ACK, BEYOND]}, 400, None),
    ],
)
async def test_a_request_is_taken_whole_or_not(
    service: Service, device: Issued, body: object, status: int, message: str | None
) -> None:
    answer = await service.ask("POST", "/api/sync/ack", device.token, json=body)
    assert answer.status_code == status
    if status == 400:
        assert message in {None, answer.json["message"]}
        assert await acks_of(service, device) == []


async def test_validation_names_the_path(service: Service, device: Issued) -> None:
    answer = await service.ask("POST", "/api/sync/ack", device.token, json={"acks": [ACK, 5]})
    assert answer.json["errors"] == [
        {"code": "invalid_type", "path": ["acks", 1], "message": "Expected `str`, got `int`"}
    ]
    answer = await service.ask(
        "POST", "/api/sync/ack", device.token, body=b"{acks", headers={"content-type": "text/plain"}
    )
    assert (answer.status_code, answer.json["errors"][0]["path"]) == (400, [])


async def test_a_content_type_is_not_asked_for(service: Service, device: Issued) -> None:
    body = f'{{"acks":["{ACK}"]}}'.encode()
    answer = await service.ask("POST", "/api/sync/ack", device.token, body=body, headers={"content-type": "text/plain"})
    assert answer.status_code == 204


async def test_a_checkpoint_never_moves_back(service: Service, device: Issued) -> None:
    for ack in (LATER, ACK, LATER):
        assert (await service.ask("POST", "/api/sync/ack", device.token, json={"acks": [ack]})).status_code == 204
    assert await acks_of(service, device) == [LATER]


async def test_delete_forgets_the_named_types_or_all(service: Service, device: Issued) -> None:
    at = "2023-11-14T22:13:20.000001Z"
    acks = [f"{name}|{at}|x" for name in ("AssetV1", "AssetV2", "AssetDeleteV1", "AlbumV2", "AssetExifV1")]
    await service.ask("POST", "/api/sync/ack", device.token, json={"acks": acks})
    answer = await service.ask("DELETE", "/api/sync/ack", device.token, json={"types": ["AssetExifV1"]})
    assert (answer.status_code, answer.text) == (204, "")
    assert len(await acks_of(service, device)) == 4
    await service.ask("DELETE", "/api/sync/ack", device.token, json={"types": ["AssetDeleteV1"]})
    assert [ack.split("|")[0] for ack in await acks_of(service, device)] == ["AlbumV2"]
    assert (await service.ask("DELETE", "/api/sync/ack", device.token)).status_code == 204
    assert await acks_of(service, device) == []


async def test_the_apps_deletes_before_its_first_stream_work(service: Service) -> None:
    device = await service.sign_in()
    for types in (
        ["AssetExifV1", "PartnerAssetExifV1", "AlbumAssetExifCreateV1", "AlbumAssetExifUpdateV1"],
        ["AssetV1", "PartnerAssetV1", "AlbumAssetCreateV1", "AlbumAssetUpdateV1"],
        [],
    ):
        answer = await service.ask("DELETE", "/api/sync/ack", device.token, json={"types": types})
        assert answer.status_code == 204


async def test_an_unknown_type_cannot_be_deleted(service: Service, device: Issued) -> None:
    await service.ask("POST", "/api/sync/ack", device.token, json={"acks": [ACK]})
    answer = await service.ask("DELETE", "/api/sync/ack", device.token, json={"types": ["AssetV2", "AssetsV2"]})
    assert answer.status_code == 400
    assert [error["path"] for error in answer.json["errors"]] == [["types", 1]]
    assert await acks_of(service, device) == [ACK]


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", {"acks": []}), ("DELETE", {})])
async def test_who_may_not_ask(service: Service, method: str, body: object) -> None:
    async def asked(**headers: str) -> tuple[int, str]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await service.ask(method, "/api/sync/ack", json=body, headers=names)
        return answer.status_code, answer.json["message"]

    key, _ = await service.api_keys.create(["entities.write"], name="", now_us=1)
    stranger = service.tokens.issue("ann", 1).token
    assert await asked() == (401, "Authentication required")
    assert await asked(authorization=f"Bearer {stranger}") == (401, "Invalid user token")
    assert await asked(authorization="Bearer x", x_api_key=key) == (401, "Invalid user token")
    assert await asked(x_api_key="wrong") == (401, "Invalid API key")
    assert await asked(x_api_key=key) == (403, "Sync endpoints cannot be used with API keys")
    assert await asked(x_immich_share_key="k") == (403, "Sync endpoints cannot be used with API keys")


async def test_a_store_that_is_away_is_503_and_not_401(service: Service, device: Issued) -> None:
    await service.store.close()
    for method, body in (("GET", None), ("POST", {"acks": [ACK]}), ("DELETE", {})):
        answer = await service.ask(method, "/api/sync/ack", device.token, json=body)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
