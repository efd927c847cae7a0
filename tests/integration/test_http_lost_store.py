"""A store that lost its ledger under the service: nobody is signed out, and all goes on once the ledger is back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from ledger import keys
from ledger.log.store_check import open_layout
from ledger.store.interface import Store, open_store
from ops.backup.job import BackupOptions, back_up
from ops.backup.listing import find_backup, load_manifest
from ops.backup.restore import restore
from projections.accounts.tokens import Issued, TokenIssuer, make_key, read_keyring
from projections.archive.objects import Objects, open_objects
from projections.backup.origin import FromBackup
from tests.support.phones.http import PARTITIONS, START_US, Service, serving

ACK = {"acks": ["SyncResetV1|reset"]}
STREAM = {"types": ["AssetsV2"]}
ASKED: list[tuple[str, str, Any]] = [
    ("GET", "/api/sessions", None),
    ("POST", "/api/auth/validateToken", None),
    ("POST", "/api/auth/logout", None),
    ("POST", "/api/sync/stream", STREAM),
    ("POST", "/api/sync/ack", ACK),
    ("DELETE", "/api/sync/ack", {}),
    ("GET", "/api/sync/ack", None),
    ("GET", "/api/users/me", None),
    ("POST", "/ledger/token/refresh", None),
    ("POST", "/sync/stream", STREAM),
    ("POST", "/auth/logout", None),
]
"""What a device asks for; each would be 401 without its session."""


async def flush(store: Store) -> None:
    await store.each_primary("FLUSHALL")


async def another(store: Store) -> None:
    """Put another ledger behind the same address."""
    await flush(store)
    await open_layout(store, PARTITIONS, START_US)


LOSSES = [flush, another]


@pytest.fixture
async def device(service: Service) -> Issued:
    issued = await service.sign_in()
    await service.ask("GET", "/api/sessions", issued.token)  # this process remembers it
    return issued


async def assert_nobody_is_out(service: Service, token: str) -> None:
    for method, path, body in ASKED:
        answer = await service.ask(method, path, token, json=body)
        assert (answer.status_code, path) == (503, path)
        assert int(answer.headers["retry-after"]) > 0
        assert "restore" in answer.json["message"]


@pytest.mark.parametrize("lose", LOSSES)
async def test_a_token_of_ours_is_503_wherever_it_is_shown(service: Service, device: Issued, lose: Any) -> None:
    later = await service.ask("POST", "/ledger/token/refresh", device.token)
    unknown = service.tokens.issue("bob", START_US).token  # of a session that nobody knows any more
    await lose(service.store)
    for token in (device.token, later.json["accessToken"], unknown):
        await assert_nobody_is_out(service, token)
    cookie = await service.ask(
        "GET", "/api/sessions", headers={"Cookie": f"immich_access_token={device.token}", "Host": "test"}
    )
    assert cookie.status_code == 503


@pytest.mark.parametrize("lose", LOSSES)
async def test_what_is_no_token_of_ours_stays_401(service: Service, device: Issued, lose: Any) -> None:
    key = make_key()
    foreign = TokenIssuer(lambda: read_keyring(key)).issue("ann", START_US).token
    await lose(service.store)
    for token in ("garbage", "a.b.c", foreign, device.token[:-4] + "AAAA"):
        answer = await service.ask("GET", "/api/sessions", token)
        assert (answer.status_code, answer.json["message"]) == (401, "Invalid user token")
    nothing = await service.ask("GET", "/api/sessions")
    assert nothing.status_code == 401


@pytest.mark.parametrize("lose", LOSSES)
async def test_an_api_key_is_503_for_nothing_tells_it_from_one_that_was_lost(service: Service, lose: Any) -> None:
    text, _ = await service.api_keys.create(["audit.read"], name="auditor", now_us=START_US)
    await lose(service.store)
    answer = await service.ask("POST", "/api/sync/stream", headers={"x-api-key": text}, json=STREAM)
    assert answer.status_code == 503
    await service.open()  # another start: the ledger that is there is the one to serve
    answer = await service.ask("POST", "/api/sync/stream", headers={"x-api-key": text}, json=STREAM)
    assert (answer.status_code, answer.json["message"]) == (401, "Invalid API key")


@pytest.mark.parametrize("lose", LOSSES)
async def test_readiness_and_the_log_tell_it_once(
    service: Service, device: Issued, lose: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await service.ask("GET", "/readyz")).status_code == 200
    await lose(service.store)
    with caplog.at_level(logging.INFO, "ledger.log.presence"):
        for _ in range(3):
            told = await service.ask("GET", "/readyz")
            assert told.status_code == 503
            assert service.presence.ledger_id in told.json["message"]
            await service.ask("GET", "/api/sessions", device.token)
    told_of = [record for record in caplog.records if record.name == "ledger.log.presence"]
    assert [record.levelname for record in told_of] == ["CRITICAL"]
    assert (await service.ask("GET", "/healthz")).status_code == 200


async def test_what_a_service_writes_meanwhile_does_not_keep_the_ledger_from_coming_back(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Emptied while devices work, restored under them: each goes on with its token, by starting over."""
    devices = {user: await service.sign_in(user) for user in ("ann", "bob", "eve")}
    await service.ask("POST", "/ledger/token/refresh", devices["bob"].token)
    objects = open_objects(f"file://{tmp_path}/backups", make=True)
    await back_up(service.store, None, objects, PARTITIONS, BackupOptions(version="1.0"), START_US)
    later = await service.sign_in("zoe")
    await flush(service.store)
    for issued in (*devices.values(), later):
        await assert_nobody_is_out(service, issued.token)
    await service.ask("GET", "/api/sessions", "garbage")  # counted, here and as a limit
    await restored(service.store, objects)
    with caplog.at_level(logging.INFO, "ledger.log.presence"):
        for user, issued in devices.items():
            answer = await service.ask("GET", "/api/sessions", issued.token)
            assert (answer.status_code, user) == (200, user)
            assert [line["type"] for line in await service.stream(issued.token, "AssetsV2")] == ["SyncResetV1"]
            assert (await service.ask("POST", "/api/sync/ack", issued.token, json=ACK)).status_code == 204
            assert [line["type"] for line in await service.stream(issued.token, "AssetsV2")] == ["SyncCompleteV1"]
        assert (await service.ask("GET", "/readyz")).status_code == 200
        unknown = await service.ask("GET", "/api/sessions", service.tokens.issue("zoe", START_US).token)
        assert unknown.status_code == 401, "the ledger is there, and knows no such session"
        answer = await service.ask("GET", "/api/sessions", later.token)
        assert answer.status_code == 200, "it is in no backup, but this process remembers it"
        assert [line["type"] for line in await service.stream(later.token, "AssetsV2")] == ["SyncResetV1"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"ledger {service.presence.ledger_id} is there again"
    ]


async def restored(store: Store, objects: Objects) -> None:
    folder = await find_backup(objects, "latest")
    origin = FromBackup(objects, folder, await load_manifest(objects, folder), None)
    report = await restore(store, origin, lambda: START_US + 10**6)
    assert report.is_complete


async def test_while_it_is_restored_nobody_is_told_to_have_ended(service: Service, device: Issued) -> None:
    await service.store.command("HSET", keys.meta(), "restoring", "a backup", key=keys.meta())
    unknown = service.tokens.issue("bob", START_US).token
    answer = await service.ask("GET", "/api/sessions", unknown)
    assert (answer.status_code, "being restored" in answer.json["message"]) == (503, True)


async def test_a_primary_of_a_cluster_that_came_up_empty(cluster_url: str) -> None:
    """Those of its partitions are 503 and nobody begins there; the others go on."""
    store = await open_store(cluster_url)
    async with serving(store) as service:
        devices = {user: await service.sign_in(user) for user in (f"user{number}" for number in range(12))}
        sizes = await store.each_primary("DBSIZE")
        lost = {user for user in devices if await emptied(store, user, devices[user].sid)}
        assert 0 < len(lost) < len(devices)
        assert await store.each_primary("DBSIZE") != sizes
        for user, issued in devices.items():
            answer = await service.ask("GET", "/api/sessions", issued.token)
            assert answer.status_code == (503 if user in lost else 200)
            unknown = service.tokens.issue(user, START_US).token
            answer = await service.ask("GET", "/api/sessions", unknown)
            assert answer.status_code == (503 if user in lost else 401)
        for user in lost:
            with pytest.raises(Exception, match="missing"):
                await service.sign_in(user)
            answer = await service.ask("GET", "/api/sessions", devices[user].token)
            assert answer.status_code == 503
    await store.close()


async def emptied(store: Store, user: str, sid: str) -> bool:
    """Tell whether a user's partition is among those lost, after losing three of them whole."""
    partition = keys.partition_of(user, PARTITIONS)
    if partition in (1, 4, 6):
        for names in await store.each_primary("KEYS", f"{{p{partition}}}*"):
            for name in names:
                await store.command("DEL", name, key=name)
        return True
    return bool(not await store.command("EXISTS", keys.session(partition, sid), key=keys.session(partition, sid)))
