"""Acks that come late, twice, out of order or from a stream of the past: none makes a device skip anything."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import httpx
import pytest

from tests.support.phones.raw_stream import RawStream
from tests.support.processes.running import RunningService
from tests.support.sources.samples import sample

Line = dict[str, Any]
ROWS = 300
ROW_BYTES = 30_000
HEADS = 3
"""How many rows a stalled reader has seen at least when it is overtaken."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("late"), workers=2) as service:
        names = ["n" * ROW_BYTES] * ROWS
        service.put("lib", [{"type": "UserV1", "id": f"u{n}", "data": sample("UserV1", id=f"u{n}", name=name)}
                            for n, name in enumerate(names)])  # fmt: skip
        yield service


@pytest.fixture
def token(service: RunningService, request: pytest.FixtureRequest) -> str:
    return service.sign_in(request.node.name)


def opened(service: RunningService, token: str) -> RawStream:
    """Open a stream and take its first rows only."""
    stream = RawStream(service.port, token, ["UsersV1"], receive_buffer_bytes=4096)
    stream.read_until((HEADS + 1) * ROW_BYTES)
    assert stream.clean is None
    assert HEADS <= len(stream.lines) < 2 * HEADS
    return stream


def whole(service: RunningService, token: str) -> list[Line]:
    with RawStream(service.port, token, ["UsersV1"]) as stream:
        assert stream.read_to_end().clean is True
        return stream.lines


def ack(client: httpx.Client, *acks: str) -> int:
    return client.post("/api/sync/ack", json={"acks": acks}).status_code


def ids(lines: list[Line]) -> list[str]:
    return [line["data"]["id"] for line in lines if line["type"] == "UserV1"]


def by_request(client: httpx.Client, token: str) -> None:
    sid = sha256(token.encode()).hexdigest()
    assert client.put(f"/api/sessions/{sid}", json={"isPendingSyncReset": True}).status_code == 200
    assert ack(client, "SyncResetV1|reset") == 204


def by_stream(client: httpx.Client, token: str) -> None:
    answer = client.post("/api/sync/stream", json={"types": [], "reset": True})
    assert answer.status_code == 200


def by_delete(client: httpx.Client, token: str) -> None:
    assert client.request("DELETE", "/api/sync/ack", json={"types": ["UserV1"]}).status_code == 204


def by_delete_of_deletes(client: httpx.Client, token: str) -> None:
    assert client.request("DELETE", "/api/sync/ack", json={"types": ["UserDeleteV1"]}).status_code == 204


@pytest.mark.parametrize("reset", [by_request, by_stream, by_delete, by_delete_of_deletes])
def test_an_old_streams_acks_after_a_reset_skip_nothing(
    service: RunningService, token: str, reset: Callable[[httpx.Client, str], None]
) -> None:
    with service.client(token) as client, opened(service, token) as old:
        first, *_ = old.lines
        assert ack(client, first["ack"]) == 204
        reset(client, token)
        assert ack(client, old.lines[1]["ack"]) == 204, "after the reset"
        assert client.get("/api/sync/ack").json() == []
        with opened(service, token) as new:
            assert new.lines[0]["data"] == first["data"], "from the beginning"
            old.read_to_end()
            last = old.lines[-2]
            assert ids(old.lines) == ids(whole(service, token))
            assert ack(client, last["ack"]) == 204, "after the next stream has begun"
            assert ack(client, last["ack"]) == 204
            assert client.get("/api/sync/ack").json() == []
            seen = new.lines
            assert ack(client, seen[-1]["ack"]) == 204
            assert ack(client, last["ack"]) == 204, "after an ack of the new stream"
            kept = {found["type"]: found["ack"] for found in client.get("/api/sync/ack").json()}
            assert kept == {"UserV1": seen[-1]["ack"]}
        rest = whole(service, token)
        assert ids(seen) + ids(rest) == ids(old.lines)
    assert service.verify()["different"] == 0


def test_a_reset_acknowledged_twice_only_sends_again(service: RunningService, token: str) -> None:
    with service.client(token) as client:
        everything = whole(service, token)
        by_request(client, token)
        with opened(service, token) as new:
            assert ack(client, new.lines[1]["ack"]) == 204
            assert ack(client, "SyncResetV1|reset") == 204, "late, of the reset before"
            assert ack(client, new.lines[2]["ack"]) == 204, "of a stream that is no more of this epoch"
            assert client.get("/api/sync/ack").json() == []
        assert ids(whole(service, token)) == ids(everything)


def test_an_old_completion_does_not_count_for_a_new_epoch(service: RunningService, token: str) -> None:
    with service.client(token) as client:
        lines = whole(service, token)
        by_request(client, token)
        assert ack(client, lines[-1]["ack"]) == 204
        assert client.get("/api/sync/ack").json() == []


def test_acks_in_any_order_and_number_end_at_the_highest(service: RunningService, token: str) -> None:
    lines = whole(service, token)[:-1]
    dice = random.Random(5)
    acks = [line["ack"] for line in lines[:60]] * 2
    dice.shuffle(acks)
    with service.client(token) as client, ThreadPoolExecutor(6) as pool:
        before = service.events_of(token)
        assert set(pool.map(lambda one: ack(client, one), acks)) == {204}
        (kept,) = client.get("/api/sync/ack").json()
        assert kept["ack"] == lines[59]["ack"]
        assert service.events_of(token) - before <= 60 + 60, "an ack is recorded once as moved or stale, if at all"
        before = service.events_of(token)
        assert {ack(client, kept["ack"]) for _ in range(20)} == {204}
        assert service.events_of(token) == before, "the same ack again appends nothing"
        stale = lines[3]["ack"]
        assert {ack(client, stale) for _ in range(20)} == {204}
        assert service.events_of(token) - before <= 1, "a stale one is recorded once"
    assert ids(whole(service, token)) == ids(lines[60:])
    assert service.verify()["different"] == 0


def test_an_ack_that_no_stream_offered_is_refused_and_skips_nothing(service: RunningService, token: str) -> None:
    with service.client(token) as client:
        before = service.events_of(token)
        assert ack(client, "UserV1|2020-01-01T00:00:00.000000Z|") == 400, "nothing was offered yet"
        lines = whole(service, token)
        snapshot = lines[-1]["ids"][0]
        for beyond in (f"UserV1|{snapshot}|u1", f"UserV1|{snapshot}|", "UserV1|2030-01-01T00:00:00.000000Z|u1"):
            assert {ack(client, lines[5]["ack"], beyond) for _ in range(3)} == {400}
        assert ack(client, f"{lines[5]['ack']}|2") == 400, "an epoch that has not begun"
        assert ack(client, lines[5]["ack"].replace("UserV1", "PersonV1")) == 400, "a type that was not asked for"
        assert client.get("/api/sync/ack").json() == [], "nothing of a refused request is taken"
        assert service.events_of(token) - before == 1 + 1 + 1 + 1, "the first of a type, the offer, a reset"
        for _ in range(2):
            (reset,) = whole(service, token)
            assert reset["type"] == "SyncResetV1", "only lines of ours carry an id, so the log has lost their stream"
        assert ack(client, reset["ack"]) == 204
    assert ids(whole(service, token)) == ids(lines)


def test_two_isolates_of_one_app_sync_at_once(service: RunningService, token: str) -> None:
    """A foreground and a background isolate stream and acknowledge on one session; each gets all it lacks."""
    with opened(service, token) as background, service.client(token) as client:
        foreground = whole(service, token)
        assert ack(client, foreground[-2]["ack"]) == 204
        assert ack(client, background.lines[1]["ack"]) == 204, "late and lower"
        background.read_to_end()
        assert background.clean is True
        assert ids(background.lines) == ids(foreground)
        assert ack(client, background.lines[-2]["ack"]) == 204
        assert ids(whole(service, token)) == []
