"""GET and POST /ledger/feed over a real server and store: lines to the present, server-sent events, who may read."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import httpx
import pytest

from ledger.commands import EndSession, OfferStream
from ledger.entity_types import mask_of
from ledger.errors import InvalidInput, StoreUnavailable
from projections.accounts.console_access import ConsoleAccess, Holder
from projections.feed.names import MOST, TooManyNames
from tests.support.phones.http import Live
from tests.support.stores.servers import RedisServer, wait_until

HTTP: Final = httpx.Client(timeout=20, verify=False, trust_env=False)  # PERF: certificates are read once


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
    answer = HTTP.get(f"{live.url}/ledger/feed", params=params, headers={"x-api-key": key})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


class Events:
    """A reader of server-sent events."""

    def __init__(
        self, live: Live, key: str, last_id: str = "", path: str = "/ledger/feed", cookie: str = "", **params: Any
    ) -> None:
        headers = {"x-api-key": key, "accept": "text/event-stream", "cookie": cookie}
        if last_id:
            headers["last-event-id"] = last_id
        self._client = httpx.Client(timeout=20, verify=False, trust_env=False)
        self._stream = self._client.stream("GET", live.url + path, params=params, headers=headers)
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


def refused(live: Live, key: str, method: str = "GET", **options: Any) -> tuple[int, list[list[str]]]:
    """Ask for what is refused; gives the status and the paths that are named."""
    headers = {"x-api-key": key, **options.pop("headers", {})}
    answer = HTTP.request(method, f"{live.url}/ledger/feed", headers=headers, **options)
    return answer.status_code, [problem["path"] for problem in answer.json().get("errors", [])]


def test_what_is_no_position_is_refused_with_its_field_named(live: Live) -> None:
    key = key_of(live)
    for wrong in ("nonsense", "AAAA", "e\u00e9", "A" * 5000):
        assert refused(live, key, params={"session": wrong}) == (400, [["session"]])
        assert refused(live, key, params={"from": wrong}) == (400, [["from"]])
        assert refused(live, key, "POST", json={"position": wrong}) == (400, [["position"]])
    for accept in ("text/event-stream", "application/x-ndjson"):
        headers = {"last-event-id": "nonsense", "accept": accept}
        assert refused(live, key, headers=headers) == (400, [["last-event-id"]])
    assert refused(live, key, "POST", json={}) == (400, [["position"]])
    assert refused(live, key, params={"form": "xml"}) == (400, [["form"]])
    assert refused(live, key, params={"type": "session_created,session_started"}) == (400, [["type"]])
    assert refused(live, key, params={"user": "a b"}) == (400, [["user"]])
    assert refused(live, key, params={"session": "5e" * 32})[0] == 404


def test_a_position_in_a_body_is_taken_as_one_in_the_query(live: Live) -> None:
    key = key_of(live)
    sid, _ = sign_in(live)
    position = lines(live, key)[-1]["position"]
    offer(live, "ann", sid, 5)
    answer = HTTP.post(f"{live.url}/ledger/feed", json={"position": position}, headers={"x-api-key": key})
    assert [json.loads(line)["seq"] for line in answer.text.splitlines()] == [2]


def test_who_may_read(live: Live) -> None:
    sid, token = sign_in(live, "ann")
    sign_in(live, "bob")
    assert refused(live, key_of(live, "entities.write"))[0] == 403
    assert refused(live, "slk_none")[0] == 401
    own = HTTP.get(f"{live.url}/ledger/feed", headers={"authorization": f"Bearer {token}"})
    assert {json.loads(line)["session"] for line in own.text.splitlines()} == {sid}
    for params in ({"user": "bob"}, {"name": "siem"}):
        answer = HTTP.get(f"{live.url}/ledger/feed", params=params, headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 403
    live.run(live.service.ledger.execute("ann", sid, EndSession("logout")))
    assert HTTP.get(f"{live.url}/ledger/feed", headers={"authorization": f"Bearer {token}"}).status_code == 401


def test_filters_and_forms(live: Live) -> None:
    key = key_of(live)
    ann, _ = sign_in(live, "ann", device_os="Secret OS")
    bob, _ = sign_in(live, "bob")
    offer(live, "bob", bob, 5)
    told = lines(live, key, user="bob", type="session_created,stream_offered")
    assert [(one["session"], one["seq"]) for one in told] == [(bob, 1), (bob, 2)]
    assert [one["session"] for one in lines(live, key, session=ann)] == [ann]
    (cloud,) = lines(live, key, session=ann, form="cloudevents")
    assert (cloud["specversion"], cloud["subject"]) == ("1.0", ann)
    (ocsf,) = lines(live, key, session=ann, form="ocsf")
    assert (ocsf["class_uid"], ocsf["src_endpoint"]) == (6003, {"uid": ann})
    for params in ({}, {"with_devices": "true"}):  # whoever has no key may have been erased
        (closed,) = lines(live, key, session=ann, **params)
        assert closed["data"]["deviceOS"] is None


def test_events_are_told_as_such_and_fewer_than_may_follow(live: Live) -> None:
    key = key_of(live)
    sid, _ = sign_in(live)
    with Events(live, key, type="session_ended") as events:
        first = [next(events._lines) for _ in range(4)]
        assert first[0] == "retry: 3000"
        assert first[2].startswith("id: ")  # nothing is told yet, but where it stands
        live.run(live.service.store.command("SET", "{p7}:stream", "none", key=b"{p7}:stream"))
        lines_read = list[str]()
        while not any(line.startswith("data: ") for line in lines_read):
            lines_read.append(next(events._lines))
        assert "event: notice" in lines_read
        assert json.loads(lines_read[-1].removeprefix("data: "))["notice"] == "unreadable"
        live.service.services.feed.seats.most = 1
        answer = HTTP.get(f"{live.url}/ledger/feed", headers={"x-api-key": key})
        assert (answer.status_code, "LEDGER_FEED_FOLLOWERS" in answer.json()["message"]) == (503, True)
        live.run(live.service.ledger.execute("ann", sid, EndSession("logout")))
        assert events.take(1)[0]["event"] == "session_ended"
    wait_until(lambda: live.service.services.feed.followers == 0, "nobody follows")
    told = lines(live, key)
    assert [one["seq"] for one in told if "seq" in one] == [1, 2]
    assert [one["notice"] for one in told if "notice" in one] == ["unreadable"]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_a_revoked_key_ends_its_feed_and_never_cleanly(
    live: Live, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    monkeypatch.setattr("endpoints.http.sending.RECHECK_S", 0.1)
    key = key_of(live)
    sid, _ = sign_in(live)
    with (
        httpx.Client(timeout=20, verify=False, trust_env=False) as client,
        client.stream(
            "GET",
            f"{live.url}/ledger/feed",
            params={"follow": "1", "from": "start"},
            headers={"x-api-key": key, "accept": accept},
        ) as answer,
    ):
        chunks = answer.iter_raw()
        assert sid.encode() in next(chunks)
        known = live.run(live.service.api_keys.find(key))
        assert known is not None
        assert live.run(live.service.api_keys.revoke(known.id))
        offer(live, "ann", sid, 3)
        with pytest.raises(httpx.TransportError):
            dict.fromkeys(chunks)
    wait_until(lambda: live.service.services.feed.followers == 0, "nobody follows")


@pytest.mark.parametrize("path", ["/ledger/feed", "/console/tail/events"])
def test_a_feed_outlives_a_store_that_is_away(
    path: str, valkey_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("endpoints.http.sending.RECHECK_S", 0.05)
    monkeypatch.setattr("endpoints.sync.stream_guard.LOOK_S", 0.05)
    with Live(valkey_server.url) as live:
        live.service.services.feed._beat_s = 0.02  # each beat may look at the credential
        key = key_of(live)
        holder = Holder("key", key_hash=hashlib.sha256(key.encode()).hexdigest())
        secret = live.run(ConsoleAccess(live.service.store).open(holder, live.service.clock()))
        sid, _ = sign_in(live)
        with Events(live, key, path=path, cookie=f"ledger-console={secret}") as events:
            offer(live, "ann", sid, 2)
            assert [event["event"] for event in events.take(1)] == ["stream_offered"]
            valkey_server.kill()
            for _ in range(2):  # it is asked for meanwhile, as we do, and nobody answers
                with pytest.raises(StoreUnavailable):
                    live.run(live.service.store.command("PING", key=b"ping"))
            valkey_server.start()
            live.run(again_and_again(lambda: live.service.store.command("PING", key=b"ping")))
            offer(live, "ann", sid, 3)
            told = events.take(1)
            while all(event.get("event") in (None, "notice") for event in told):  # it may tell that it could not read
                told = events.take(1)
            assert told[-1]["event"] == "stream_offered"
            assert {event.get("session", sid) for event in told} == {sid}


async def again_and_again(ask: Callable[[], Awaitable[Any]]) -> None:
    """Ask until the store answers."""
    for _ in range(200):
        try:
            await ask()
        except StoreUnavailable:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError("the store is still away")


def test_a_worker_that_is_to_end_lets_its_followers_go(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("endpoints.sync.stream_guard.LOOK_S", 0.1)
    key = key_of(live)
    with Events(live, key) as events:
        live._server.server_state.leaving = True  # type: ignore[attr-defined]
        with pytest.raises(httpx.TransportError):
            events.take(1)


def test_names_are_moved_on_only_when_told_to(live: Live) -> None:
    key = key_of(live)
    headers = {"x-api-key": key}
    sid, _ = sign_in(live)
    names = f"{live.url}/ledger/feed/names"
    first = lines(live, key, name="siem")
    assert lines(live, key, name="siem") == first
    moved = HTTP.put(f"{names}/siem", json={"position": first[-1]["position"]}, headers=headers)
    assert moved.status_code == 204
    offer(live, "ann", sid, 3)
    assert [one["seq"] for one in lines(live, key, name="siem")] == [2]
    kept = HTTP.get(names, headers=headers).json()["names"]
    assert [(one["name"], one["position"]) for one in kept] == [("siem", first[-1]["position"])]
    wrong = HTTP.put(f"{names}/siem", json={"position": "nonsense"}, headers=headers)
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (400, ["position"])
    assert [HTTP.delete(f"{names}/siem", headers=headers).status_code for _ in range(2)] == [204, 404]
    assert HTTP.get(names, headers={"x-api-key": key_of(live, "metrics.read")}).status_code == 403


def test_no_more_names_are_kept_than_may_be(live: Live) -> None:
    names = live.service.services.feed.names

    async def fill() -> None:
        for number in range(MOST):
            await names.keep(f"n{number}", "position", 5)
        await names.keep("n0", "another", 6)
        with pytest.raises(TooManyNames):
            await names.keep("one more", "position", 5)

    with pytest.raises(InvalidInput):
        live.run(fill())  # a name with a space is none
    answer = HTTP.put(
        f"{live.url}/ledger/feed/names/more", json={"position": "start"}, headers={"x-api-key": key_of(live)}
    )
    assert answer.status_code == 400
    assert len(live.run(names.all())) == MOST


def test_head_and_compression(live: Live) -> None:
    key = key_of(live)
    sign_in(live)
    head = HTTP.head(f"{live.url}/ledger/feed", headers={"x-api-key": key})
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "application/x-ndjson", b"")
    packed = HTTP.get(f"{live.url}/ledger/feed", headers={"x-api-key": key, "accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert json.loads(packed.text)["seq"] == 1
    assert live.service.services.feed.followers == 0
