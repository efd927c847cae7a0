"""GET /ledger/sessions/{id}/state and /explain over a real store."""

from __future__ import annotations

from typing import Any

import pytest

from ledger import keys
from ledger.commands import OfferStream, RequestReset
from ledger.entity_types import mask_of
from ledger.personal import plain
from ledger.positions import iso_from_us
from projections.accounts.tokens import Issued
from tests.support.phones.http import SECOND_US, START_US, Service


@pytest.fixture
async def device(service: Service) -> Issued:
    """A device that acknowledged an asset at second 2, was asked to start over at 3, and signed out at 4."""
    issued = await service.sign_in(device_os="Android")
    service.clock.now_us += SECOND_US
    await service.ledger.execute("ann", issued.sid, OfferStream(START_US, mask_of(["AssetV2"])))
    service.clock.now_us += SECOND_US
    ack = {"acks": [f"AssetV2|{iso_from_us(START_US - 100)}|a1"]}
    assert (await service.ask("POST", "/api/sync/ack", issued.token, json=ack)).status_code == 204
    service.clock.now_us += SECOND_US
    await service.ledger.execute("ann", issued.sid, RequestReset(on=True, by=plain("ann")))
    service.clock.now_us += SECOND_US
    await service.ask("POST", "/api/auth/logout", issued.token)
    service.clock.now_us += SECOND_US
    return issued


async def state(service: Service, sid: str, token: str, at_us: int | None = None) -> dict[str, Any]:
    params = {} if at_us is None else {"at": iso_from_us(at_us)}
    answer = await service.ask("GET", f"/ledger/sessions/{sid}/state", token, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json
    return found


async def test_the_state_at_a_time(service: Service, device: Issued) -> None:
    token = (await service.sign_in()).token
    at_us = START_US + 2 * SECOND_US
    then = await state(service, device.sid, token, at_us)
    assert (then["status"], then["pendingReset"], then["event"]["seq"]) == ("living", False, 3)
    assert (then["sessionId"], then["at"], then["deviceOS"], then["user"]) == (
        device.sid, iso_from_us(at_us), "Android", "ann",
    )  # fmt: skip
    assert then["checkpoints"] == {
        "AssetV2": {"ack": f"AssetV2|{iso_from_us(START_US - 100)}|a1", "acknowledgedAt": iso_from_us(at_us)}
    }
    assert (await state(service, device.sid, token, START_US))["checkpoints"] == {}
    assert (await state(service, device.sid, token, at_us + SECOND_US))["pendingReset"]
    now = await state(service, device.sid, token)
    assert now["status"] == "ended"
    assert now["ended"] == {"reason": "logout", "by": "ann", "at": iso_from_us(START_US + 4 * SECOND_US)}


async def test_before_its_beginning_there_is_none(service: Service, device: Issued) -> None:
    token = (await service.sign_in()).token
    path = f"/ledger/sessions/{device.sid}/state"
    answer = await service.ask("GET", path, token, params={"at": iso_from_us(START_US - 1)})
    assert answer.status_code == 404
    assert answer.json["message"] == (
        f"Session {device.sid} had not begun at {iso_from_us(START_US - 1)}: it was created at {iso_from_us(START_US)}"
    )
    assert (await service.ask("GET", path, token, params={"at": "yesterday"})).json["errors"][0]["path"] == ["at"]


async def test_without_its_beginning_none_can_be_told(service: Service, device: Issued) -> None:
    """As where the archive that holds it is not given: what it says nobody here can tell, for now."""
    token, partition = (await service.sign_in()).token, service.ledger.partition_of("ann")
    stream, archive = keys.stream(partition), keys.archive(partition)
    first = (await service.store.command("XRANGE", stream, "-", "+", "COUNT", 1, key=stream))[0][0]
    await service.store.command("HSET", archive, "floor", first, key=archive)
    await service.store.command("XDEL", stream, first, key=stream)
    answer = await service.ask("GET", f"/ledger/sessions/{device.sid}/state", token)
    assert answer.status_code == 503
    assert "set LEDGER_ARCHIVE" in answer.json["message"]


async def test_why_it_does_not_sync(service: Service, device: Issued) -> None:
    living = await service.sign_in()
    answer = await service.ask("GET", f"/ledger/sessions/{device.sid}/explain", living.token)
    assert answer.status_code == 200
    assert [finding["code"] for finding in answer.json["findings"]] == ["ended_logout"]
    assert answer.json["summary"].startswith("The session ended at ")
    assert answer.json["next"]["sends"] == "nothing"
    answer = await service.ask("GET", f"/ledger/sessions/{living.sid}/explain", living.token)
    assert [finding["code"] for finding in answer.json["findings"]] == ["never_streamed", "library_unknown"]
    assert answer.json["heardOfAt"] == iso_from_us(service.clock.now_us)


@pytest.mark.parametrize("what", ["state", "explain", "streams"])
async def test_who_may_ask(service: Service, device: Issued, what: str) -> None:
    path = f"/ledger/sessions/{device.sid}/{what}"
    audit, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)
    other, _ = await service.api_keys.create(["entities.read"], name="", now_us=1)
    own, stranger = await service.sign_in(), await service.sign_in(user="bob")
    assert (await service.ask("GET", path, own.token)).status_code == 200
    assert (await service.ask("GET", path, headers={"x-api-key": audit})).status_code == 200
    assert (await service.ask("GET", path, headers={"x-api-key": other})).status_code == 403
    assert (await service.ask("GET", path, stranger.token)).status_code == 404
    assert (await service.ask("GET", path, device.token)).status_code == 401
    assert (await service.ask("GET", path)).status_code == 401
    unknown = f"/ledger/sessions/{'0' * 64}/{what}"
    assert (await service.ask("GET", unknown, headers={"x-api-key": audit})).status_code == 404
    assert (await service.ask("GET", f"/ledger/sessions/x/{what}", own.token)).status_code == 400
