"""The stream over many rows, tiny and huge: all of them, once, in order, resumed anywhere, in chunks of a good size."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from ops.demo_library import DemoLibrary
from projections.entities.registry import REQUEST_TYPES, ROWS
from tests.support.phones.raw_stream import RawStream
from tests.support.processes.running import APP_TYPES, RunningService
from tests.support.sources.samples import USER_ID, sample

Line = dict[str, Any]
TINY = 5000
MIXED = 700
HUGE_BYTES = 250_000


def user(number: int, **changes: Any) -> Line:
    return {"type": "UserV1", "id": f"u{number}", "data": sample("UserV1", id=f"u{number}", **changes)}


def asset(number: int) -> Line:
    return {"type": "AssetV2", "data": sample("AssetV2", id=f"a{number}", checksum=f"{number:027}=")}


def metadata(number: int, size: int) -> Line:
    data = sample("AssetMetadataV1", assetId=f"a{number}", value={"x": "y" * size})
    return {"type": "AssetMetadataV1", "data": data}


def sizes() -> list[int]:
    """Mix rows of 1 byte, of a few KB and of several pages, so that each kind follows each other one."""
    dice = random.Random(7)
    huge = set(dice.sample(range(MIXED), 12))
    return [HUGE_BYTES if number in huge else dice.choice((1, 1, 1, 300, 5000, 30_000)) for number in range(MIXED)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("pages")) as service:
        service.put("tiny", (user(number) for number in range(TINY)))
        service.put("mixed", [{"type": "UserV1", "id": USER_ID, "data": sample("UserV1")}])
        service.put("mixed", (asset(number) for number in range(MIXED)))
        service.put("mixed", (metadata(number, size) for number, size in enumerate(sizes())))
        yield service


def ack(service: RunningService, token: str, *acks: str) -> None:
    with service.client(token) as client:
        assert client.post("/api/sync/ack", json={"acks": acks}).status_code == 204


def whole(service: RunningService, token: str, *types: str) -> RawStream:
    with RawStream(service.port, token, types) as stream:
        assert stream.read_to_end().clean is True
        assert (stream.status, stream.headers["content-type"]) == (200, "application/jsonlines+json")
        assert stream.lines[-1]["type"] == "SyncCompleteV1"
        return stream


def test_tiny_rows_come_once_in_order_in_chunks_of_tens_of_kilobytes(service: RunningService) -> None:
    stream = whole(service, service.sign_in("u0", "tiny"), "UsersV1")
    lines = stream.lines[:-1]
    assert sorted(line["data"]["id"] for line in lines) == sorted(f"u{number}" for number in range(TINY))
    stamps = [line["ack"].split("|")[1] for line in lines]
    assert stamps == sorted(set(stamps))
    assert stream.lines[-1]["ids"][0] > stamps[-1]
    *most, _ = stream.chunk_bytes
    assert len(most) > 10
    assert all(32 * 1024 <= size <= 128 * 1024 for size in most), most


def test_mixed_rows_come_once_in_order_and_no_chunk_holds_more_than_one_huge_row(service: RunningService) -> None:
    stream = whole(service, service.sign_in(library="mixed"), "AssetMetadataV1")
    lines = stream.lines[:-1]
    assert len(lines) == MIXED
    assert {line["data"]["assetId"]: len(line["data"]["value"]["x"]) for line in lines} == {
        f"a{number}": size for number, size in enumerate(sizes())
    }
    stamps = [line["ack"].split("|")[1] for line in lines]
    assert stamps == sorted(set(stamps))
    assert max(stream.chunk_bytes) < HUGE_BYTES + 32 * 1024 + 2048


@pytest.mark.parametrize(
    ("library", "request_type", "count"), [("tiny", "UsersV1", TINY), ("mixed", "AssetMetadataV1", MIXED)]
)
def test_a_stream_goes_on_right_behind_any_ack(
    service: RunningService, library: str, request_type: str, count: int
) -> None:
    token = service.sign_in("u0", library)
    lines = whole(service, token, request_type).lines
    dice = random.Random(11)
    for done in sorted(
        {1, 2, 1000, 1001, count - 1, count, *dice.sample(range(3, count), 6)} & set(range(1, count + 1))
    ):
        ack(service, token, lines[done - 1]["ack"])
        assert whole(service, token, request_type).lines == lines[done:]


def test_an_ack_without_id_means_strictly_after_that_time(service: RunningService) -> None:
    token = service.sign_in("u0", "tiny")
    lines = whole(service, token, "UsersV1").lines
    entity_type, stamp, _ = lines[2500]["ack"].split("|")
    ack(service, token, f"{entity_type}|{stamp}|")
    assert whole(service, token, "UsersV1").lines == lines[2501:]


def test_request_order_is_irrelevant_and_each_type_comes_once(service: RunningService) -> None:
    service.put("demo", DemoLibrary(user="ann", name="Ann", assets=40))
    token = service.sign_in(library="demo")
    shuffled = list(REQUEST_TYPES)
    random.Random(3).shuffle(shuffled)
    bodies = [bytes(whole(service, token, *types).body) for types in (REQUEST_TYPES, shuffled, [*shuffled, *shuffled])]
    assert bodies[0] == bodies[1] == bodies[2]
    order = [row.name for row in ROWS]
    places = [order.index(line["type"]) for line in whole(service, token, *REQUEST_TYPES).lines[:-1]]
    assert places == sorted(places)
    assert {"AssetV1", "AssetV2"} <= {order[place] for place in places}, "every version that was asked for"


def test_deletes_come_before_upserts_and_nothing_of_what_was_deleted(service: RunningService) -> None:
    service.put("deletes", DemoLibrary(user="ann", name="Ann", assets=40))
    token = service.sign_in(library="deletes")
    first = whole(service, token, *APP_TYPES).lines
    assets = [line["data"]["id"] for line in first if line["type"] == "AssetV2"]
    album = next(line["data"]["id"] for line in first if line["type"] == "AlbumV2")
    gone, back = assets[5], assets[9]
    service.put(
        "deletes",
        [
            {"type": "AssetDeleteV1", "data": {"assetId": gone}},
            {"type": "AlbumDeleteV1", "data": {"albumId": album}},
            {"type": "AssetDeleteV1", "data": {"assetId": back}},
            {
                "type": "AssetV2",
                "id": back,
                "data": sample("AssetV2", id=back, ownerId="ann", checksum="AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            },
        ],
    )
    device, fresh = token, service.sign_in("bob", "deletes")
    for last in {line["type"]: line["ack"] for line in first}.values():
        ack(service, device, last)
    lines = whole(service, device, *APP_TYPES).lines
    types = [line["type"] for line in lines]
    for delete, upsert in (("AssetDeleteV1", "AssetV2"), ("AlbumDeleteV1", "AlbumV2")):
        if upsert in types:
            assert max(i for i, t in enumerate(types) if t == delete) < types.index(upsert)
    assert [line["data"]["assetId"] for line in lines if line["type"] == "AssetDeleteV1"] == [gone]
    came = [line["data"] for line in lines if line["type"] == "AssetV2"]  # first without the checksum it may have had
    assert [asset["id"] for asset in came] == [back, back]
    assert [asset["checksum"] for asset in came] == [f"placeholder:{back}", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="]
    assert [line["data"]["albumId"] for line in lines if line["type"] == "AlbumDeleteV1"] == [album]

    new = whole(service, fresh, *APP_TYPES).lines
    for line in new:
        if not line["type"].endswith("DeleteV1"):
            assert gone not in (line["data"].get("id"), line["data"].get("assetId"))
            assert album not in (line["data"].get("id"), line["data"].get("albumId"))
