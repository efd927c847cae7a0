"""GET and POST /ledger/feed over a real server and store: lines to the present, server-sent events, who may read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ledger.commands import EndSession, OfferStream
from ledger.entity_types import mask_of
from tests.support.phones.http import Live


@pytest.fixture
def live(valkey_url: str) -> Iterator[Live]:
    with Live(valkey_url) as live:
        yield live


def key_of(live: Live, *scopes: str) -> str:
    async def make() -> str:
        return (await live.service.api_keys.create(scopes or ["audit.read"], name="siem", now_us=1))[0]

    return live.run(make())


def sign_in(live: Live, user: str = "ann", **fields: Any) -> tuple[str, str]:
    issued = live.run(live.service.sign_in(user, **fields))
    return issued.sid, issued.token


def offer(live: Live, user: str, sid: str, at_us: int) -> None:
    live.run(live.service.ledger.execute(user, sid, OfferStream(at_us, mask_of(["AssetV2"]))))


def lines(live: Live, key: str, **params: Any) -> list[dict[str, Any]]:
    answer = httpx.get(f"{live.url}/ledger/feed", params=params, headers={"x-api-key": key})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


class Events:
    """A reader of server-sent events."""

    def __init__(self, live: Live, key: str, last_id: str = "", **params: Any) -> None:
        headers = {"x-api-key": key, "accept": "text/event-stream"}
        if last_id:
            headers["last-event-id"] = last_id
        self._client = httpx.Client(timeout=20)
        self._stream = self._client.stream("GET", f"{live.url}/ledger/feed", params=params, headers=headers)
        self.last_id = last_id

    def __enter__(self) -> Events:
        self.answer = self._stream.__enter__()
        assert self.answer.status_code == 200
        self._lines = self.answer.iter_lines()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__(None, None, None)
        self._client.close()

    def take(self, count: int) -> list[dict[str, Any]]:
        """Read so many events."""
        found: list[dict[str, Any]] = []
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_id = value
            elif name == "data":
                found.append(json.loads(value))
            elif not line and len(found) >= count:
                return found
        raise AssertionError(f"it ended behind {len(found)} events")


def test_lines_end_at_the_present_and_go_on_from_the_position(live: Live) -> None:
    key = key_of(live)
    sid, _ = sign_in(live, device_os="Android")
    offer(live, "ann", sid, 5)
    first = lines(live, key)
    assert [(event["session"], event["seq"], event["event"], event["user"]) for event in first] == [
        (sid, 1, "session_created", "ann"),
        (sid, 2, "stream_offered", "ann"),
    ]
    assert lines(live, key, **{"from": first[-1]["position"]})[0]["notice"] == "position"
    offer(live, "ann", sid, 6)
    (again,) = lines(live, key, **{"from": first[-1]["position"]})
    assert again["seq"] == 3


def test_events_go_on_and_resume_behind_the_last_id(live: Live) -> None:
    key = key_of(live)
    sid, _ = sign_in(live)
    with Events(live, key, **{"from": "start"}) as events:
        assert events.answer.headers["content-type"] == "text/event-stream"
        assert events.answer.headers["x-accel-buffering"] == "no"
        assert [event["seq"] for event in events.take(1)] == [1]
        for number in (2, 3):
            offer(live, "ann", sid, number)
            assert [event["seq"] for event in events.take(1)] == [number]
        last_id = events.last_id
    live.run(live.service.ledger.execute("ann", sid, EndSession("logout")))
    with Events(live, key, last_id) as events:
        events_again = events.take(1)
        while events_again[-1]["event"] != "session_ended":
            events_again += events.take(1)
    assert events_again[-1]["seq"] == 4
