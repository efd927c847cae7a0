"""The version of the protocol that is announced, and what apps ask for that this version does not know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from projections.entities.postgres.mapping.from_toml import load_mapping, read_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from projections.entities.protocol_version import ProtocolVersion
from projections.entities.registry import REQUEST_TYPES
from projections.unknown_types import is_well_formed
from tests.immich.database import ImmichDatabase
from tests.immich.schemas import Version
from tests.support.phones.http import START_US, Service, serving
from tests.support.stores.fake_store import FakeStore

NEW = ("MoodsV1", "AssetFacesV14")


@pytest.fixture
async def beside() -> AsyncIterator[Service]:
    """A service beside a backend."""
    async with serving(FakeStore(), beside_backend=True) as service:
        yield service


async def version_of(service: Service) -> Any:
    return (await service.ask("GET", "/api/server/version")).json


async def told(service: Service) -> Any:
    return (await service.ask("GET", "/readyz")).json["protocol"]


async def test_what_a_setting_says_is_announced_everywhere() -> None:
    async with serving(FakeStore(), announced=ProtocolVersion(3, 3, 0)) as service:
        assert await version_of(service) == {"major": 3, "minor": 3, "patch": 0, "prerelease": None}
        about = await service.ask("GET", "/api/server/about", (await service.sign_in()).token)
        assert about.json["version"] == "v3.3.0"
        assert await told(service) == {
            "version": "3.3.0", "text": "as LEDGER_PROTOCOL_VERSION says", "unknownTypes": [],
        }  # fmt: skip


async def test_by_itself_a_type_that_is_unknown_is_refused_and_those_of_3_3_are_served() -> None:
    async with serving(FakeStore()) as service:
        device = await service.sign_in()
        answer = await service.ask("POST", "/api/sync/stream", device.token, json={"types": ["UsersV1", *NEW]})
        assert (answer.status_code, answer.json["message"]) == (400, "Validation failed")
        assert [error["path"] for error in answer.json["errors"]] == [["types", 1], ["types", 2]]
        answer = await service.ask("DELETE", "/api/sync/ack", device.token, json={"types": ["MoodV1"]})
        assert answer.status_code == 400
        lines = await service.stream(device.token, *REQUEST_TYPES)
        assert {"AuthUserV1", "AuthUserV2", "SyncCompleteV1"} <= {line["type"] for line in lines}


async def test_beside_a_backend_what_is_unknown_is_left_out_counted_and_told(beside: Service) -> None:
    device = await beside.sign_in()
    lines = await beside.stream(device.token, "AuthUsersV1", *NEW, NEW[0])
    assert [line["type"] for line in lines] == ["AuthUserV1", "SyncCompleteV1"]
    [complete] = await beside.stream(device.token, NEW[0])
    assert complete["type"] == "SyncCompleteV1"
    assert {count.name: count.value for count in await beside.counters.all()}["unknown_types"] == 3
    found = await told(beside)
    assert found["unknownTypes"] == sorted(NEW)
    assert "MoodsV1 (last at 2023-11-14T22:13:20.000000Z)" in found["text"]
    assert "upgrade this service" in found["text"]
    answer = await beside.ask("GET", f"/ledger/sessions/{device.sid}/explain", device.token)
    [finding] = [one for one in answer.json["findings"] if one["code"] == "types_left_out"]
    assert (finding["weight"], "MoodsV1" in finding["says"]) == ("note", True)


async def test_beside_a_backend_checkpoints_of_unknown_types_may_be_forgotten(beside: Service) -> None:
    """The app does so once for each new version, before its first stream; a refusal would end its sync."""
    device = await beside.sign_in()
    lines = await beside.stream(device.token, "AuthUsersV1", "UsersV1")
    acks = [line["ack"] for line in lines]
    assert (await beside.ask("POST", "/api/sync/ack", device.token, json={"acks": acks})).status_code == 204
    answer = await beside.ask("DELETE", "/api/sync/ack", device.token, json={"types": ["MoodV1", "AuthUserV1"]})
    assert answer.status_code == 204
    held = (await beside.ask("GET", "/api/sync/ack", device.token)).json
    assert {ack["type"] for ack in held} == {"UserV1", "SyncCompleteV1"}
    answer = await beside.ask("DELETE", "/api/sync/ack", device.token, json={"types": ["MoodV1"]})
    assert answer.status_code == 204
    assert len((await beside.ask("GET", "/api/sync/ack", device.token)).json) == 2, "not all, as without types"


@pytest.mark.parametrize(
    "name", ["", "x", "moodsV1", "MoodsV", "MoodsV0", "Moods", "MoodsV1|x", "MoodsV100", "ÄäV1", f"{'M' * 61}V1"]
)
async def test_what_no_later_version_could_ask_for_is_refused_there_too(beside: Service, name: str) -> None:
    device = await beside.sign_in()
    answer = await beside.ask("POST", "/api/sync/stream", device.token, json={"types": [NEW[0], name]})
    assert answer.status_code == 400
    assert [error["path"] for error in answer.json["errors"]] == [["types", 1]]
    assert await beside.unknown_types.all(START_US) == []  # type: ignore[union-attr]


async def test_nobody_without_a_session_is_noted(beside: Service) -> None:
    answer = await beside.ask("POST", "/api/sync/stream", "nobody", json={"types": [NEW[0]]})
    assert answer.status_code == 401
    assert (await told(beside))["unknownTypes"] == []


def test_every_type_there_is_is_well_formed() -> None:
    assert all(map(is_well_formed, REQUEST_TYPES))


# What a backend's database says


async def announced(url: str, mapping: str = "immich") -> tuple[Any, Any, Any]:
    """Tell what a service on a database announces, how it tells of that, and whether it is beside a backend."""
    postgres = await Postgres.open(url, size=2, wait_s=5, statement_timeout_s=10)
    try:
        source = PostgresSource(postgres, load_mapping("immich") if mapping == "immich" else read_mapping(mapping, "m"))
        async with serving(FakeStore(), source=source) as service:
            version = await version_of(service)
            return (
                (version["major"], version["minor"], version["patch"]),
                (await told(service))["text"],
                service.look.is_beside_backend,
            )
    finally:
        await postgres.close()


SAYS = "as the backend's database says"
RAN: tuple[tuple[list[str], tuple[int, int, int], str], ...] = (
    (["3.2.2"], (3, 2, 2), SAYS),
    (["3.2.2", "3.3.0"], (3, 3, 0), SAYS),
    (["3.3.0", "3.2.2"], (3, 2, 2), SAYS),
    (["v3.3.7"], (3, 3, 7), SAYS),
    (["4.1.0"], (3, 3, 1), "the backend is 4.1.0, whose types this version does not know: upgrade this service"),
    (["nightly"], (3, 2, 2), "by default"),
    ([], (3, 2, 2), "by default"),
)


def test_the_version_that_immich_ran_last_is_announced_as_far_as_its_types_are_known(postgres_url: str) -> None:
    with ImmichDatabase(postgres_url) as database:
        database.build()
        for ran, version, text in RAN:
            database.execute("DELETE FROM version_history")
            for one in ran:
                database.insert("version_history", version=one)
            assert asyncio.run(announced(postgres_url)) == (version, text, True), ran
        database.execute("DROP TABLE version_history")
        assert asyncio.run(announced(postgres_url)) == ((3, 2, 2), "by default", True)


def test_a_database_of_your_own_is_no_backend(postgres_url: str) -> None:
    mapping = """
[[entities.UserDeleteV1]]
data = { userId = 'd.id' }
from = 'gone d'
where = 'd.owner = :library'
updated_at = 'd.at'
id = 'd.id'
"""
    assert asyncio.run(announced(postgres_url, mapping)) == ((3, 2, 2), "by default", False)


def test_a_backend_that_is_down_is_what_it_was(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def over_an_outage() -> list[Any]:
        postgres = await Postgres.open(postgres_url, size=1, wait_s=0.3, statement_timeout_s=10)
        source = PostgresSource(postgres, load_mapping("immich"))
        async with serving(FakeStore(), source=source) as service:
            monkeypatch.setattr("ops.opening.sources.BACKEND_S", 0.0)
            found = [await version_of(service)]
            await postgres.close()
            return [*found, await version_of(service)]

    with ImmichDatabase(postgres_url) as database:
        version: Version = "3.3"
        database.build(version)
    first, second = asyncio.run(over_an_outage())
    assert first == second == {"major": 3, "minor": 3, "patch": 0, "prerelease": None}
