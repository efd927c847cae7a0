"""GET /ledger/log/…: what auditors read, and who may."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from endpoints.console.pages import HEADERS
from endpoints.services import HttpSettings
from ledger.store.interface import Store, open_store
from ledger.transparency.session_proof import SessionProof, check
from projections.transparency.place import LogPlace
from projections.transparency.published import PublishedLog
from tests.support.console.browser import Browser
from tests.support.ledger.logs import KEY, log_of, place_at, run
from tests.support.phones.http import PARTITIONS, Service, serving


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    """An empty store."""
    store = await open_store(valkey_url)
    yield store
    await store.close()


@pytest.fixture
def place() -> LogPlace:
    """A place in memory."""
    return place_at()


@pytest.fixture
async def service(store: Store, place: LogPlace) -> AsyncIterator[Service]:
    """A service whose log is in that place."""
    async with serving(store, log=PublishedLog(place)) as service:
        yield service


async def test_auditors_read_checkpoint_and_tiles(service: Service, place: LogPlace) -> None:
    audit, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)
    headers = {"x-api-key": audit}
    answer = await service.ask("GET", "/ledger/log/checkpoint", headers=headers)
    assert answer.status_code == 404, "nothing is logged yet"
    for _ in range(150):
        await service.sign_in()
    await run(log_of(service.store, place, ledger=service.presence.ledger_id), PARTITIONS)
    for _ in range(120):
        await service.sign_in("ben")
    await run(log_of(service.store, place, ledger=service.presence.ledger_id), PARTITIONS)
    answer = await service.ask("GET", "/ledger/log/checkpoint", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.text.startswith("ledger.example/log\n272\n")
    for path, size in (
        ("0/000", 8192), ("0/001.p/16", 512), ("1/000.p/1", 32), ("entries/000", 255 * 76 + 51), ("0/000.p/151", 4832),
    ):  # fmt: skip
        answer = await service.ask("GET", f"/ledger/log/tile/{path}", headers=headers)
        assert (answer.status_code, len(answer.content)) == (200, size), path
        assert answer.headers["content-type"] == "application/octet-stream"
        assert "immutable" in answer.headers["cache-control"]
    for path in ("0/001", "0/0", "0/002.p/1", "../log.json", "..%2flog.json", "7/000", "0/000/", "entries/x"):
        assert (await service.ask("GET", f"/ledger/log/tile/{path}", headers=headers)).status_code == 404, path


async def test_others_do_not(service: Service) -> None:
    key, _ = await service.api_keys.create(["metrics.read"], name="", now_us=1)
    token = (await service.sign_in()).token
    for path in ("checkpoint", "tile/0/000"):
        assert (await service.ask("GET", f"/ledger/log/{path}")).status_code == 401
        assert (await service.ask("GET", f"/ledger/log/{path}", token)).status_code == 403
        assert (await service.ask("GET", f"/ledger/log/{path}", headers={"x-api-key": key})).status_code == 403


async def test_an_open_log_is_read_by_all(store: Store, place: LogPlace) -> None:
    async with serving(store, HttpSettings(log_open=True), log=PublishedLog(place)) as service:
        await service.sign_in()
        await run(log_of(store, place, ledger=service.presence.ledger_id), PARTITIONS)
        assert (await service.ask("GET", "/ledger/log/checkpoint")).status_code == 200
        answer = await service.ask("GET", "/ledger/log/tile/entries/000.p/2")
        assert answer.headers["cache-control"].startswith("public")
    async with serving(store, HttpSettings(log_open=True)) as service:
        answer = await service.ask("GET", "/ledger/log/checkpoint")
        assert (answer.status_code, "LEDGER_PROOF" in answer.json["message"]) == (404, True)


async def test_what_proves_a_session(service: Service, place: LogPlace) -> None:
    ann, ben = await service.sign_in(), await service.sign_in("ben")
    audit, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)
    headers = {"x-api-key": audit}
    path = f"/ledger/sessions/{ann.sid}/proof"
    assert (await service.ask("GET", path, ann.token)).status_code == 404, "nothing is logged yet"
    await run(log_of(service.store, place, ledger=service.presence.ledger_id), PARTITIONS)
    for answer in (await service.ask("GET", path, ann.token), await service.ask("GET", path, headers=headers)):
        assert answer.status_code == 200
        proof = msgspec.json.decode(answer.content, type=SessionProof)
        assert check(proof, [KEY.public]).events == 1
    assert (await service.ask("GET", path, ben.token)).status_code == 404, "another user's"
    assert (await service.ask("GET", path)).status_code == 401
    nobody = f"/ledger/sessions/{'0' * 64}/proof"
    answer = await service.ask("GET", nobody, headers=headers)
    assert check(msgspec.json.decode(answer.content, type=SessionProof), [KEY.public]).seq == 0
    assert (await service.ask("GET", nobody, ben.token)).status_code == 404
    await service.ask("POST", "/api/auth/logout", ann.token)
    await run(log_of(service.store, place, ledger=service.presence.ledger_id), PARTITIONS)
    answer = await service.ask("GET", path, headers=headers)
    assert check(msgspec.json.decode(answer.content, type=SessionProof), [KEY.public]).events == 2, "also when it ended"


async def test_the_console_gives_the_same_proof_as_a_file(service: Service, place: LogPlace) -> None:
    ann, browser = await service.sign_in(), Browser(service)
    await browser.sign_in("audit.read")
    await run(log_of(service.store, place, ledger=service.presence.ledger_id), PARTITIONS)
    answer = await browser.open(f"/console/devices/{ann.sid}/proof")
    assert check(msgspec.json.decode(answer.content, type=SessionProof), [KEY.public]).events == 1
    assert answer.headers["content-disposition"] == f'attachment; filename="{ann.sid}.proof.json"'
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS, "as all that the console answers"
