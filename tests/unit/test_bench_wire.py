"""The bytes the benchmarks send and read."""

from __future__ import annotations

import h11
import msgspec
import pytest

from ledger.acks import parse_ack
from ledger.positions import Position, us_from_iso
from ops.bench.children.reader import unchunk
from ops.bench.rig import assets, wire


def parsed(raw: bytes) -> tuple[h11.Request, bytes]:
    server = h11.Connection(h11.SERVER)
    server.receive_data(raw)
    head, body = server.next_event(), b""
    assert isinstance(head, h11.Request)
    while isinstance(event := server.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert server.trailing_data == (b"", False)
    return head, body


def test_an_ack_request_is_whole_with_any_time_in_its_middle() -> None:
    head, tail = wire.ack_parts("/api/sync/ack", "t.o.k", "AssetV2", "some-id")
    for stamp in wire.stamps(1_700_000_000_000_000, 3):
        request, body = parsed(head + stamp + tail)
        assert (request.method, request.target) == (b"POST", b"/api/sync/ack")
        assert (b"authorization", b"Bearer t.o.k") in request.headers
        (text,) = msgspec.json.decode(body, type=dict[str, list[str]])["acks"]
        assert parse_ack(text).position == Position(us_from_iso(stamp.decode()), "some-id")


def test_a_request_without_a_body_names_no_length() -> None:
    request, body = parsed(wire.request("GET", "/api/server/ping"))
    assert body == b""
    assert not any(name in (b"content-length", b"authorization") for name, _ in request.headers)


def test_stamps_grow_each_in_a_second_of_its_own() -> None:
    stamps = wire.stamps(1_700_000_000_000_000, 5000)
    assert stamps == sorted(stamps)
    assert len({stamp[:19] for stamp in stamps}) == 5000
    assert {len(stamp) for stamp in stamps} == {wire.STAMP_BYTES}


def test_a_served_line_is_about_650_bytes_and_its_ack_can_be_parsed() -> None:
    entity_id, line = assets.served_line(17)
    document = msgspec.json.decode(line)
    assert 600 <= len(line) <= 700
    assert line.endswith(b"}\n")
    assert parse_ack(document["ack"]).position.id == entity_id == document["data"]["id"]


def test_the_library_is_the_same_every_time_and_no_two_assets_share_a_checksum() -> None:
    library = [msgspec.json.decode(line) for line in assets.ndjson(0, 500).splitlines()]
    assert assets.ndjson(0, 500) == assets.ndjson(0, 200) + assets.ndjson(200, 500)
    assert {(entity["type"], entity["id"] == entity["data"]["id"]) for entity in library} == {("AssetV2", True)}
    assert len({entity["data"]["checksum"] for entity in library}) == 500
    assert len({entity["data"]["fileCreatedAt"][:19] for entity in library}) == 500


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def test_a_whole_chunked_answer_gives_its_body() -> None:
    assert unchunk(HEAD + b"3\r\nab\n\r\n2\r\nc\n\r\n0\r\n\r\n") == b"ab\nc\n"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (HEAD + b"3\r\nab\n\r\n", "cut short"),
        (HEAD + b"3\r\nab", "cut short"),
        (HEAD + b"3\r\nab\n\r\n0\r\n", "cut short"),
        (HEAD[:20], "not a whole 200"),
        (HEAD.replace(b"200 OK", b"401 Unauthorized") + b"0\r\n\r\n", "not a whole 200"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "not chunked"),
    ],
)
def test_an_answer_that_is_not_whole_is_refused(answer: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        unchunk(answer)
