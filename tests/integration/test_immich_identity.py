"""The unchanged app with a token of Immich's: admitted, refused, asked to start over, out, and there again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from hashlib import sha256
from typing import Any, Protocol, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest

from endpoints.http.limits import LimitRules
from endpoints.http.operations import SESSION
from endpoints.routes import routes
from endpoints.services import HttpSettings
from ledger import keys
from ledger.acks import Ack
from ledger.clocks.passed import note_time
from ledger.commands import AdoptCheckpoints, EndSession, RequestReset
from ledger.events import Event, tag_of
from ledger.personal import plain, text_of
from ledger.positions import Position
from ledger.state import State
from ledger.store.interface import open_store
from projections.entities.postgres.mapping.from_toml import load_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from projections.entities.source import SourceUnavailable
from projections.expiry import expire
from projections.immich import PLACE
from projections.immich.adopting import Adopting
from projections.immich.gone import GONE_US, GoneReport, end_gone
from projections.immich.identity import Adoption, ImmichIdentity
from projections.immich.tables import ImmichTables, Stand
from tests.immich.database import ImmichDatabase
from tests.support.console.browser import Browser
from tests.support.phones.http import START_US, Service, serving
from tests.support.phones.quick_requests import QuickAck
from tests.support.stores.postgres_server import PostgresServer

GOOD_FOR_S = 0.06
OUT_S = GOOD_FOR_S + 0.02
STREAM, ACK = "/api/sync/stream", "/api/sync/ack"
DAY_US = 86_400_000_000
T = TypeVar("T")


@pytest.fixture(scope="module")
def shared_database(postgres: PostgresServer) -> Iterator[ImmichDatabase]:
    """One database for the tests that leave its tables alone: each has users of its own."""
    url = postgres.create_database()
    with ImmichDatabase(url) as database:
        yield database.build()
    postgres.drop_database(url)


class Open(Protocol):
    """Opens one worker more on the test's store and a database."""

    async def __call__(
        self,
        url: str,
        *,
        good_for_s: float = GOOD_FOR_S,
        adoption: Adoption | None = None,
        rules: LimitRules | None = None,
    ) -> Service: ...


@pytest.fixture
async def workers(valkey_url: str) -> AsyncIterator[Open]:
    """Make workers of one service; all are closed behind the test."""
    async with AsyncExitStack() as stack:

        async def worker(
            url: str,
            *,
            good_for_s: float = GOOD_FOR_S,
            adoption: Adoption | None = None,
            rules: LimitRules | None = None,
        ) -> Service:
            store = await open_store(valkey_url)
            stack.push_async_callback(store.close)
            pool, own_pool = [await Postgres.open(url, size=2, wait_s=2, statement_timeout_s=2) for _ in range(2)]
            stack.push_async_callback(pool.close)
            source = PostgresSource(pool, load_mapping("immich"))
            made = partial(
                ImmichIdentity,
                ImmichTables(own_pool),
                good_for_s=good_for_s,
                every_s=0.01,
                adoption=adoption,
                horizon=source.horizon,
            )
            settings = HttpSettings(sessions_elsewhere=PLACE)
            service = await stack.enter_async_context(serving(store, settings, source=source, immich=made, rules=rules))
            assert service.immich is not None
            stack.push_async_callback(service.immich.close)
            return service

        yield worker


@pytest.fixture
async def service(workers: Open, shared_database: ImmichDatabase) -> Service:
    """One worker on the shared database, whose role may write all."""
    return await workers(shared_database.url)


@pytest.fixture
def ann(shared_database: ImmichDatabase) -> UUID:
    """A new user."""
    return shared_database.user(f"ann-{uuid4().hex[:8]}")


@pytest.fixture
def own_server(postgres_server: PostgresServer) -> Iterator[tuple[PostgresServer, ImmichDatabase]]:
    """A server of the test alone, with a database on it."""
    with ImmichDatabase(postgres_server.create_database()) as database:
        yield postgres_server, database.build()


@pytest.fixture
def own_database(postgres_url: str) -> Iterator[ImmichDatabase]:
    """A database of the test alone."""
    with ImmichDatabase(postgres_url) as database:
        yield database.build()


async def at_immich(work: Callable[..., T], *args: Any, **named: Any) -> T:
    """Do something at Immich, which has an event loop of its own."""
    return await asyncio.to_thread(work, *args, **named)


def sid_of(token: str) -> str:
    """The id here of a session there."""
    return sha256(token.encode()).hexdigest()


async def events_of(service: Service, user: UUID, token: str) -> list[Event]:
    """Read what happened to a session, oldest first."""
    partition = service.ledger.partition_of(str(user))
    page = await service.services.past.page(partition, sid_of(token), count=100)
    return [entry.recorded.event for entry in reversed(page.entries)]


async def tags(service: Service, user: UUID, token: str) -> list[str]:
    """Name what happened to a session, oldest first."""
    return [tag_of(event) for event in await events_of(service, user, token)]


async def types_sent(service: Service, token: str, *types: str) -> list[str]:
    """Sync once, acknowledge all of it, and tell the types of the lines."""
    lines = await service.stream(token, *types or ("AuthUsersV1", "UsersV1"))
    for line, after in zip(lines, [*lines[1:], None], strict=True):
        if after is None or after["type"] != line["type"]:
            acked = await service.ask("POST", ACK, token, json={"acks": [line["ack"]]})
            assert acked.status_code == 204, acked.text
    return [line["type"] for line in lines]


async def status(service: Service, token: str) -> int:
    """Ask for the checkpoints with a token."""
    return (await service.ask("GET", ACK, token)).status_code


def sound(status_code: int, message: str) -> tuple[int, dict[str, str]]:
    """What Immich answers, as (status, body)."""
    return status_code, {"message": message}


# Admission ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "present",
    [
        lambda token: {"headers": {"x-immich-user-token": token}},
        lambda token: {"headers": {"x-immich-session-token": token}},
        lambda token: {"params": {"sessionKey": token}},
        lambda token: {"headers": {"authorization": f"bearer {token}"}},
        lambda token: {"headers": {"cookie": f"immich_access_token={token}; immich_is_authenticated=true"}},
    ],
    ids=["user-token", "session-token", "query", "bearer", "cookie"],
)
async def test_a_token_admits_in_each_of_immichs_ways(
    service: Service, shared_database: ImmichDatabase, ann: UUID, present: Callable[[str], dict[str, Any]]
) -> None:
    token = await at_immich(shared_database.sign_in, ann)
    answer = await service.ask("GET", ACK, **present(token))
    assert (answer.status_code, answer.json) == (200, [])


async def test_devices_are_found_by_the_address_that_immich_has(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    token = await at_immich(shared_database.sign_in, ann)
    assert await status(service, token) == 200
    await at_immich(shared_database.update, "user", ann, email=f"{ann}@example.test")
    key = (await service.api_keys.create(["audit.read"], name="", now_us=1))[0]
    for email, sids in ((f"{ann}@EXAMPLE.test", [sid_of(token)]), ("nobody@example.test", [])):
        answer = await service.ask("GET", "/ledger/devices", headers={"x-api-key": key}, params={"email": email})
        assert [device["session"] for device in answer.json["devices"]] == sids


async def test_a_phone_syncs_and_its_session_is_immichs(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    parent = await at_immich(shared_database.sign_in, ann)
    parent_id = (await at_immich(shared_database.session, parent))["id"]
    token = await at_immich(shared_database.sign_in, ann, parentId=parent_id, appVersion=None)
    await at_immich(shared_database.settle)
    assert (await types_sent(service, token))[0] == "AuthUserV1"
    assert await types_sent(service, token) == ["SyncCompleteV1"]

    created, *_ = await events_of(service, ann, token)
    state = await service.ledger.load(str(ann), sid_of(token))
    assert tag_of(created) == "session_created"
    assert (state.user, state.library, state.parent) == (str(ann), str(ann), str(parent_id))
    assert (state.authenticated_by, state.over_at_us) == ("immich", None)
    assert [text_of(text) for text in (state.device_type, state.device_os, state.app_version)] == [
        "Pixel 9", "Android", "",
    ]  # fmt: skip

    await at_immich(shared_database.execute, 'UPDATE session SET "appVersion" = $1 WHERE token = $2', "3.3.0",
                    sha256(token.encode()).digest())  # fmt: skip
    await asyncio.sleep(OUT_S)
    await status(service, token)
    state = await service.ledger.load(str(ann), sid_of(token))
    assert text_of(state.app_version) == "3.3.0"


async def test_two_workers_begin_a_session_once(workers: Open, shared_database: ImmichDatabase, ann: UUID) -> None:
    one, other = await workers(shared_database.url), await workers(shared_database.url)
    token = await at_immich(shared_database.sign_in, ann)
    answers = await asyncio.gather(*(status(each, token) for each in (one, other) * 8))
    assert set(answers) == {200}
    assert await tags(one, ann, token) == ["session_created"]


async def test_the_bound_of_a_users_sessions_refuses_nobody_whom_immich_admits(
    workers: Open, shared_database: ImmichDatabase, ann: UUID
) -> None:
    one, other = await workers(shared_database.url), await workers(shared_database.url)
    for each in (one, other):
        each.ledger.most_sessions = 3
    tokens = [await at_immich(shared_database.sign_in, ann) for _ in range(6)]
    for number, token in enumerate(tokens):
        one.clock.now_us = other.clock.now_us = one.clock.now_us + 1_000_000
        assert await status((one, other)[number % 2], token) == 200
    living = {state.sid for state in await one.ledger.devices(str(ann))}
    assert living == {sid_of(token) for token in tokens[3:]}, "who was not heard of for longest is put aside"
    assert await tags(one, ann, tokens[0]) == ["session_created", "session_ended"]
    assert await status(other, tokens[0]) == 200, "and is back with its next request"
    assert (await tags(one, ann, tokens[0]))[2:4] == ["session_resumed", "session_created"]
    answers = await asyncio.gather(*(status((one, other)[n % 2], token) for n, token in enumerate(tokens * 2)))
    assert set(answers) == {200}
    assert len(await one.ledger.devices(str(ann))) <= 3


class Adopts:
    """Adopts one position for whatever a device acknowledged at Immich, and knows what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Stand, State | None]] = []
        self.seen_us = 0
        self.fails = 0

    def is_news(self, state: State, synced_us: int, synced_types: int) -> bool:
        return synced_us > self.seen_us

    def adopt(self, stand: Stand, state: State | None) -> AdoptCheckpoints:
        self.told.append((stand, state))
        if self.fails:
            self.fails -= 1
            raise SourceUnavailable("not now")
        self.seen_us = max((each.updated_at_us for each in stand.checkpoints), default=0)
        return AdoptCheckpoints((Ack("AssetV2", Position(START_US, "a")),), "immich", START_US)


async def test_what_a_session_adopts_is_in_one_append_with_its_beginning_and_again_when_it_was_there(
    workers: Open, shared_database: ImmichDatabase, ann: UUID
) -> None:
    bob = await at_immich(shared_database.user, f"bob-{uuid4().hex[:8]}")
    await at_immich(shared_database.partner, bob, ann)
    await at_immich(shared_database.album, bob, [ann])
    token = await at_immich(shared_database.sign_in, ann)
    session = (await at_immich(shared_database.session, token))["id"]
    for name in ("UserV1", "AssetV2"):
        row = {"sessionId": session, "type": name, "ack": f"{name}|x"}
        await at_immich(shared_database.insert, "session_sync_checkpoint", **row)
    adopts = Adopts()
    service = await workers(shared_database.url, adoption=adopts)
    answer = await service.ask("GET", ACK, token)
    assert [checkpoint["type"] for checkpoint in answer.json] == ["AssetV2"]
    assert await tags(service, ann, token) == ["session_created", "checkpoints_adopted"]
    ((stand, state),) = adopts.told
    assert (stand.session.id, state) == (str(session), None)
    assert [each[:2] for each in stand.checkpoints] == [("AssetV2", "AssetV2|x"), ("UserV1", "UserV1|x")]
    (shared,) = await at_immich(shared_database.fetch, 'SELECT * FROM partner WHERE "sharedWithId" = $1', ann)
    (member,) = await at_immich(shared_database.fetch, 'SELECT * FROM album_user WHERE "userId" = $1', ann)
    assert (stand.partners, stand.albums) == ((str(shared["createId"]),), (str(member["createId"]),))

    await looked_at(service, token)
    assert len(adopts.told) == 1
    adopts.fails = 1
    await at_immich(
        shared_database.execute,
        "UPDATE session_sync_checkpoint SET ack = 'AssetV2|y' WHERE \"sessionId\" = $1 AND type = 'AssetV2'",
        session,
    )
    await looked_at(service, token)
    assert await tags(service, ann, token) == ["session_created", "checkpoints_adopted"]
    for _ in range(2):  # what failed is taken up with the next look, and once
        await looked_at(service, token)
        assert await tags(service, ann, token) == ["session_created", "checkpoints_adopted", "checkpoints_adopted"]
    assert [state is None for _, state in adopts.told] == [True, False, False]


# Errors ---------------------------------------------------------------------------------------------------------------


async def test_refusals_are_immichs_own_in_its_order(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    expired = await at_immich(
        shared_database.sign_in, ann, expiresAt=await at_immich(shared_database.value, "SELECT now()")
    )
    good = await at_immich(shared_database.sign_in, ann)
    can = await at_immich(shared_database.api_key, ann, "sync.stream", "syncCheckpoint.read")
    every = await at_immich(shared_database.api_key, ann, "all")
    cannot = await at_immich(shared_database.api_key, ann, "asset.read")
    for headers, expected in (
        ({"x-immich-share-key": "k", "x-immich-user-token": good}, sound(403, "Forbidden")),
        ({"x-immich-share-slug": "s"}, sound(403, "Forbidden")),
        ({"x-immich-user-token": "guessed", "x-api-key": can}, sound(401, "Invalid user token")),
        ({"x-immich-user-token": expired}, sound(401, "Invalid user token")),
        ({"x-api-key": "guessed"}, sound(401, "Invalid API key")),
        ({"x-api-key": cannot}, sound(403, "Missing required permission: sync.stream")),
        ({"x-api-key": can}, sound(403, "Sync endpoints cannot be used with API keys")),
        ({"x-api-key": every}, sound(403, "Sync endpoints cannot be used with API keys")),
        ({}, sound(401, "Authentication required")),
    ):
        answer = await service.ask("POST", STREAM, json={"types": []}, headers=headers)
        assert (answer.status_code, answer.json) == expected, headers
    for method, permission in (
        ("GET", "syncCheckpoint.read"), ("POST", "syncCheckpoint.update"), ("DELETE", "syncCheckpoint.delete"),
    ):  # fmt: skip
        answer = await service.ask(method, ACK, headers={"x-api-key": cannot}, json={"acks": []})
        assert (answer.status_code, answer.json) == sound(403, f"Missing required permission: {permission}")


async def test_a_session_that_expires_is_out_at_once(workers: Open, shared_database: ImmichDatabase, ann: UUID) -> None:
    service = await workers(shared_database.url, good_for_s=60)
    for lasts_s in (0.5, 2, 8, 32):  # as long as a busy machine needs to ask while it lasts
        soon = await at_immich(shared_database.value, f"SELECT now() + interval '{lasts_s} s'")
        token = await at_immich(shared_database.sign_in, ann, expiresAt=soon)
        if (before := await status(service, token)) == 200:
            break
    assert before == 200
    await asyncio.sleep(lasts_s + 0.05)
    assert await status(service, token) == 401


async def test_what_is_refused_here_names_the_session_in_words(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    token = await at_immich(shared_database.sign_in, ann)
    refused = await service.ask("POST", ACK, token, json={"acks": ["AssetV2|2030-01-01T00:00:00.000000Z|x"]})
    assert refused.status_code == 400
    assert refused.json["message"].endswith(f"start a sync stream (session {sid_of(token)[:12]}…)")
    unknown = await service.ask("POST", ACK, token, json={"acks": ["NothingV1|x"]})
    assert (unknown.status_code, unknown.json) == sound(400, "Invalid ack type: NothingV1")


async def test_tokens_and_keys_of_our_own_do_not_sync(service: Service) -> None:
    issued = await service.sign_in()
    assert await status(service, issued.token) == 401


async def test_without_the_database_nothing_is_said_of_any_token(
    workers: Open, own_server: tuple[PostgresServer, ImmichDatabase]
) -> None:
    server, database = own_server
    token = await at_immich(database.sign_in, await at_immich(database.user, "ann"))
    service = await workers(database.url)
    assert await status(service, token) == 200
    server.stop()
    await asyncio.sleep(OUT_S)
    for each in (token, "a-guess"):
        for method, path, body in (("GET", ACK, None), ("POST", STREAM, {"types": []})):
            answer = await service.ask(method, path, each, json=body)
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True), answer.text
            assert answer.json["message"].startswith("Immich's database does not tell whether this token is good: ")
            assert sid_of(each)[:12] in answer.json["message"]
        asked, sent_to_all = 0, {"types": [], "acks": [], "sid": sid_of(token), "position": ""}
        for route in routes(service.services):
            for operation in route.operations:
                if not set(operation.security) & set(SESSION) or route.path.endswith("/entities"):
                    continue  # entities are not here, whoever asks
                path = re.sub(r"\{\w+\}", sid_of(token), route.path)
                sent = sent_to_all if operation.method in ("POST", "PUT") else None
                answer = await service.ask(operation.method, path, each, json=sent)
                assert (answer.status_code, "retry-after" in answer.headers) == (503, True), (path, answer.text)
                asked += 1
        assert asked > 15
    key = await service.ask("GET", ACK, headers={"x-api-key": "a-guess"})
    assert key.status_code == 503
    assert service.immich is not None
    ok, text = await service.immich.health()
    assert (ok, "every phone is answered 503" in text) == (False, True)
    server.start()
    assert await status(service, token) == 200


async def test_a_token_that_was_good_is_no_guess_however_often_it_comes(
    workers: Open, shared_database: ImmichDatabase, ann: UUID
) -> None:
    service = await workers(shared_database.url, rules=LimitRules(bad_token="3/minute"))
    token = await at_immich(shared_database.sign_in, ann)
    assert await status(service, token) == 200
    await at_immich(shared_database.sign_out, token)
    await asyncio.sleep(OUT_S)
    assert [await status(service, token) for _ in range(8)] == [401] * 8
    assert [await status(service, f"guess{number}") for number in range(5)] == [401, 401, 401, 429, 429]


async def test_a_session_that_is_not_rebuilt_yet_is_not_begun_anew(
    workers: Open, shared_database: ImmichDatabase, ann: UUID
) -> None:
    token = await at_immich(shared_database.sign_in, ann)
    assert await status(await workers(shared_database.url), token) == 200
    service = await workers(shared_database.url)
    partition = service.ledger.partition_of(str(ann))
    stream = keys.stream(partition)
    before = await service.store.command("XLEN", stream, key=stream)
    for name in (keys.session(partition, sid_of(token)), keys.whole(partition)):
        await service.store.command("DEL", name, key=name)
    await at_immich(shared_database.update, "session", (await at_immich(shared_database.session, token))["id"],
                    isPendingSyncReset=True)  # fmt: skip
    for method, path, body in (("GET", ACK, None), ("POST", ACK, {"acks": []}), ("POST", STREAM, {"types": []})):
        answer = await service.ask(method, path, token, json=body)
        assert (answer.status_code, "rebuild" in answer.json["message"]) == (503, True), answer.text
    assert await service.store.command("XLEN", stream, key=stream) == before


async def test_what_a_device_says_of_itself_is_cut(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    token = await at_immich(shared_database.sign_in, ann, deviceType="x" * 100_000, deviceOS="\x07And\nroid")
    assert await status(service, token) == 200
    state = await service.ledger.load(str(ann), sid_of(token))
    assert (text_of(state.device_type), text_of(state.device_os)) == ("x" * 64, "Android")


# Life and death -------------------------------------------------------------------------------------------------------


async def test_whose_row_goes_is_out_within_the_recheck_on_every_worker_and_in_mid_stream(
    workers: Open, shared_database: ImmichDatabase, ann: UUID
) -> None:
    one, other = await workers(shared_database.url), await workers(shared_database.url)
    token = await at_immich(shared_database.sign_in, ann)
    assert [await status(each, token) for each in (one, other)] == [200, 200]
    caller = await one.services.auth.device(_request(token), "sync.stream")
    assert await one.services.auth.still_admits(caller)
    await at_immich(shared_database.sign_out, token)
    await asyncio.sleep(OUT_S)
    assert [await status(each, token) for each in (one, other)] == [401, 401]
    assert not await one.services.auth.still_admits(caller)  # what the guard of a stream asks
    assert await tags(one, ann, token) == ["session_created"]


async def test_acks_go_their_quick_way_for_as_long_as_no_look_is_needed(
    workers: Open, shared_database: ImmichDatabase, ann: UUID
) -> None:
    service = await workers(shared_database.url, good_for_s=60.0)
    token = await at_immich(shared_database.sign_in, ann)
    user, *_, complete = await service.stream(token, "UsersV1")
    ack = QuickAck(service, token, user["ack"])
    assert (user["type"], await ack.sent()) == ("UserV1", 204)
    assert (await tags(service, ann, token))[-1] == "acks_recorded"
    assert await QuickAck(service, "guessed", user["ack"]).sent() is None
    await at_immich(shared_database.sign_out, token)
    assert service.immich is not None
    looks = service.immich._sessions
    now_s = looks._clock
    looks._clock = lambda: now_s() + 61.0
    assert await QuickAck(service, token, complete["ack"]).sent() is None
    assert await ack.sent() is None, "with the head that it was answered for"
    assert await status(service, token) == 401


def _request(token: str) -> Any:
    from tests.unit.test_auth import request

    return request(x_immich_user_token=token)


async def gone_look(service: Service, **options: Any) -> GoneReport:
    """Look for what is gone at Immich, as a worker does."""
    assert service.immich is not None
    return await end_gone(service.ledger, service.immich._tables, **options)


async def hours_pass(service: Service, hours: float = 1) -> list[GoneReport]:
    """Look again and again while time passes."""
    reports = [await gone_look(service)]
    for _ in range(round(hours * 6)):
        service.clock.now_us += GONE_US // 6
        reports.append(await gone_look(service))
    return reports


async def test_a_session_ends_here_an_hour_after_it_is_gone_there_and_goes_on_when_it_is_there_again(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    token, kept = [await at_immich(shared_database.sign_in, ann) for _ in range(2)]
    for each in (token, kept):
        await types_sent(service, each)
    row = await at_immich(shared_database.session, token)
    await at_immich(shared_database.sign_out, token)
    reports = await hours_pass(service, 5 / 6)
    assert [report.ended for report in reports] == [0] * 6
    service.clock.now_us += GONE_US // 6
    report = await gone_look(service)
    assert (report.sessions, report.missing, report.ended, report.failed) == (2, 1, 1, 0)
    last = (await events_of(service, ann, token))[-1]
    assert (tag_of(last), getattr(last, "reason", "")) == ("session_ended", "gone")
    assert await service.store.command("HLEN", keys.gone(), key=keys.gone()) == 2  # `tables` and `looked`

    await at_immich(shared_database.insert, "session", **row)
    await asyncio.sleep(OUT_S)
    assert await status(service, token) == 200
    assert (await tags(service, ann, token))[-3:] == ["session_ended", "session_resumed", "session_created"]
    assert await types_sent(service, token) == ["SyncResetV1"]
    for each in (token, kept):
        assert (await types_sent(service, each))[-1] == "SyncCompleteV1"


async def test_who_was_ended_here_alone_goes_on_with_a_reset(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    token = await at_immich(shared_database.sign_in, ann)
    await types_sent(service, token)
    await service.ledger.execute(str(ann), sid_of(token), EndSession("revoked"))
    assert set(await asyncio.gather(*(status(service, token) for _ in range(8)))) == {200}
    resumed = [tag for tag in await tags(service, ann, token) if tag == "session_resumed"]
    assert len(resumed) == 1
    assert await types_sent(service, token) == ["SyncResetV1"]


async def test_our_own_idleness_ends_no_session_of_immichs(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    token, own = await at_immich(shared_database.sign_in, ann), await service.sign_in()
    assert await status(service, token) == 200
    await note_time(service.store, service.clock.now_us)
    for _ in range(25 * 60):  # it is served all the while
        service.clock.now_us += DAY_US // (24 * 60)
        await note_time(service.store, service.clock.now_us)
    report = await expire(service.ledger, None, idle_us=DAY_US, tombstones_us=DAY_US, elsewhere=("immich",))
    assert report.idle == 1
    assert (await tags(service, ann, token), await status(service, token)) == (["session_created"], 200)
    assert (await service.ledger.devices(own.sid)) == []


async def test_a_deleted_user_is_out_and_syncs_on_once_restored(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    token = await at_immich(shared_database.sign_in, ann)
    await types_sent(service, token)
    await at_immich(
        shared_database.update, "user", ann, deletedAt=await at_immich(shared_database.value, "SELECT now()")
    )
    await asyncio.sleep(OUT_S)
    assert await status(service, token) == 401
    assert sum(report.missing for report in await hours_pass(service, 7 / 6)) == 0
    await at_immich(shared_database.update, "user", ann, deletedAt=None)
    await asyncio.sleep(OUT_S)
    assert (await types_sent(service, token))[-1] == "SyncCompleteV1"
    assert "session_ended" not in await tags(service, ann, token)


async def test_a_restore_signs_nobody_out(workers: Open, own_database: ImmichDatabase) -> None:
    database = own_database
    user = await at_immich(database.user, "ann")
    token = await at_immich(database.sign_in, user)
    users, groups, sessions = [
        await at_immich(database.fetch, f'SELECT * FROM "{name}"') for name in ("user", "cluster_group", "session")
    ]
    service = await workers(database.url)
    assert await status(service, token) == 200
    service.clock.now_us += GONE_US
    await gone_look(service)

    await at_immich(database.execute, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await asyncio.sleep(OUT_S)
    assert await status(service, token) == 503
    with pytest.raises(SourceUnavailable):
        await gone_look(service)
    service.clock.now_us += 2 * GONE_US
    with pytest.raises(SourceUnavailable):
        await gone_look(service)

    await at_immich(database.build)  # its tables are there before its rows
    assert await status(service, token) == 503
    report = await gone_look(service)
    assert (report.wrong, report.ended) == ("it has no users", 0)
    for name, rows in (("cluster_group", groups), ("user", users)):
        for row in rows:
            await at_immich(database.insert, name, **row)
    assert (await gone_look(service)).wrong == "it has no sessions"
    await at_immich(database.sign_in, user)  # somebody is signed in, and our phone's row is not there yet
    assert (await gone_look(service)).missing == 1
    for row in sessions:
        await at_immich(database.insert, "session", **row)
    await asyncio.sleep(OUT_S)
    assert await status(service, token) == 200
    assert await tags(service, user, token) == ["session_created"]
    assert (await gone_look(service)).missing == 0


async def test_nothing_is_believed_to_be_gone_while_somebody_restores_or_what_is_made_last_is_not_there(
    workers: Open, own_database: ImmichDatabase
) -> None:
    token = await at_immich(own_database.sign_in, await at_immich(own_database.user, "ann"))
    service = await workers(own_database.url)
    assert await status(service, token) == 200
    assert (await gone_look(service)).wrong == ""
    restorer = await asyncpg.connect(own_database.url, server_settings={"application_name": "psql"})
    try:
        async with restorer.transaction():
            await restorer.execute("SELECT 1")
            assert (await gone_look(service)).wrong == "somebody restores it"
        assert (await gone_look(service)).wrong == ""
    finally:
        await restorer.close()
    bound = "SELECT conname FROM pg_constraint WHERE conrelid = 'session'::regclass AND contype = 'f'"
    for row in await at_immich(own_database.fetch, bound):
        await at_immich(own_database.execute, f'ALTER TABLE session DROP CONSTRAINT "{row["conname"]}"')
    assert (await gone_look(service)).wrong == "its sessions are not bound to users yet"
    assert await service.store.command("EXISTS", keys.gone(), key=keys.gone()) == 0


@pytest.mark.parametrize("whole_key", [False, True])
async def test_one_session_that_cannot_be_ended_keeps_no_other_from_ending(
    service: Service, shared_database: ImmichDatabase, ann: UUID, whole_key: bool
) -> None:
    await at_immich(shared_database.sign_in, ann)
    tokens = [await at_immich(shared_database.sign_in, ann) for _ in range(3)]
    for token in tokens:
        assert await status(service, token) == 200
        await at_immich(shared_database.sign_out, token)
    partition = service.ledger.partition_of(str(ann))
    damaged, stream = keys.session(partition, sid_of(tokens[0])), keys.stream(partition)
    if whole_key:
        await service.store.command("SET", damaged, "no hash", key=damaged)
    else:
        await service.store.command("HSET", damaged, "created_at_us", "no number", key=damaged)
    await service.store.command("DEL", stream, key=stream)  # from which it could be mended
    report = (await hours_pass(service))[-1]
    assert (report.ended, report.failed) == (2, 1)


async def test_an_hour_counts_only_while_the_same_tables_are_looked_at_without_a_gap(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    await at_immich(shared_database.sign_in, ann)
    token = await at_immich(shared_database.sign_in, ann)
    assert await status(service, token) == 200
    await at_immich(shared_database.sign_out, token)
    await gone_look(service)
    service.clock.now_us += 2 * GONE_US  # nobody looked for two hours
    assert (await gone_look(service)).ended == 0
    name = keys.gone()
    await service.store.command("HSET", name, "tables", "those of before a restore", key=name)
    service.clock.now_us += GONE_US
    assert (await gone_look(service, gap_us=2 * GONE_US)).ended == 0
    assert (await hours_pass(service))[-1].ended == 1


async def test_signing_out_is_immichs_and_said_so(service: Service, shared_database: ImmichDatabase, ann: UUID) -> None:
    token = await at_immich(shared_database.sign_in, ann)
    sid = sid_of(token)
    for method, path in (
        ("DELETE", "/api/sessions"), ("DELETE", f"/api/sessions/{sid}"), ("DELETE", f"/sessions/{sid}"),
        ("POST", "/api/auth/logout"), ("POST", "/auth/logout"), ("POST", "/api/sessions"),
        ("POST", "/ledger/token/refresh"),
    ):  # fmt: skip
        answer = await service.ask(method, path, token)
        assert (answer.status_code, "Account Settings, Authorized Devices" in answer.text) == (400, True), (
            path,
            answer,
        )
    assert await status(service, token) == 200
    whoami = await service.ask("GET", "/ledger/whoami", token)
    assert (whoami.headers["x-ledger-user"], whoami.headers["x-ledger-session"]) == (str(ann), sid_of(token))


# What is written there ------------------------------------------------------------------------------------------------


async def looked_at(service: Service, token: str) -> None:
    """Use a session so that its row is looked at, and what follows from that is written."""
    await asyncio.sleep(OUT_S)
    assert await status(service, token) == 200
    assert service.immich is not None
    await asyncio.gather(*service.immich._writes)


async def test_a_session_that_is_used_here_alone_is_touched_once_a_day(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    token, fresh = [await at_immich(shared_database.sign_in, ann) for _ in range(2)]
    session = (await at_immich(shared_database.session, token))["id"]
    await at_immich(
        shared_database.execute,
        "ALTER TABLE session DISABLE TRIGGER USER;"
        f"UPDATE session SET \"updatedAt\" = now() - interval '25 h' WHERE id = '{session}';"
        "ALTER TABLE session ENABLE TRIGGER USER",
    )
    before, untouched = [await at_immich(shared_database.session, each) for each in (token, fresh)]
    for each in (token, fresh):
        await looked_at(service, each)
    after = await at_immich(shared_database.session, token)
    assert (after["updatedAt"] - before["updatedAt"]).total_seconds() > 24 * 3600
    await looked_at(service, token)
    assert await at_immich(shared_database.session, token) == after
    assert await at_immich(shared_database.session, fresh) == untouched


async def test_a_wish_to_start_over_is_granted_once_and_taken_back(
    workers: Open, shared_database: ImmichDatabase, ann: UUID
) -> None:
    one, other = await workers(shared_database.url), await workers(shared_database.url)
    token = await at_immich(shared_database.sign_in, ann)
    await types_sent(one, token)
    session = (await at_immich(shared_database.session, token))["id"]
    for _ in range(2):
        await at_immich(shared_database.update, "session", session, isPendingSyncReset=True)
        for each in (one, other):
            await looked_at(each, token)
        assert (await at_immich(shared_database.session, token))["isPendingSyncReset"]  # until the device has done it
        assert await types_sent(other, token) == ["SyncResetV1"]
        await looked_at(one, token)
        assert not (await at_immich(shared_database.session, token))["isPendingSyncReset"]
        for each in (other, one, other):
            await looked_at(each, token)
            assert "SyncResetV1" not in await types_sent(each, token)
    asked = [event for event in await events_of(one, ann, token) if tag_of(event) == "sync_reset_requested"]
    assert [getattr(event, "cause", "") for event in asked] == ["immich", "immich"]


async def test_a_second_wish_is_not_taken_back_with_the_first(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    token = await at_immich(shared_database.sign_in, ann, isPendingSyncReset=True)
    assert await types_sent(service, token) == ["SyncResetV1"]  # also at the first look
    session = (await at_immich(shared_database.session, token))["id"]
    await at_immich(shared_database.update, "session", session, isPendingSyncReset=True)
    await looked_at(service, token)
    assert (await at_immich(shared_database.session, token))["isPendingSyncReset"]
    assert await types_sent(service, token) == ["SyncResetV1"]
    await looked_at(service, token)
    assert not (await at_immich(shared_database.session, token))["isPendingSyncReset"]


async def synced_there(database: ImmichDatabase, user: UUID, token: str) -> None:
    """Have an asset, which Immich has sent."""
    asset = await at_immich(database.asset, user)
    session = (await at_immich(database.session, token))["id"]
    (stored,) = await at_immich(database.fetch, 'SELECT "updateId" FROM asset WHERE id = $1', asset)
    row = {"sessionId": session, "type": "AssetV2", "ack": f"AssetV2|{stored['updateId']}"}
    await at_immich(database.insert, "session_sync_checkpoint", **row)
    await at_immich(database.settle)


async def is_wished(database: ImmichDatabase, token: str) -> bool:
    """Tell whether Immich would have a device start over."""
    return bool((await at_immich(database.session, token))["isPendingSyncReset"])


async def comes_to(wished: bool, database: ImmichDatabase, token: str) -> None:
    """Wait until that is so, while nothing is heard of the device."""
    for _ in range(100):
        if await is_wished(database, token) is wished:
            return
        await asyncio.sleep(OUT_S)
    pytest.fail(f"it did not come to {wished}")


async def test_a_wish_stands_until_the_device_could_go_back_without_it(
    workers: Open, shared_database: ImmichDatabase, ann: UUID
) -> None:
    """Immich would send a device that it takes to have something only what is behind that."""
    token = await at_immich(shared_database.sign_in, ann, isPendingSyncReset=True)
    await synced_there(shared_database, ann, token)
    service = await workers(shared_database.url, adoption=Adopting(lambda: 0))
    assert await types_sent(service, token, "AssetsV2") == ["SyncResetV1"]
    for _ in range(3):
        await looked_at(service, token)
        assert await is_wished(shared_database, token), "it has nothing yet"
    assert await types_sent(service, token, "AssetsV2") == ["AssetV2", "SyncCompleteV1"]
    await comes_to(False, shared_database, token)
    assert await types_sent(service, token, "AssetsV2") == ["SyncCompleteV1"]


@pytest.mark.parametrize("by", ["an operator", "the device"])
async def test_immich_knows_of_a_device_that_starts_over_here_until_it_has_all_again(
    workers: Open, shared_database: ImmichDatabase, ann: UUID, by: str
) -> None:
    token = await at_immich(shared_database.sign_in, ann)
    await synced_there(shared_database, ann, token)
    service = await workers(shared_database.url, adoption=Adopting(lambda: 0))
    await types_sent(service, token, "AssetsV2")
    assert not await is_wished(shared_database, token)
    if by == "an operator":
        await service.ledger.execute(str(ann), sid_of(token), RequestReset(on=True, by=plain("operator")))
        lines = await service.stream(token, "AssetsV2")
        assert [line["type"] for line in lines] == ["SyncResetV1"]
        assert await is_wished(shared_database, token), "before the device can have emptied itself"
        assert (await service.ask("POST", ACK, token, json={"acks": [lines[0]["ack"]]})).status_code == 204
    else:
        lines = await service.stream(token, "AssetsV2", reset=True)
        assert [line["type"] for line in lines] == ["AssetV2", "SyncCompleteV1"]
    assert await is_wished(shared_database, token)
    assert await types_sent(service, token, "AssetsV2") == ["AssetV2", "SyncCompleteV1"], "and not once more"
    await comes_to(False, shared_database, token)
    assert await types_sent(service, token, "AssetsV2") == ["SyncCompleteV1"]


async def test_no_more_devices_are_watched_than_a_worker_can_look_at(
    workers: Open, shared_database: ImmichDatabase, ann: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.immich.resets.WISHES", 2)
    service = await workers(shared_database.url)
    tokens = [await at_immich(shared_database.sign_in, ann, isPendingSyncReset=True) for _ in range(4)]
    for token in tokens:
        assert await status(service, token) == 200
    assert service.immich is not None
    assert len(service.immich._resets.watched) == 2
    for token in tokens:
        assert await types_sent(service, token) == ["SyncResetV1"], "each is seen to at its own requests"
        await looked_at(service, token)
        await comes_to(False, shared_database, token)


async def test_without_the_grant_a_wish_is_granted_once_until_it_is_taken_back_there(
    workers: Open, postgres: PostgresServer, shared_database: ImmichDatabase, ann: UUID
) -> None:
    role = f"reader_{uuid4().hex[:8]}"
    name = shared_database.url.rpartition("/")[2]
    postgres.psql(
        f"CREATE ROLE {role} LOGIN PASSWORD 'only-for-tests'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};"
        f"GRANT pg_read_all_stats TO {role}",
        name,
    )
    url = postgres.url_of(name, user=role)
    try:
        one = await workers(url)
        token = await at_immich(shared_database.sign_in, ann, isPendingSyncReset=True)
        assert await types_sent(one, token) == ["SyncResetV1"]
        other = await workers(url)  # as after a restart, too
        for each in (one, other, one):
            await looked_at(each, token)
            assert "SyncResetV1" not in await types_sent(each, token)
        row = await at_immich(shared_database.session, token)
        assert row["isPendingSyncReset"]
        for wanted in (False, True):
            await at_immich(shared_database.update, "session", row["id"], isPendingSyncReset=wanted)
            await looked_at(other, token)
        assert await types_sent(other, token) == ["SyncResetV1"]
        assert one.immich is not None
        ok, text = await one.immich.health()
        assert (ok, "without the grant of UPDATE" in text) == (True, True)
    finally:
        postgres.psql(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}", name)


# Adoption by its own rules --------------------------------------------------------------------------------------------


async def test_a_phone_that_synced_at_immich_goes_on_where_it_stood(
    workers: Open, shared_database: ImmichDatabase, ann: UUID
) -> None:
    """There, here, there again, cleared there by an update: each is taken up with the next look."""
    seen = await at_immich(shared_database.asset, ann)
    token = await at_immich(shared_database.sign_in, ann)
    session = (await at_immich(shared_database.session, token))["id"]
    (stored,) = await at_immich(shared_database.fetch, 'SELECT "updateId" FROM asset WHERE id = $1', seen)

    async def acked(name: str, update_id: object) -> None:
        row = {"sessionId": session, "type": name, "ack": f"{name}|{update_id}"}
        await at_immich(shared_database.insert, "session_sync_checkpoint", **row)

    await acked("AssetV2", stored["updateId"])
    service = await workers(shared_database.url, adoption=Adopting(lambda: 0))
    assert {each["type"] for each in (await service.ask("GET", ACK, token)).json} == {"AssetDeleteV1", "AssetV2"}
    assert await tags(service, ann, token) == ["session_created", "checkpoints_adopted"]
    await looked_at(service, token)
    assert await tags(service, ann, token) == ["session_created", "checkpoints_adopted"], "nothing is new"

    await acked("AlbumV2", stored["updateId"])
    await looked_at(service, token)
    assert (await tags(service, ann, token))[2:] == ["checkpoints_adopted"], "it was there again"
    await at_immich(
        shared_database.execute,
        "DELETE FROM session_sync_checkpoint WHERE \"sessionId\" = $1 AND type = 'AlbumV2'",
        session,
    )
    await looked_at(service, token)
    assert (await tags(service, ann, token))[3:] == ["checkpoints_cleared"]
    assert "AssetV2" in {each["type"] for each in (await service.ask("GET", ACK, token)).json}
    await looked_at(service, token)
    assert len(await tags(service, ann, token)) == 4, "cleared once"


async def test_where_the_ledger_is_lost_no_phone_of_immichs_is_out(
    service: Service, shared_database: ImmichDatabase, ann: UUID
) -> None:
    token = await at_immich(shared_database.sign_in, ann)
    assert await status(service, token) == 200
    await service.store.command("FLUSHALL", key=b"any")
    for path in ("/api/users/me", ACK):
        answer = await service.ask("GET", path, token)
        assert (answer.status_code, "restore" in answer.json["message"]) == (503, True), path
    assert await status(service, "guessed") == 401


async def test_immichs_cookie_opens_the_console(service: Service, shared_database: ImmichDatabase, ann: UUID) -> None:
    phone = await at_immich(shared_database.sign_in, ann)
    assert (await service.ask("GET", ACK, phone)).status_code == 200
    user = Browser(service)
    token = user.cookies["immich_access_token"] = await at_immich(shared_database.sign_in, ann)
    assert (await user.open("/console")).headers["location"] == "/console/my-devices"
    mine = (await user.open("/console/my-devices")).text
    assert sid_of(phone) in mine
    assert "Sign out" not in mine, "that is done at Immich"
    assert (await user.open("/console/devices")).status_code == 403
    assert sid_of(token) not in mine, "who only looks gets no session"
    reset = f"/console/devices/{sid_of(phone)}/reset"
    assert (await user.post(reset, {}, origin="https://evil.example")).status_code == 403
    assert (await user.post(reset, {})).status_code == 403, "a form without its token"
    assert (await user.send(reset, {"what": "all"})).status_code == 303
    assert (await tags(service, ann, phone))[-1] == "sync_reset_requested"
    assert (await user.send(f"/console/devices/{sid_of(phone)}/sign-out", page=reset)).status_code == 400

    boss = await at_immich(shared_database.user, f"boss-{uuid4().hex[:8]}", isAdmin=True)
    admin = Browser(service)
    there = admin.cookies["immich_access_token"] = await at_immich(shared_database.sign_in, boss)
    assert (await admin.open(f"/console/devices/{sid_of(phone)}")).status_code == 200
    await at_immich(shared_database.sign_out, there)
    await asyncio.sleep(OUT_S)
    assert (await admin.open("/console/devices")).status_code == 303
