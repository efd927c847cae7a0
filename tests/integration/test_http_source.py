"""A source with a horizon that moves by itself, and one in trouble: what devices, operators and `explain` get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

import ops.opening.sources
from ledger import keys
from ledger.positions import iso_from_us
from ledger.store.interface import Store, open_store
from ops.opening.sources import SourceLook
from projections.entities.source import HeldBack
from projections.explain import library
from tests.support.phones.http import Live, Service, serving
from tests.support.phones.raw_stream import RawStream
from tests.support.sources.memory_source import REQUESTS, Change
from tests.support.sources.troubled_source import TroubledSource

MINUTE_US: Final = 60_000_000
HOUR_US: Final = 60 * MINUTE_US
STREAM: Final = "/api/sync/stream"
DOWN: Final = "The database cannot be reached"
ASSET: Final = Change("asset", "a1")


class Scene:
    """The app on a source of the test's, one signed-in device, and time that passes."""

    def __init__(self, service: Service, source: TroubledSource, token: str, sid: str) -> None:
        self.service, self.source, self.token, self.sid = service, source, token, sid

    def write(self, *changes: Change) -> None:
        """Write to the library; a moment later the horizon is above."""
        self.source.write("lib", changes)
        self.service.clock.now_us += MINUTE_US

    async def poll(self, *types: str, later_us: int = 0, reset: bool = False) -> list[dict[str, Any]]:
        """Ask for a stream, some time later, and return its lines."""
        self.service.clock.now_us += later_us
        return await self.service.stream(self.token, *(types or REQUESTS), reset=reset)

    async def acknowledge(self, *lines: dict[str, Any]) -> None:
        """Send the acks of lines."""
        answer = await self.service.ask(
            "POST", "/api/sync/ack", self.token, json={"acks": [line["ack"] for line in lines]}
        )
        assert answer.status_code == 204, answer.text

    async def events(self) -> int:
        """Count the session's events."""
        return (await self.service.ledger.load("ann", self.sid)).seq

    async def counted(self) -> dict[tuple[str, str], int]:
        """Read the counters that are not 0."""
        return {(each.name, each.label_value): each.value for each in await self.service.counters.all() if each.value}

    async def explained(self) -> dict[str, Any]:
        """Ask why."""
        answer = await self.service.ask("GET", f"/ledger/sessions/{self.sid}/explain", self.token)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json
        return found


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    """An empty store."""
    store = await open_store(valkey_url)
    yield store
    await store.close()


@pytest.fixture
async def scene(store: Store) -> AsyncIterator[Scene]:
    source = TroubledSource(lambda: service.clock.now_us)
    async with serving(store, source=source) as service:
        issued = await service.sign_in()
        yield Scene(service, source, issued.token, issued.sid)


@pytest.mark.parametrize("polls", [100, pytest.param(1000, marks=pytest.mark.soak)])
async def test_idle_polls_append_nothing(scene: Scene, polls: int) -> None:
    scene.write(ASSET)
    lines = await scene.poll()
    await scene.acknowledge(*lines)
    first, events = lines[-1], await scene.events()
    assert first["ids"] == [iso_from_us(scene.service.clock.now_us - 1_000_000)]
    for _ in range(polls):  # as many as there are of one a minute, or fewer in the same time
        assert await scene.poll(later_us=1000 * MINUTE_US // polls) == [first]
    assert await scene.events() == events
    [later] = await scene.poll(later_us=8 * HOUR_US)
    assert later["ids"] > first["ids"], "once a day it moves"
    assert await scene.events() == events + 1
    assert await scene.poll(later_us=MINUTE_US) == [later]
    await scene.acknowledge(later)
    assert await scene.poll(later_us=MINUTE_US) == [later]
    assert await scene.events() == events + 2, "one for the stream, one for the ack"


async def test_what_is_written_moves_the_snapshot(scene: Scene) -> None:
    [empty] = await scene.poll()
    scene.write(ASSET)
    lines = await scene.poll()
    assert [line["type"] for line in lines] == ["AssetV2", "SyncCompleteV1"]
    assert lines[-1]["ids"] > empty["ids"]
    await scene.acknowledge(empty)  # late: it was offered, so it is taken
    await scene.acknowledge(*lines)
    assert await scene.poll(later_us=MINUTE_US) == [lines[-1]]


async def test_types_that_are_new_get_a_snapshot_of_their_own(scene: Scene) -> None:
    [first] = await scene.poll("AssetsV2")
    assert await scene.poll("AssetsV2", later_us=MINUTE_US) == [first]
    [both] = await scene.poll("AssetsV2", "AlbumsV2", later_us=MINUTE_US)
    assert both["ids"] > first["ids"]
    events = await scene.events()
    for types in (("AssetsV2",), ("AlbumsV2",), ("AssetsV2", "AlbumsV2")):
        [poll] = await scene.poll(*types, later_us=MINUTE_US)
        assert poll["ids"] == both["ids"]
    assert await scene.events() == events


async def test_after_a_reset_there_is_a_new_one(scene: Scene) -> None:
    scene.write(ASSET)
    lines = await scene.poll()
    await scene.acknowledge(*lines)
    again = await scene.poll(reset=True, later_us=MINUTE_US)
    assert [line["type"] for line in again] == ["AssetV2", "SyncCompleteV1"]
    assert again[-1]["ids"] > lines[-1]["ids"]
    await scene.acknowledge(*again)
    answer = await scene.service.ask("DELETE", "/api/sync/ack", scene.token, json={"types": ["AlbumV2"]})
    assert answer.status_code == 204
    [cleared] = await scene.poll(later_us=MINUTE_US)
    assert cleared["ids"] > again[-1]["ids"]
    assert await scene.poll(later_us=MINUTE_US) == [cleared]


async def test_short_lived_delete_markers_reset_nobody_who_polls(scene: Scene) -> None:
    scene.source.keeps_us = 12 * HOUR_US
    scene.write(ASSET)
    await scene.acknowledge(*await scene.poll())
    snapshots = set()
    for _ in range(72):
        [line] = await scene.poll(later_us=HOUR_US)
        assert line["type"] == "SyncCompleteV1"
        await scene.acknowledge(line)
        snapshots.add(line["ack"])
    assert 72 / 12 < len(snapshots) <= 72 / 6 + 1
    [reset] = await scene.poll(later_us=13 * HOUR_US)
    assert reset["type"] == "SyncResetV1", "and one that was away starts over"


async def test_a_source_that_is_down_stops_streams_and_nothing_else(scene: Scene) -> None:
    scene.write(ASSET)
    lines = await scene.poll()
    scene.source.down = DOWN
    ask = scene.service.ask
    for path, body in ((STREAM, {"types": ["AssetsV2"]}), ("/sync/stream", {"types": ["AssetsV2"]})):
        answer = await ask("POST", path, scene.token, json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "source" in answer.json["message"]
        assert DOWN not in answer.text
    await scene.acknowledge(*lines)
    assert len((await ask("GET", "/api/sync/ack", scene.token)).json) == len(lines)
    other = await scene.service.sign_in()
    assert len((await ask("GET", "/api/sessions", other.token)).json) == 2
    assert (await ask("POST", "/api/auth/logout", other.token)).status_code == 200
    assert (await scene.counted())["source_unavailable", ""] == 2
    scene.source.down = ""
    assert [line["type"] for line in await scene.poll()] == ["SyncCompleteV1"]


async def test_ready_tells_how_the_source_is(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = (await scene.service.ask("GET", "/readyz")).json
    assert ready["source"] == {"kind": "catalog", "ok": True, "text": "as a source should be"}
    scene.source.down = DOWN
    answer = await scene.service.ask("GET", "/readyz")
    assert (answer.status_code, answer.json["source"]) == (200, {"kind": "catalog", "ok": False, "text": DOWN})
    scene.source.hangs = True
    monkeypatch.setattr(ops.opening.sources, "ANSWER_S", 0.05)
    answers = await asyncio.gather(*(scene.service.ask("GET", "/readyz") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json["source"]["text"] for answer in answers} == {"no answer within 0.05 s"}
    await scene.service.look.close()


async def test_all_who_ask_at_once_for_the_health_get_one_answer() -> None:
    asked = 0

    class Counting(TroubledSource):
        async def health(self) -> Any:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0)
            return await super().health()

    look = SourceLook("postgres", Counting(lambda: 0))
    assert {found.kind for found in await asyncio.gather(*(look.health() for _ in range(50)))} == {"postgres"}
    assert asked == 1
    await look.health()
    assert asked == 2
    await look.close()


async def test_a_hanging_source_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.opening.sources, "ANSWER_S", 0.01)
    source = TroubledSource(lambda: 0)
    source.hangs = True
    look = SourceLook("gumnut", source)
    assert not (await look.health()).ok
    await asyncio.wait_for(look.close(), 5)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_users_whom_their_identity_describes_need_no_source(scene: Scene) -> None:
    scene.source.down = DOWN
    answer = await scene.service.ask("GET", "/api/users/me", scene.token)
    assert answer.status_code == 503, "nobody knows more of this user than an id"
    identities = scene.service.identities
    await identities.link("ann", "lib", "https://id.example.org", "1", email="ann@example.org", name="Ann", now_us=1)
    answer = await scene.service.ask("GET", "/api/users/me", scene.token)
    assert (answer.status_code, answer.json["email"], answer.json["name"]) == (200, "ann@example.org", "Ann")


async def test_what_streams_pass_over_is_counted(scene: Scene) -> None:
    scene.write(ASSET, Change("album", "b1"))
    scene.source.passes_over = {"AlbumV2": 3}
    await scene.acknowledge(*await scene.poll())
    assert await scene.counted() == {("rows_held_back", "AlbumV2"): 3}
    await scene.poll(reset=True)
    assert await scene.counted() == {("rows_held_back", "AlbumV2"): 6}


async def test_explain_says_that_the_source_is_down(scene: Scene) -> None:
    scene.write(ASSET)
    await scene.poll()
    scene.source.down = DOWN
    found = await scene.explained()
    assert [(each["weight"], each["code"]) for each in found["findings"]] == [("stops", "source_unavailable")]
    assert DOWN in found["summary"]
    assert found["source"] == {"kind": "memory", "ok": False, "text": DOWN, "lagsS": 0}
    assert (found["next"]["sends"], found["horizon"]) == ("unknown", None)


async def test_explain_says_what_is_held_back(scene: Scene) -> None:
    scene.write(ASSET)
    await scene.acknowledge(*await scene.poll())
    scene.source.holds = [
        HeldBack("AlbumV2", 1, "missing_parent", "b9", "user|u9"),
        HeldBack("AssetV2", 2, "unfit", "a7", "checksum"),
        HeldBack("MemoryV1", 7, "missing_parent", "m1", "user|u9"),
    ]
    found = await scene.explained()
    assert [(each["weight"], each["code"]) for each in found["findings"]] == [
        ("hinders", "rows_held_back"),
        ("hinders", "rows_unfit"),
        ("note", "up_to_date"),
    ]
    said = found["findings"][0]["says"]
    assert "1 row of AlbumV2, like b9, which needs the user u9" in said
    assert "MemoryV1" not in said, "it was not asked for"
    assert "2 rows of AssetV2, like a7, at checksum" in found["findings"][1]["says"]
    assert found["heldBack"][0] == {
        "type": "AlbumV2", "rows": 1, "reason": "missing_parent", "example": "b9", "needs": "user|u9",
    }  # fmt: skip


async def test_explain_says_that_the_source_lags(scene: Scene) -> None:
    scene.write(ASSET)
    await scene.acknowledge(*await scene.poll())
    scene.service.clock.now_us += HOUR_US
    scene.source.lags_us = 20 * MINUTE_US
    found = await scene.explained()
    assert [each["code"] for each in found["findings"]] == ["source_lags", "up_to_date"]
    assert "1,200 s ago" in found["summary"]
    assert "as a source should be" in found["summary"]
    assert found["source"]["lagsS"] == 1200


async def test_explain_waits_only_so_long_for_counts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.write(ASSET)
    await scene.acknowledge(*await scene.poll())
    monkeypatch.setattr(library, "COUNT_S", 0.05)
    scene.source.counts_slowly = True
    found = await scene.explained()
    assert [each["code"] for each in found["findings"]] == ["under_way"]
    assert found["source"]["ok"]
    assert found["next"]["sends"] == "unknown"
    assert any("did not count" in said for said in found["known"])


def test_a_stream_whose_source_goes_down_is_broken_and_counted(valkey_url: str) -> None:
    source = TroubledSource(lambda: 2**52)
    source.write("lib", [Change("asset", f"a{number:05}") for number in range(20_000)])
    with Live(valkey_url, source=source) as live:
        token = live.run(live.service.sign_in()).token
        with RawStream(live.port, token, ("AssetsV2",), receive_buffer_bytes=4096) as stream:
            stream.read_until(10_000)
            source.down = DOWN
            assert stream.read_to_end().clean is False
        found = live.run(live.service.counters.all())
        assert {each.name: each.value for each in found if each.value} == {"source_unavailable": 1}
        assert live.run(live.service.store.command("EXISTS", keys.counters(), key=keys.counters())) == 1
