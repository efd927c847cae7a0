"""One snapshot a stream: what is written while it is sent comes next time, and children wait for their parents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest

from projections.entities.catalog.catalog import Catalog
from projections.entities.forms import FORMS
from projections.entities.registry import row
from tests.support.phones.raw_stream import RawStream
from tests.support.processes.running import APP_TYPES, RunningService
from tests.support.sources.samples import sample

Line = dict[str, Any]
BLOCKERS = 260
BLOCKER_BYTES = 30_000
"""Rows at the start of each stream that fill every buffer between the service and a reader that takes nothing."""


USERS = ("AuthUserV1", "UserV1")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("snapshot")) as service:
        yield service


def blockers() -> list[Line]:
    """Make rows of a type that comes first in the order, 8 MB of them."""
    names = ["n" * BLOCKER_BYTES] * BLOCKERS
    return [
        {"type": "UserV1", "id": f"u{n:04}", "data": sample("UserV1", id=f"u{n:04}", name=name)}
        for n, name in enumerate(names)
    ]


def user(name: str) -> Line:
    return {"type": "UserV1", "id": name, "data": sample("UserV1", id=name)}


def asset(name: str, **changes: Any) -> Line:
    data = sample("AssetV2", id=name, ownerId="u0000", checksum=f"{name:=<28}"[:28], **changes)
    return {"type": "AssetV2", "id": name, "data": data}


def exif(name: str, **changes: Any) -> Line:
    return {"type": "AssetExifV1", "id": name, "data": sample("AssetExifV1", assetId=name, **changes)}


def album(name: str, **changes: Any) -> Line:
    return {"type": "AlbumV2", "id": name, "data": sample("AlbumV2", id=name, **changes)}


def in_album(album_id: str, asset_id: str) -> Line:
    return {"type": "AlbumToAssetV1", "data": {"albumId": album_id, "assetId": asset_id}}


def stalled(service: RunningService, token: str, *types: str) -> RawStream:
    """Open a stream and take only its first lines: the rest is not read from the source yet."""
    stream = RawStream(service.port, token, types or APP_TYPES, receive_buffer_bytes=4096)
    stream.read_until(2 * BLOCKER_BYTES)
    assert stream.clean is None
    return stream


def ack_runs(service: RunningService, token: str, lines: list[Line]) -> None:
    with service.client(token) as client:
        for _, run in groupby(lines, lambda line: line["type"]):
            assert client.post("/api/sync/ack", json={"acks": [list(run)[-1]["ack"]]}).status_code == 204


def next_stream(service: RunningService, token: str, *types: str) -> list[Line]:
    with RawStream(service.port, token, types or APP_TYPES) as stream:
        assert stream.read_to_end().clean is True
        return stream.lines


def check_parents(*streams: list[Line]) -> None:
    """Every row comes after its parents, in these streams one after the other; what was never there is no parent."""
    written = {form.table: set[str]() for form in FORMS}
    for line in (line for stream in streams for line in stream):
        form = row(line["type"]).form
        if form is not None:
            written[form.table].add(line["data"].get("id", ""))
    sent = {form.table: set[str]() for form in FORMS}
    for line in (line for stream in streams for line in stream):
        entity_type = row(line["type"])
        if entity_type.form is None or entity_type.is_delete:
            continue
        for parent in entity_type.form.parents:
            field = parent.field.split("_")[0] + "".join(word.title() for word in parent.field.split("_")[1:])
            wanted = line["data"].get(field)
            if wanted in written[parent.table]:
                assert wanted in sent[parent.table], f"{line['type']} before its {field} {wanted}"
        sent[entity_type.form.table].add(line["data"].get("id", ""))


def keyed(lines: list[Line]) -> list[tuple[str, Any]]:
    """Shorten lines to type and id."""
    return [(line["type"], line["ack"].split("|")[2]) for line in lines[:-1]]


def test_writes_during_the_stream_come_next_time(service: RunningService) -> None:
    library = "writes"
    service.put(library, [*blockers(), *(asset(f"a{n}") for n in range(20))])
    token = service.sign_in("u0000", library)
    with stalled(service, token) as stream:
        service.put(library, [asset("new"), asset("a3", isFavorite=True), exif("a3")])
        service.put(library, [{"type": "AssetDeleteV1", "data": {"assetId": "a4"}}])
        service.put(library, [{"type": "UserV1", "id": "u0200", "data": sample("UserV1", id="u0200", name="again")}])
        assert stream.read_to_end().clean is True
        first = stream.lines
    snapshot = first[-1]["ids"][0]
    assert all(line["ack"].split("|")[1] < snapshot for line in first[:-1])
    assert sorted(key for kind, key in keyed(first) if kind == "UserV1") == [
        f"u{n:04}" for n in range(BLOCKERS) if n != 200
    ]
    assert [key for kind, key in keyed(first) if kind not in USERS] == [f"a{n}" for n in range(20) if n not in (3, 4)]
    ack_runs(service, token, first)
    second = next_stream(service, token)
    assert keyed(second) == [
        ("UserV1", "u0200"), ("AssetDeleteV1", "a4"), ("AssetV2", "new"), ("AssetV2", "a3"), ("AssetExifV1", "a3"),
    ]  # fmt: skip
    check_parents(first, second)
    ack_runs(service, token, second)
    assert [line["type"] for line in next_stream(service, token)] == ["SyncCompleteV1"]


def test_children_of_an_updated_parent_wait_for_it(service: RunningService) -> None:
    library = "children"
    service.put(
        library,
        [
            *blockers(),
            *(asset(f"a{n}") for n in range(30)),
            *(album(f"b{n}") for n in range(3)),
            *(exif(f"a{n}") for n in range(30)),
            *(in_album(f"b{n % 3}", f"a{n}") for n in range(30)),
        ],
    )
    token = service.sign_in("parent", library)
    with stalled(service, token) as stream:
        service.put(library, [asset("a12", isFavorite=True)])
        assert stream.read_to_end().clean is True
        first = stream.lines
    assert [key for kind, key in keyed(first) if kind == "AssetV2"] == [f"a{n}" for n in range(30) if n != 12]
    assert [key for kind, key in keyed(first) if kind == "AssetExifV1"] == [f"a{n}" for n in range(12)]
    assert [line["data"]["assetId"] for line in first if line["type"] == "AlbumToAssetV1"] == [
        f"a{n}" for n in range(12)
    ]
    assert first[-1]["type"] == "SyncCompleteV1"
    ack_runs(service, token, first)
    second = next_stream(service, token)
    assert [key for kind, key in keyed(second) if kind == "AssetV2"] == ["a12"]
    assert [key for kind, key in keyed(second) if kind == "AssetExifV1"] == [f"a{n}" for n in range(12, 30)]
    assert len(keyed(second)) == 1 + 18 + 18
    check_parents(first, second)
    ack_runs(service, token, second)
    assert [line["type"] for line in next_stream(service, token)] == ["SyncCompleteV1"]


def test_what_hangs_on_children_held_back_waits_too(service: RunningService) -> None:
    library = "grandchildren"
    memory = {"type": "MemoryV1", "id": "m", "data": sample("MemoryV1", id="m", ownerId="u0000")}
    person = {"type": "PersonV1", "id": "p", "data": sample("PersonV1", id="p", ownerId="u0000", faceAssetId=None)}
    face = {"type": "AssetFaceV2", "id": "f", "data": sample("AssetFaceV2", id="f", assetId="a1", personId="p")}
    of_memory = {"type": "MemoryToAssetV1", "data": {"memoryId": "m", "assetId": "a1"}}
    rows = [asset("a0"), asset("a1"), album("b0", thumbnailAssetId="a0"), album("b1"), exif("a1"), in_album("b0", "a1"),
            in_album("b1", "a1"), memory, person, face, of_memory]  # fmt: skip
    service.put(library, [*blockers(), *rows])
    token = service.sign_in("u0000", library)
    with stalled(service, token) as stream:
        service.put(library, [asset("a0", isFavorite=True)])
        first = stream.read_to_end().lines
    kinds = [kind for kind, _ in keyed(first) if kind not in USERS]
    assert "AlbumV2" not in kinds, "b0 shows a0, which is newer; b1 is behind it in its run"
    assert "AlbumToAssetV1" not in kinds, "their albums were held back"
    assert kinds == ["AssetV2", "AssetExifV1", "MemoryV1", "MemoryToAssetV1", "PersonV1", "AssetFaceV2"]
    ack_runs(service, token, first)
    second = next_stream(service, token)
    assert [kind for kind, _ in keyed(second)] == ["AssetV2", *["AlbumV2"] * 2, *["AlbumToAssetV1"] * 2]
    check_parents(first, second)


def test_a_library_under_constant_writes_is_synced_in_the_end(service: RunningService) -> None:
    library = "constant"
    service.put(library, [*blockers(), *(asset(f"a{n}") for n in range(50)), *(exif(f"a{n}") for n in range(50))])
    token = service.sign_in("u0000", library)
    streams = []
    with stalled(service, token) as stream:
        service.put(library, [asset(f"a{n}", isFavorite=True) for n in range(0, 50, 7)])
        streams.append(stream.read_to_end().lines)
    ack_runs(service, token, streams[-1])
    for turn in range(4):
        service.put(library, [asset("a49", width=turn + 1), exif("a7", rating=turn + 1)])
        streams.append(next_stream(service, token))
        ack_runs(service, token, streams[-1])
    check_parents(*streams)
    latest = {(line["type"], line["ack"].split("|")[2]): line["data"] for lines in streams for line in lines[:-1]}

    async def stored(catalog: Catalog) -> dict[tuple[str, str], Any]:
        found = {}
        for kind in ("AssetV2", "AssetExifV1"):
            async for page in catalog.entities(library, [kind]):
                for line in page:
                    entity = json.loads(line)
                    found[kind, entity["id"]] = entity["data"]
        return found

    in_catalog = service.inside(lambda found: stored(found.catalog))
    assert len(in_catalog) == 100
    assert {key: data for key, data in latest.items() if key[0] not in USERS} == in_catalog


def test_a_device_that_may_have_missed_a_delete_starts_over(service: RunningService) -> None:
    library = "purged"
    service.put(library, [user("u0000"), asset("a0"), asset("a1")])
    away, here = service.sign_in_many(2, "u0000", library)
    ack_runs(service, away, next_stream(service, away, "AssetsV2"))
    service.put(library, [{"type": "AssetDeleteV1", "data": {"assetId": "a0"}}])
    ack_runs(service, here, next_stream(service, here, "AssetsV2"))
    service.put(library, [asset("a2")])
    ack_runs(service, here, next_stream(service, here, "AssetsV2"))
    assert service.inside(lambda found: found.catalog.purge_tombstones(library, 2**52)) == 1

    assert next_stream(service, away, "AssetsV2") == [{"type": "SyncResetV1", "data": {}, "ack": "SyncResetV1|reset"}]
    assert keyed(next_stream(service, here, "AssetsV2")) == [], "it had the delete"
    with service.client(away) as client:
        assert client.post("/api/sync/ack", json={"acks": ["SyncResetV1|reset"]}).status_code == 204
    again = next_stream(service, away, "AssetsV2")
    assert keyed(again) == [("AssetV2", "a1"), ("AssetV2", "a2")]
    ack_runs(service, away, again)
    assert keyed(next_stream(service, away, "AssetsV2")) == []
