"""Request bodies: bounded, complete, and named where they are wrong."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import falcon
import falcon.testing
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoints.http import bodies
from endpoints.http.request import Request
from ledger.errors import InvalidInput


class Inner(msgspec.Struct):
    count: int


class Body(msgspec.Struct):
    names: Annotated[list[str], msgspec.Meta(max_length=3)]
    inner: list[Inner] = []
    table: dict[str, int] = {}


DECODER = msgspec.json.Decoder(Body)


def request(*parts: bytes, cut: bool = False) -> Request:
    """A request whose body comes in parts; `cut`: the client leaves behind the last one."""
    events: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if cut:
        events.append({"type": "http.disconnect"})
    else:
        events[-1]["more_body"] = False
    waiting = iter(events[1:])

    async def receive() -> dict[str, Any]:
        return next(waiting)

    return Request(falcon.testing.create_scope(method="POST"), receive, first_event=events[0])


def slow(*parts: tuple[float, bytes]) -> Request:
    """A request whose parts come each after a pause, in seconds, the first with the head; no part is its last."""
    first, *rest = parts
    waiting = iter(rest)

    async def receive() -> dict[str, Any]:
        pause_s, part = next(waiting)
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": part, "more_body": True}

    event = {"type": "http.request", "body": first[1], "more_body": True}
    return Request(falcon.testing.create_scope(method="POST"), receive, first_event=event)


async def gather(chunks: AsyncIterator[bytes], came: list[bytes]) -> None:
    """Keep what comes until it ends in whatever way."""
    async for chunk in chunks:
        came.append(chunk)  # noqa: PERF401 - also what came before an error


def problems(body: bytes) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(InvalidInput) as refusal:
        bodies.parse(body, DECODER)
    return list(refusal.value.problems)


async def test_a_body_is_the_same_in_one_part_and_in_many() -> None:
    text = b'{"names":["a","b"]}'
    whole = await bodies.decode(request(text), DECODER)
    parts = await bodies.decode(request(*(text[at : at + 1] for at in range(len(text)))), DECODER)
    assert whole == parts == Body(["a", "b"])


async def test_a_body_cut_short_is_not_taken_for_a_whole_one() -> None:
    for cut in (request(b"", cut=True), request(b"{}", cut=True)):
        with pytest.raises(bodies.ClientGone):
            await bodies.decode(cut, msgspec.json.Decoder(dict))
    with pytest.raises(bodies.ClientGone):
        [chunk async for chunk in bodies.chunks(request(b"line\n", cut=True))]


async def test_a_body_is_bounded() -> None:
    with pytest.raises(falcon.HTTPContentTooLarge):
        await bodies.decode(request(b" " * (bodies.MAX_BODY_BYTES + 1)), DECODER)
    with pytest.raises(falcon.HTTPContentTooLarge):
        await bodies.read(request(b"1234", b"5678", cut=True), limit=7)
    assert await bodies.read(request(b"1234", b"567"), limit=7) == b"1234567"


async def test_a_body_in_tiny_parts_takes_little_more_memory_than_its_size() -> None:
    left = 20_000

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= 1
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"%02d" % (left % 100), "more_body": left > 0}

    first = {"type": "http.request", "body": b"", "more_body": True}
    tiny = Request(falcon.testing.create_scope(method="POST"), receive, first_event=first)
    tracemalloc.start()
    try:
        assert len(await bodies.read(tiny)) == 40_000
        assert tracemalloc.get_traced_memory()[1] < 400_000, "as a list of parts it would be a million"
    finally:
        tracemalloc.stop()


async def test_a_body_that_stops_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SILENCE_S", 0.2)
    for body in (slow((0, b""), (9, b"x")), slow((0, b"x"), (0.15, b"x"), (9, b"x"))):
        with pytest.raises(bodies.BodyTooSlow, match=r"stopped coming: send .* no pause of 0.2 seconds"):
            await bodies.read(body)


async def test_events_without_a_byte_are_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SILENCE_S", 0.3)
    body = slow((0, b"x"), *[(0.05, b"")] * 20)
    with pytest.raises(bodies.BodyTooSlow, match="stopped coming"):
        await bodies.read(body)


async def test_a_body_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes soon enough, and there is no end to them."""
    monkeypatch.setattr(bodies, "START_S", 0.3)
    came: list[bytes] = []
    with pytest.raises(bodies.BodyTooSlow, match="less than 1,024 bytes a second"):
        await gather(bodies.chunks(slow((0, b"x"), *[(0.02, b"x")] * 1000)), came)
    assert 2 <= len(came) <= 30


async def test_what_came_gives_time_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "START_S", 0.1)
    body = slow((0, b"x" * 1024), *[(0.05, b"x" * 1024)] * 6, (99, b""))
    monkeypatch.setattr(bodies, "SILENCE_S", 1.0)
    came: list[bytes] = []
    with pytest.raises(bodies.BodyTooSlow, match="stopped coming"):
        await gather(bodies.chunks(body), came)
    assert len(b"".join(came)) == 7 * 1024


async def test_what_is_done_with_the_parts_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that takes long is no reason to turn away who sends as fast as it may."""
    monkeypatch.setattr(bodies, "START_S", 0.1)
    monkeypatch.setattr(bodies, "SILENCE_S", 0.1)
    came = b""
    async for chunk in bodies.chunks(request(b"a", b"b", b"c", b"d")):
        await asyncio.sleep(0.2)
        came += chunk
    assert came == b"abcd"


async def test_chunks_come_as_they_arrive() -> None:
    assert [chunk async for chunk in bodies.chunks(request(b"a", b"", b"b"))] == [b"a", b"b"]
    assert [chunk async for chunk in bodies.chunks(request(b""))] == []


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"{}", ("names",)),
        (b"", ("names",)),
        (b'{"names":3}', ("names",)),
        (b'{"names":["a",null]}', ("names", 1)),
        (b'{"names":["a","b","c","d"]}', ("names",)),
        (b'{"names":[],"inner":[{"count":1},{}]}', ("inner", 1, "count")),
        (b'{"names":[],"inner":[{"count":"1"}]}', ("inner", 0, "count")),
        (b'{"names":[],"table":{"k":"v"}}', ("table", "...")),
        (b"[]", ()),
    ],
)
def test_what_is_wrong_is_named_by_its_path(body: bytes, path: tuple[str | int, ...]) -> None:
    assert [found for found, _ in problems(body)] == [path]


@pytest.mark.parametrize(
    "body",
    [b"{", b"nope", b'{"names":["\xff"]}', b'{"names":["\\ud800"]}', b'{"names":[]}{}', b'{"x":' + b"[" * 100_000],
)
def test_what_is_no_json_is_refused_at_the_root(body: bytes) -> None:
    [(path, message)] = problems(body)
    assert path == ()
    assert message.startswith("The body is not JSON")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_decodes_or_is_refused(value: Any) -> None:
    for body in (json.dumps(value), json.dumps({"names": value}), json.dumps({"names": [], "inner": [value]})):
        with suppress(InvalidInput):
            assert isinstance(bodies.parse(body.encode(), DECODER), Body)
