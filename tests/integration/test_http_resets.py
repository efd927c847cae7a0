"""When a device is asked to start over, and when that is over: over HTTP, on the embedded catalog and on a source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest

from ledger.entity_types import ENTITY_TYPES
from ledger.store.interface import Store, open_store
from projections.entities.entity import read_line
from tests.support.phones.http import Service, serving
from tests.support.sources.memory_source import Change
from tests.support.sources.samples import USER_ID, sample
from tests.support.sources.troubled_source import TroubledSource

SECOND_US: Final = 1_000_000
ALL: Final = ("UsersV1", "AssetsV2")


class Phone:
    """A signed-in phone that acks each line it reads."""

    def __init__(self, service: Service, token: str, sid: str) -> None:
        self.service, self.token, self.sid = service, token, sid

    async def write(self, **data: Any) -> None:
        """Write entities by type: the fields that differ from the samples."""
        for entity_type, fields in data.items():
            made = {"assetId": fields["id"]} if entity_type == "AssetDeleteV1" else sample(entity_type, **fields)
            line = {"type": entity_type, "data": made}
            assert not (await self.service.catalog.put("lib", [read_line(msgspec.json.encode(line))])).refused

    async def purge(self) -> None:
        """Purge all delete markers there are."""
        catalog = self.service.catalog
        await catalog.purge_tombstones("lib", await catalog.horizon("lib"))

    async def sync(self, *types: str, acks: bool = True, **body: Any) -> list[str]:
        """Stream and acknowledge; tell the types of the lines."""
        lines = await self.service.stream(self.token, *(types or ALL), **body)
        for line in lines if acks else ():
            await self.acknowledge(line["ack"])
        return [line["type"] for line in lines]

    async def acknowledge(self, ack: str) -> None:
        answer = await self.service.ask("POST", "/api/sync/ack", self.token, json={"acks": [ack]})
        assert answer.status_code == 204, answer.text

    async def clear(self, *types: str) -> None:
        body = {"types": types} if types else {}
        answer = await self.service.ask("DELETE", "/api/sync/ack", self.token, json=body)
        assert answer.status_code == 204, answer.text

    async def acked(self) -> list[str]:
        """List the types that have a checkpoint."""
        return [held["type"] for held in (await self.service.ask("GET", "/api/sync/ack", self.token)).json]

    async def request_reset(self, *, on: bool) -> None:
        """Ask for a reset, or take it back, as the app's owner does."""
        answer = await self.service.ask("PUT", f"/api/sessions/{self.sid}", self.token, json={"isPendingSyncReset": on})
        assert answer.status_code == 200
        assert answer.json["isPendingSyncReset"] is on

    async def story(self) -> list[str]:
        """List the events of the session, oldest first."""
        answer = await self.service.ask("GET", f"/ledger/sessions/{self.sid}/events", self.token)
        return [event["event"] for event in reversed(answer.json["events"])]

    async def explained(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.service.ask("GET", f"/ledger/sessions/{self.sid}/explain", self.token)).json
        return found


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    """An empty store."""
    store = await open_store(valkey_url)
    yield store
    await store.close()


@pytest.fixture
async def phone(store: Store) -> AsyncIterator[Phone]:
    """A phone that has synced a library of one user and three assets."""
    async with serving(store) as service:
        issued = await service.sign_in(USER_ID)
        phone = Phone(service, issued.token, issued.sid)
        await phone.write(UserV1={"id": USER_ID})
        for number in range(3):
            await phone.write(AssetV2={"id": f"a{number}", "ownerId": USER_ID, "checksum": f"{number:=<28}"})
        assert await phone.sync() == ["UserV1", "AssetV2", "AssetV2", "AssetV2", "SyncCompleteV1"]
        yield phone


@pytest.mark.parametrize("listed", ["every type", "what GET lists"])
async def test_a_reset_ends_with_its_ack_also_where_everything_was_cleared_by_list(phone: Phone, listed: str) -> None:
    await phone.write(AssetDeleteV1={"id": "a1"})
    await phone.purge()
    await phone.clear(*(ENTITY_TYPES if listed == "every type" else await phone.acked()))
    assert await phone.sync(acks=False) == ["SyncResetV1"]
    assert await phone.sync() == ["SyncResetV1"]
    assert await phone.sync() == ["UserV1", "AssetV2", "AssetV2", "SyncCompleteV1"]
    assert await phone.sync() == ["SyncCompleteV1"]
    assert (await phone.story()).count("reset_sent") == 1


async def test_a_phone_that_may_have_emptied_itself_gets_everything_though_the_reset_was_taken_back(
    phone: Phone,
) -> None:
    await phone.request_reset(on=True)
    assert await phone.sync(acks=False) == ["SyncResetV1"], "it empties itself, and is killed before its ack"
    await phone.request_reset(on=False)
    codes = [finding["code"] for finding in (await phone.explained())["findings"]]
    assert codes[0] == "reset_unanswered"
    assert await phone.sync(acks=False) == ["SyncResetV1"], "whether it has is not known"
    assert await phone.sync() == ["SyncResetV1"]
    assert await phone.sync() == ["UserV1", "AssetV2", "AssetV2", "AssetV2", "SyncCompleteV1"]
    events = await phone.story()
    assert events.count("reset_sent") == 1
    asked = events.index("sync_reset_requested")
    assert events[asked : asked + 4] == [
        "sync_reset_requested", "reset_sent", "sync_reset_requested", "checkpoints_cleared",
    ]  # fmt: skip


async def test_a_reset_that_is_taken_back_before_it_was_sent_is_none(phone: Phone) -> None:
    await phone.request_reset(on=True)
    await phone.request_reset(on=False)
    assert await phone.sync() == ["SyncCompleteV1"]


@pytest.mark.parametrize("written", [True, False])
async def test_a_stream_that_broke_off_hides_no_missed_delete(phone: Phone, *, written: bool) -> None:
    """Neither behind a newer snapshot that other types completed, nor at the same one."""
    await phone.write(AssetDeleteV1={"id": "a1"})
    if written:
        await phone.write(UserV1={"id": USER_ID, "name": "B"})
    assert "AssetDeleteV1" in await phone.sync(acks=False), "it breaks off before any of it is stored"
    assert (await phone.sync("UsersV1"))[-1] == "SyncCompleteV1"
    await phone.purge()
    assert await phone.sync("UsersV1") == ["SyncCompleteV1"], "of users it missed nothing"
    assert await phone.sync() == ["SyncResetV1"]
    assert await phone.sync() == ["UserV1", "AssetV2", "AssetV2", "SyncCompleteV1"]


async def test_a_reset_acknowledged_a_second_time_hides_no_missed_delete(phone: Phone) -> None:
    await phone.request_reset(on=True)
    assert await phone.sync() == ["SyncResetV1"]
    await phone.sync()
    await phone.acknowledge("SyncResetV1|reset")
    await phone.write(AssetDeleteV1={"id": "a1"})
    await phone.purge()
    assert await phone.sync() == ["SyncResetV1"]


async def test_a_horizon_that_is_below_all_deletes_that_are_kept_empties_nobody(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    source = TroubledSource(lambda: service.clock.now_us)
    async with serving(store, source=source) as service:
        issued = await service.sign_in(USER_ID)
        phone = Phone(service, issued.token, issued.sid)
        source.write("lib", [Change("asset", "a1")])
        source.lags_us, source.keeps_us = 10 * SECOND_US, 20 * SECOND_US
        assert (await phone.sync("AssetsV2"))[-1] == "SyncCompleteV1"
        source.floor_us = service.clock() + 5 * SECOND_US
        for _ in range(2):
            answer = await service.ask("POST", "/api/sync/stream", phone.token, json={"types": ["AssetsV2"]})
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
        assert [record.getMessage().partition(": ")[2][:29] for record in caplog.records] == [
            "The library can be read up to"
        ] * 2
        source.floor_us = None
        assert await phone.sync("AssetsV2") == ["SyncCompleteV1"], "what it holds it keeps"
        assert "reset_sent" not in await phone.story()
