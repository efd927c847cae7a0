"""What the embedded catalog promises on every backend: Valkey 9, Redis 7, a cluster, and fakeredis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from ledger import keys
from ledger.errors import InvalidInput, StoreReplyError
from ledger.positions import Position, iso_from_us, us_from_iso
from ledger.store.interface import Store
from ledger.store.scripts import Arg, Script
from projections.accounts.person import Profile
from projections.entities.catalog import versions, writer
from projections.entities.catalog.catalog import Catalog
from projections.entities.catalog.library_summary import START_US
from projections.entities.catalog.writer import WRITE, Written
from projections.entities.entity import Entity, read_line
from projections.entities.lines import position_of
from projections.entities.registry import STORED_TYPES, row
from projections.entities.source import Ahead, Page, Waiting
from tests.support.sources.owners import let_owners_be_there, living_but_owners
from tests.support.sources.samples import ALBUM_ID, ASSET_ID, FACE_ID, PARTNER_ID, PERSON_ID, USER_ID, sample

LIBRARY = "L1"
END_US = 2**52
EXIF_TYPES = ("AssetExifV1", "AlbumAssetExifCreateV1", "PartnerAssetExifV1")


@pytest.fixture
def catalog(store: Store) -> Catalog:
    return Catalog(store)


def entity(entity_type: str, entity_id: str | None = None, **changes: Any) -> Entity:
    line = {"type": entity_type, "data": sample(entity_type, **changes)}
    return read_line(json.dumps(line if entity_id is None else {**line, "id": entity_id}).encode())


async def put(catalog: Catalog, *entities: Entity, library: str = LIBRARY) -> Written:
    await let_owners_be_there(catalog, library, entities)
    return await catalog.put(library, entities)


async def pages(
    catalog: Catalog,
    entity_type: str,
    after: Position | None = None,
    before: int = END_US,
    limit: int = 1000,
    library: str = LIBRARY,
) -> list[Page]:
    return [page async for page in catalog.pages(library, entity_type, after, before, limit)]


async def rows(catalog: Catalog, entity_type: str, **bounds: Any) -> list[dict[str, Any]]:
    """Read all rows of a type as the JSON objects a device gets."""
    return [json.loads(line + b'"}') for page in await pages(catalog, entity_type, **bounds) for line in page.lines]


async def data(catalog: Catalog, entity_type: str, **bounds: Any) -> list[dict[str, Any]]:
    return [found["data"] for found in await rows(catalog, entity_type, **bounds)]


async def living(catalog: Catalog, library: str = LIBRARY) -> dict[str, int]:
    return await living_but_owners(catalog, library)


# Stamps and the horizon


async def test_a_library_without_entities_has_a_horizon_that_stays(catalog: Catalog) -> None:
    assert await catalog.horizon(LIBRARY) == START_US
    assert await pages(catalog, "AssetV2") == []
    assert await catalog.tombstone_floor(LIBRARY) == 0
    assert await living(catalog) == {}
    assert await catalog.libraries() == []
    assert [page async for page in catalog.entities(LIBRARY)] == []


@pytest.mark.each_store
async def test_every_write_has_a_stamp_of_its_own_and_the_horizon_is_one_past_the_last(catalog: Catalog) -> None:
    await put(catalog, *(entity("AssetV2", id=f"a{number}") for number in range(50)))
    await put(catalog, entity("AlbumV2"), entity("AssetV2", id="b"))
    stamps = [position_of(line).at_us for page in await pages(catalog, "AssetV2") for line in page.lines]
    assert stamps == sorted(set(stamps))
    assert len(stamps) == 51
    assert await catalog.horizon(LIBRARY) == stamps[-1] + 1
    assert await catalog.horizon(LIBRARY) == stamps[-1] + 1


async def test_a_line_is_what_a_device_reads(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"))
    (page,) = await pages(catalog, "AssetV2")
    (line,) = page.lines
    read = json.loads(line + b'"}')
    assert list(read) == ["type", "data", "ack"]
    assert read["type"] == "AssetV2"
    assert read["data"] == sample("AssetV2")
    assert read["ack"] == f"AssetV2|{iso_from_us(page.last.at_us)}|{ASSET_ID}"
    assert page.last == Position(page.last.at_us, ASSET_ID)
    assert page.horizon_us == page.last.at_us + 1


async def test_the_same_data_again_keeps_its_place(catalog: Catalog) -> None:
    everything = [entity("UserV1"), entity("AssetV2"), entity("AlbumV2"), entity("AlbumUserV1")]
    everything.append(entity("AssetDeleteV1", assetId="gone"))
    assert await put(catalog, *everything) == Written(taken=5)
    horizon = await catalog.horizon(LIBRARY)
    assert await put(catalog, *everything) == Written(unchanged=5)
    assert await catalog.horizon(LIBRARY) == horizon
    assert await put(catalog, entity("AssetV2", isFavorite=True)) == Written(taken=1)
    assert await catalog.horizon(LIBRARY) > horizon
    assert await living(catalog) == {
        "UserV1": 1, "AssetV2": 1, "AlbumV2": 1, "AlbumUserV1": 1, "AssetDeleteV1": 1
    }  # fmt: skip


async def test_stamps_go_on_growing_when_the_servers_clock_is_behind(catalog: Catalog, store: Store) -> None:
    meta = keys.catalog_meta(LIBRARY)
    future = 4_102_444_799_999_998  # the last microseconds of 2099
    await let_owners_be_there(catalog, LIBRARY, [entity("AssetV2")])
    await store.command("HSET", meta, "last", future, key=meta)
    await put(catalog, entity("AssetV2", id="a"), entity("AssetV2", id="b"))
    first, second = (found["ack"] for found in await rows(catalog, "AssetV2"))
    assert first == "AssetV2|2099-12-31T23:59:59.999999Z|a"
    assert second == "AssetV2|2100-01-01T00:00:00.000000Z|b"
    assert await catalog.horizon(LIBRARY) == future + 3


@pytest.mark.parametrize(
    "iso",
    [
        "2027-12-31T23:59:59.999999Z",
        "2028-02-28T23:59:59.999999Z",
        "2028-02-29T00:00:00.000000Z",
        "2028-03-01T12:34:56.000007Z",
        "2100-02-28T23:59:59.999999Z",
        "2100-03-01T00:00:00.000000Z",
        "2254-10-09T08:07:06.050403Z",
    ],
)
async def test_times_are_those_of_the_calendar(catalog: Catalog, store: Store, iso: str) -> None:
    meta, stored = keys.catalog_meta(LIBRARY), keys.catalog_rows(LIBRARY, "AssetV2")
    await let_owners_be_there(catalog, LIBRARY, [entity("AssetV2")])
    await store.command("HSET", meta, "last", us_from_iso(iso) - 1, key=meta)
    await put(catalog, entity("AssetV2"))
    ((found,),) = [page.lines for page in await pages(catalog, "AssetV2", before=2**53)]
    assert found.endswith(f"AssetV2|{iso}|{ASSET_ID}".encode())
    score = await store.command("ZSCORE", stored, found, key=stored)
    assert int(float(score)) == us_from_iso(iso)


@pytest.mark.each_store
async def test_writers_at_the_same_time_share_no_stamp(catalog: Catalog) -> None:
    await asyncio.gather(
        *(put(catalog, *(entity("AssetV2", id=f"{w}-{n}") for n in range(20))) for w in range(20)),
    )
    stamps = [position_of(line).at_us for page in await pages(catalog, "AssetV2") for line in page.lines]
    assert len(set(stamps)) == 400


# Pages


@pytest.mark.each_store
async def test_a_page_begins_strictly_after_a_position(catalog: Catalog) -> None:
    await put(catalog, *(entity("AssetV2", id=name) for name in ("a", "m", "z")))
    at_us = [position_of(line).at_us for page in await pages(catalog, "AssetV2") for line in page.lines]

    async def after(us: int, entity_id: str) -> list[str]:
        return [found["id"] for found in await data(catalog, "AssetV2", after=Position(us, entity_id))]

    assert await after(at_us[1], "m") == ["z"]
    assert await after(at_us[1], "") == ["z"]
    assert await after(at_us[1], "l") == ["m", "z"]
    assert await after(at_us[1], "n") == ["z"]
    assert await after(at_us[1], "é") == ["z"]
    assert await after(at_us[1] - 1, "") == ["m", "z"]
    assert await after(at_us[2], "z") == []
    assert await after(0, "") == ["a", "m", "z"]


async def test_a_page_ends_below_the_snapshot(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2", id="a"))
    snapshot = await catalog.horizon(LIBRARY)
    await put(catalog, entity("AssetV2", id="b"))
    assert [found["id"] for found in await data(catalog, "AssetV2", before=snapshot)] == ["a"]
    (page,) = await pages(catalog, "AssetV2", before=snapshot)
    assert page.horizon_us > snapshot
    assert await data(catalog, "AssetV2", before=snapshot - 1) == []


@pytest.mark.parametrize("limit", [1, 2, 15, 16, 17, 100, 1000])
async def test_pages_hold_no_more_rows_than_asked_for_and_none_is_skipped(catalog: Catalog, limit: int) -> None:
    names = [f"a{number:03}" for number in range(300)]
    await put(catalog, *(entity("AssetV2", id=name) for name in names))
    found = await pages(catalog, "AssetV2", limit=limit)
    assert all(0 < len(page.lines) <= limit for page in found)
    assert [json.loads(line + b'"}')["data"]["id"] for page in found for line in page.lines] == names


async def test_pages_are_bounded_in_bytes(catalog: Catalog) -> None:
    sizes = [10, 70_000, 200_000, 5, *[100] * 300, 60_000, 60_000, 60_000, *[2_000] * 100, 150_000, *[1] * 50]
    await put(
        catalog,
        entity("AssetV2"),
        *(entity("AssetMetadataV1", key=f"{n}", value={"x": "y" * size}) for n, size in enumerate(sizes)),
    )
    found = await pages(catalog, "AssetMetadataV1")
    assert [json.loads(line + b'"}')["data"]["key"] for page in found for line in page.lines] == [
        str(number) for number in range(len(sizes))
    ]
    for page in found:
        assert len(page.lines) == 1 or sum(map(len, page.lines)) <= 128 * 1024
    assert len(found) < 30


async def test_ids_with_quotes_come_back_as_they_are(catalog: Catalog) -> None:
    for name in ('quo"te', "back\\slash", "ünï", "a b"):
        await put(catalog, entity("AssetV2", id=name))
        assert json.loads(await catalog.entity(LIBRARY, "AssetV2", name) or b"")["id"] == name
        await put(catalog, entity("AssetFaceV2", id="f" + name, assetId=name))
    acks = [found["ack"].split("|")[2] for found in await rows(catalog, "AssetV2")]
    assert acks == ['quo"te', "back\\slash", "ünï", "a b"]
    await put(catalog, *(entity("AssetDeleteV1", assetId=name) for name in acks))
    assert await living(catalog) == {"AssetDeleteV1": 4, "AssetFaceDeleteV1": 4}
    assert await catalog.purge_tombstones(LIBRARY, END_US) == 8
    assert await living(catalog) == {}


async def test_a_stream_below_the_horizon_just_read_is_the_same_as_any(catalog: Catalog) -> None:
    """The horizon's read tells what is there at all: types with nothing new cost nothing."""
    await put(catalog, *(entity("AssetV2", id=f"a{n:03}") for n in range(200)), entity("AssetDeleteV1", assetId="x"))
    last = (await pages(catalog, "AssetV2"))[-1].last
    snapshot = await catalog.horizon(LIBRARY)
    expected = [f"a{n:03}" for n in range(200)]
    for limit in (1, 7, 1000):
        assert [found["id"] for found in await data(catalog, "AssetV2", before=snapshot, limit=limit)] == expected
    assert await pages(catalog, "AlbumV2", before=snapshot) == []
    assert await pages(catalog, "AssetV2", before=snapshot, after=last) == []
    assert await pages(catalog, "AssetV2", before=snapshot, after=Position(last.at_us, "")) == []
    assert len(await rows(catalog, "AssetV2", before=snapshot, after=Position(last.at_us, "a100"))) == 1
    await put(catalog, entity("AssetV2", id="a199", width=1), entity("AlbumV2"), entity("AssetV2", id="b"))
    assert [found["id"] for found in await data(catalog, "AssetV2", before=snapshot)] == expected[:-1]
    assert await pages(catalog, "AssetV2", before=snapshot, after=last) == []
    assert await pages(catalog, "AlbumV2", before=snapshot) == []
    snapshot = await catalog.horizon(LIBRARY)
    assert [found["id"] for found in await data(catalog, "AssetV2", before=snapshot, after=last)] == ["a199", "b"]
    assert len(await pages(catalog, "AlbumV2", before=snapshot)) == 1


async def test_long_lines_are_bounded_below_the_horizon_just_read_too(catalog: Catalog) -> None:
    sizes = [100_000, *[10] * 500, 100_000, 100_000]
    await put(
        catalog,
        entity("AssetV2"),
        *(entity("AssetMetadataV1", key=f"{n}", value={"x": "y" * size}) for n, size in enumerate(sizes)),
    )
    found = await pages(catalog, "AssetMetadataV1", before=await catalog.horizon(LIBRARY))
    assert [json.loads(line + b'"}')["data"]["key"] for page in found for line in page.lines] == [
        str(number) for number in range(len(sizes))
    ]
    assert all(len(page.lines) == 1 or sum(map(len, page.lines)) <= 128 * 1024 for page in found)


# One variant at a time


async def test_an_id_is_in_one_variant_at_a_time(catalog: Catalog) -> None:
    for name in ("AlbumAssetCreateV2", "AlbumAssetUpdateV2", "AlbumAssetBackfillV2", "AlbumAssetUpdateV1"):
        await put(catalog, entity(name))
        assert await living(catalog) == {name.replace("V1", "V2"): 1}
    for name in ("PartnerStackV1", "PartnerStackBackfillV1", "PartnerStackDeleteV1", "PartnerStackV1"):
        await put(catalog, entity(name))
        assert (await living(catalog))[name] == 1
        assert sum((await living(catalog)).values()) == 2


async def test_a_delete_marker_and_its_upsert_replace_each_other(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), entity("AssetDeleteV1"))
    assert await living(catalog) == {"AssetDeleteV1": 1}
    assert await data(catalog, "AssetDeleteV1") == [{"assetId": ASSET_ID}]
    assert await catalog.entity(LIBRARY, "AssetV2", ASSET_ID) is None
    await put(catalog, entity("AssetV2"))
    assert await living(catalog) == {"AssetV2": 1}
    assert json.loads(await catalog.entity(LIBRARY, "AssetV2", ASSET_ID) or b"") == sample("AssetV2")


async def test_a_pair_is_deleted_by_the_id_that_it_was_given(catalog: Catalog) -> None:
    await put(catalog, entity("AlbumUserV1", "mine"))
    await put(catalog, entity("AlbumUserDeleteV1", "mine"))
    assert await living(catalog) == {"AlbumUserDeleteV1": 1}


async def test_an_asset_in_another_form_ends_its_delete_marker(catalog: Catalog) -> None:
    """A device applies PartnerAssetDeleteV1 after AssetV2: the marker would delete the new row."""
    await put(catalog, entity("PartnerAssetV2"), entity("PartnerAssetDeleteV1"), entity("AssetV2"))
    assert await living(catalog) == {"AssetV2": 1}


async def test_a_delete_ends_the_asset_in_all_its_forms(catalog: Catalog) -> None:
    await put(catalog, entity("PartnerAssetV2"), entity("AlbumAssetCreateV2"), entity("AssetV2"))
    await put(catalog, entity("AssetDeleteV1"))
    assert await living(catalog) == {"AssetDeleteV1": 1, "PartnerAssetDeleteV1": 1}
    assert await data(catalog, "PartnerAssetDeleteV1") == [{"assetId": ASSET_ID}]


# Cascades


async def test_a_deleted_asset_takes_along_what_refers_to_it(catalog: Catalog) -> None:
    await put(
        catalog,
        entity("UserV1"), entity("AssetV2"), entity("AssetV2", id="other"), entity("AssetExifV1"),
        entity("PartnerAssetExifV1"), entity("AlbumV2", thumbnailAssetId=ASSET_ID), entity("AlbumToAssetBackfillV1"),
        entity("AlbumToAssetV1", assetId="other"), entity("MemoryV1"), entity("MemoryToAssetV1"),
        entity("AssetFaceV2"), entity("AssetOcrV1"), entity("AssetEditV1"), entity("AssetMetadataV1"),
        entity("PersonV1"),
    )  # fmt: skip
    await put(catalog, entity("AssetDeleteV1"))
    assert await living(catalog) == {
        "UserV1": 1, "AssetV2": 1, "AssetDeleteV1": 1, "AlbumV2": 1, "AlbumToAssetV1": 1, "AlbumToAssetDeleteV1": 1,
        "MemoryV1": 1, "MemoryToAssetDeleteV1": 1, "AssetFaceDeleteV1": 1, "AssetOcrDeleteV1": 1,
        "AssetEditDeleteV1": 1, "AssetMetadataDeleteV1": 1, "PersonV1": 1,
    }  # fmt: skip
    assert (await data(catalog, "AlbumV2"))[0]["thumbnailAssetId"] is None
    assert await data(catalog, "AlbumToAssetDeleteV1") == [{"albumId": ALBUM_ID, "assetId": ASSET_ID}]
    (marker,) = await data(catalog, "AssetOcrDeleteV1")
    assert marker["assetId"] == ASSET_ID
    (album,) = await rows(catalog, "AlbumV2")
    (deleted,) = await rows(catalog, "AssetDeleteV1")
    assert album["ack"].split("|")[1] < deleted["ack"].split("|")[1]  # the parent goes last


async def test_a_deleted_person_leaves_the_face_without_a_name(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), entity("PersonV1"))
    await put(catalog, entity("AssetFaceV2", personId=PERSON_ID), entity("AssetFaceV2", id="f2"))
    horizon = await catalog.horizon(LIBRARY)
    await put(catalog, entity("PersonDeleteV1"))
    assert [face["personId"] for face in await data(catalog, "AssetFaceV2")] == [None, None]
    changed = [found["data"]["id"] for found in await rows(catalog, "AssetFaceV2", after=Position(horizon - 1, ""))]
    assert changed == [FACE_ID]


async def test_a_face_that_moved_to_another_person_is_left_alone(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), entity("PersonV1", id="p1"), entity("PersonV1", id="p2"))
    await put(catalog, entity("AssetFaceV2", personId="p1"))
    await put(catalog, entity("AssetFaceV2", personId="p2"))
    await put(catalog, entity("PersonDeleteV1", personId="p1"))
    assert [face["personId"] for face in await data(catalog, "AssetFaceV2")] == ["p2"]
    await put(catalog, entity("PersonDeleteV1", personId="p2"))
    assert [face["personId"] for face in await data(catalog, "AssetFaceV2")] == [None]


async def test_a_deleted_album_takes_its_members_and_places(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), entity("AlbumV2"), entity("AlbumV2", id="b"))
    await put(catalog, entity("AlbumUserV1"), entity("AlbumToAssetV1"), entity("AlbumUserV1", albumId="b"))
    await put(catalog, entity("AlbumDeleteV1"))
    assert await living(catalog) == {
        "AssetV2": 1, "AlbumV2": 1, "AlbumDeleteV1": 1,
        "AlbumUserV1": 1, "AlbumUserDeleteV1": 1, "AlbumToAssetDeleteV1": 1,
    }  # fmt: skip


@pytest.mark.each_store
async def test_a_deleted_user_takes_all_that_is_theirs(catalog: Catalog) -> None:
    other = {"ownerId": PARTNER_ID}
    await put(
        catalog,
        entity("UserV1"), entity("UserV1", id=PARTNER_ID), entity("PartnerV1"), entity("UserMetadataV1"),
        *(entity("AssetV2", id=f"a{n}") for n in range(250)), entity("AssetV2", id="theirs", **other),
        entity("AlbumAssetCreateV2", id="shared"), entity("AssetFaceV2", assetId="a7"),
        entity("AssetFaceV2", id="f2", assetId="theirs", personId=PERSON_ID), entity("PersonV1"),
        entity("AlbumV2"), entity("AlbumUserV1"), entity("MemoryV1", **other), entity("StackV1"),
    )  # fmt: skip
    await put(catalog, entity("UserDeleteV1"))
    assert await living(catalog) == {
        "UserV1": 1, "UserDeleteV1": 1, "PartnerDeleteV1": 1, "UserMetadataDeleteV1": 1, "AssetV2": 1,
        "AssetDeleteV1": 251, "AssetFaceV2": 1, "AssetFaceDeleteV1": 1, "PersonDeleteV1": 1, "AlbumV2": 1,
        "AlbumUserDeleteV1": 1, "MemoryV1": 1, "StackDeleteV1": 1,
    }  # fmt: skip
    assert (await data(catalog, "AssetFaceV2"))[0]["personId"] is None


async def test_a_delete_with_many_children_is_done_in_bounded_steps(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), *(entity("AssetOcrV1", id=f"o{number}") for number in range(1100)))
    await put(catalog, entity("AssetDeleteV1"))
    assert await living(catalog) == {"AssetDeleteV1": 1, "AssetOcrDeleteV1": 1100}


@pytest.mark.each_store
async def test_many_deletes_in_one_go(catalog: Catalog) -> None:
    await put(catalog, *(entity("AssetV2", id=f"a{n}") for n in range(600)))
    await put(catalog, *(entity("AssetFaceV2", id=f"f{n}", assetId=f"a{n}") for n in range(600)))
    written = await put(catalog, *(entity("AssetDeleteV1", assetId=f"a{n}") for n in range(600)))
    assert written == Written(taken=600)
    assert await living(catalog) == {"AssetDeleteV1": 600, "AssetFaceDeleteV1": 600}


async def test_a_row_of_a_deleted_parent_is_refused_until_the_parent_is_back(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), entity("AssetDeleteV1"), entity("PersonDeleteV1"), entity("UserDeleteV1"))
    written = await catalog.put(
        LIBRARY,
        [
            entity("AssetFaceV2"), entity("AssetExifV1"), entity("AssetFaceV2", assetId="new", personId=PERSON_ID),
            entity("AssetV2"), entity("AlbumV1"), entity("AlbumV2", id="b"),
        ],
    )  # fmt: skip
    assert [(index, path) for index, path, _ in written.refused] == [
        (0, ("data", "assetId")),
        (1, ("data", "assetId")),
        (2, ("data", "personId")),
        (3, ("data", "ownerId")),
        (4, ("data", "ownerId")),
    ]
    assert written.taken == 1
    written = await put(catalog, entity("UserV1"), entity("AlbumAssetCreateV2"), entity("AssetFaceV2"))
    assert written == Written(taken=3)


async def test_exif_of_an_asset_that_came_back_does_not_stay_from_before(catalog: Catalog) -> None:
    """Exif has no delete marker: a device that missed the asset's delete would keep what it has."""
    await put(catalog, entity("AssetV2"), entity("AssetExifV1"), entity("AssetDeleteV1"))
    assert await living(catalog) == {"AssetDeleteV1": 1}
    await put(catalog, entity("AssetV2"))
    (exif,) = await data(catalog, "AssetExifV1")
    assert exif == {**dict.fromkeys(sample("AssetExifV1")), "assetId": ASSET_ID}
    assert await put(catalog, entity("AssetExifV1")) == Written(taken=1)
    assert await data(catalog, "AssetExifV1") == [sample("AssetExifV1")]
    await put(catalog, entity("AssetV2", id="without"), entity("AssetDeleteV1", assetId="without"))
    await put(catalog, entity("AssetV2", id="without"))
    assert len(await data(catalog, "AssetExifV1")) == 1


# Versions


async def test_a_version_is_served_from_the_other(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV1"), entity("AssetFaceV2"))
    assert await data(catalog, "AssetV2") == [sample("AssetV2")]
    assert await data(catalog, "AssetV1") == [sample("AssetV1")]
    assert await data(catalog, "AssetFaceV1") == [sample("AssetFaceV1")]
    ((old,), (new,)) = (await rows(catalog, "AssetV1"), await rows(catalog, "AssetV2"))
    assert old["type"] == "AssetV1"
    assert old["ack"] == new["ack"].replace("AssetV2|", "AssetV1|")
    assert json.loads(await catalog.entity(LIBRARY, "AssetV1", ASSET_ID) or b"") == sample("AssetV1")
    assert await put(catalog, entity("AssetV2")) == Written(unchanged=1)


async def test_devices_of_3_3_get_what_others_do_under_its_names(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), entity("AssetFaceV2"), entity("AssetFaceV3", id="f2"), entity("AuthUserV1"))
    ((v2, _), (v3, _)) = (await rows(catalog, "AssetFaceV2"), await rows(catalog, "AssetFaceV3"))
    assert v3 == {**v2, "type": "AssetFaceV3", "ack": v2["ack"].replace("AssetFaceV2|", "AssetFaceV3|")}
    assert await data(catalog, "AuthUserV2") == [sample("AuthUserV2")]
    await put(catalog, entity("AuthUserV2", oauthId="sub"))
    assert await data(catalog, "AuthUserV1") == [sample("AuthUserV1", oauthId="sub")]
    assert await put(catalog, entity("AssetFaceV3")) == Written(unchanged=1)
    await put(catalog, entity("AssetFaceDeleteV1"))
    assert [face["id"] for face in await data(catalog, "AssetFaceV3")] == ["f2"]


async def test_who_signs_in_has_the_name_of_their_identity_record_in_every_version(store: Store) -> None:
    async def profile(user: str) -> Profile | None:
        return Profile(user, LIBRARY, "ann@example.test", "Ann", admin=True)

    catalog = Catalog(store, profiles=profile)
    await provisioned(catalog)
    ((v1,), (v2,)) = (await data(catalog, "AuthUserV1"), await data(catalog, "AuthUserV2"))
    assert v2 == {**v1, "oauthId": None}
    assert (v2["name"], v2["isAdmin"]) == ("Ann", True)
    assert json.loads(await catalog.entity(LIBRARY, "AuthUserV2", USER_ID) or b"") == v2


BIRTHDAY: dict[str, Any] = {"type": "birthday", "data": {"personId": PERSON_ID, "personName": "Grace"}}


async def test_older_devices_have_only_the_memories_that_they_know_and_what_is_in_those(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), entity("AssetV2", id="b"), entity("MemoryV1"), entity("MemoryToAssetV1"))
    await put(catalog, entity("MemoryV2", id="birthday", **BIRTHDAY))
    links = [entity("MemoryToAssetV2", memoryId="birthday", assetId=asset) for asset in (ASSET_ID, "b")]
    await put(catalog, *links, entity("MemoryToAssetV2", assetId="b"))
    assert await data(catalog, "MemoryV1") == [sample("MemoryV1")]
    assert await data(catalog, "MemoryV2") == [sample("MemoryV2"), sample("MemoryV2", id="birthday", **BIRTHDAY)]
    known, every = await data(catalog, "MemoryToAssetV1"), await data(catalog, "MemoryToAssetV2")
    assert [(link["memoryId"] == "birthday", link["assetId"]) for link in known] == [(False, ASSET_ID), (False, "b")]
    assert [link["memoryId"] == "birthday" for link in every] == [False, True, True, False]
    assert await catalog.entity(LIBRARY, "MemoryV1", "birthday") is None
    pages_of_one = [page for page in await pages(catalog, "MemoryToAssetV1", limit=1) if page.lines]
    assert len(pages_of_one) == 2, "a page of which nothing is left is no page"
    await put(catalog, entity("MemoryDeleteV1", memoryId="birthday"))
    assert await data(catalog, "MemoryDeleteV1") == [{"memoryId": "birthday"}]
    assert len(await data(catalog, "MemoryToAssetV2")) == 2


async def test_what_older_devices_do_not_get_is_in_exports_and_can_be_imported(catalog: Catalog, store: Store) -> None:
    await put(catalog, entity("AssetV2"), entity("MemoryV1"), entity("MemoryV2", id="birthday", **BIRTHDAY))
    await put(catalog, entity("MemoryToAssetV2", memoryId="birthday"))
    lines = [line for page in [page async for page in catalog.entities(LIBRARY)] for line in page]
    await catalog.put("L2", [read_line(line) for line in lines])
    assert [line for page in [page async for page in catalog.entities("L2")] for line in page] == lines
    there = [page async for page in catalog.pages("L2", "MemoryV2", None, END_US, 10)]
    assert [json.loads(line + b'"}')["data"]["type"] for line in there[0].lines] == ["on_this_day", "birthday"]


async def test_an_album_v1_waits_for_its_owner_and_then_comes_again(catalog: Catalog) -> None:
    await put(catalog, entity("AlbumV2"), entity("AlbumUserV1", userId="someone", role="editor"))
    assert await data(catalog, "AlbumV1") == []
    assert await catalog.entity(LIBRARY, "AlbumV1", ALBUM_ID) is None
    done = (await pages(catalog, "AlbumV2"))[0].last
    await put(catalog, entity("AlbumUserV1"))
    assert await data(catalog, "AlbumV1", after=done) == [sample("AlbumV1")]
    done = (await pages(catalog, "AlbumV1"))[0].last
    await put(catalog, entity("AlbumUserV1"), entity("AlbumUserV1", userId="someone", role="viewer"))
    assert await data(catalog, "AlbumV1", after=done) == []


async def test_an_album_v1_writes_its_owner_and_a_new_one_replaces_the_former(catalog: Catalog) -> None:
    await put(catalog, entity("AlbumV1"), entity("AlbumUserV1", userId="guest", role="viewer"))
    assert await data(catalog, "AlbumV2") == [sample("AlbumV2")]
    assert sample("AlbumUserV1") in await data(catalog, "AlbumUserV1")
    assert await put(catalog, entity("AlbumV1")) == Written(unchanged=1)
    await put(catalog, entity("AlbumV1", ownerId=PARTNER_ID))
    assert [album["ownerId"] for album in await data(catalog, "AlbumV1")] == [PARTNER_ID]
    assert await data(catalog, "AlbumUserDeleteV1") == [{"albumId": ALBUM_ID, "userId": USER_ID}]
    assert {member["userId"]: member["role"] for member in await data(catalog, "AlbumUserV1")} == {
        "guest": "viewer",
        PARTNER_ID: "owner",
    }


async def test_an_owner_with_a_given_id_is_not_doubled(catalog: Catalog) -> None:
    await put(catalog, entity("AlbumV2"), entity("AlbumUserV1", "mine"), entity("AlbumV1"))
    assert await living(catalog) == {"AlbumV2": 1, "AlbumUserV1": 1}


# Children held back


async def held(
    catalog: Catalog, entity_type: str, snapshot: int, limits: dict[str, Position] | None = None
) -> Waiting | None:
    (page,) = await pages(catalog, entity_type, before=snapshot)
    return await catalog.first_waiting(LIBRARY, entity_type, page, snapshot, limits or {})


async def test_a_child_waits_for_a_parent_that_changed_since_the_snapshot(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), entity("AssetV2", id="b"))
    await put(catalog, entity("AssetFaceV2", id="f1", assetId="b"), entity("AssetFaceV2", id="f2"))
    snapshot = await catalog.horizon(LIBRARY)
    assert await held(catalog, "AssetFaceV2", snapshot) is None
    await put(catalog, entity("PersonV1"))
    assert await held(catalog, "AssetFaceV2", snapshot) is None
    await put(catalog, entity("AssetV2", isFavorite=True))
    found = await held(catalog, "AssetFaceV2", snapshot)
    assert found is not None
    assert (found.index, found.position.id) == (1, "f2")
    found = await held(catalog, "AssetFaceV1", snapshot)
    assert found is not None
    assert found.index == 1
    assert await held(catalog, "AssetFaceV2", await catalog.horizon(LIBRARY)) is None


async def test_a_child_waits_for_a_parent_behind_the_cut_of_its_run(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), entity("AssetV2", id="b"), entity("AssetExifV1"), entity("UserV1"))
    snapshot = await catalog.horizon(LIBRARY)
    places = [position_of(line) for page in await pages(catalog, "AssetV2") for line in page.lines]
    assert await held(catalog, "AssetExifV1", snapshot, {"AssetV2": places[1]}) is None
    for cut in ({"AssetV2": places[0]}, {"AssetV1": places[0]}):
        found = await held(catalog, "AssetExifV1", snapshot, cut)
        assert found is not None
        assert found.index == 0
    assert await held(catalog, "AssetExifV1", snapshot, {"PersonV1": places[0]}) is None


async def test_an_album_v1_waits_for_its_owner(catalog: Catalog) -> None:
    await put(catalog, entity("UserV1"), entity("AlbumV1"))
    snapshot = await catalog.horizon(LIBRARY)
    await put(catalog, entity("UserV1", name="Ada L."))
    assert await held(catalog, "AlbumV2", snapshot) is None
    found = await held(catalog, "AlbumV1", snapshot)
    assert found is not None
    assert found.position.id == ALBUM_ID


async def test_one_form_of_the_parent_that_was_sent_is_enough(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), entity("AlbumToAssetV1"), entity("AlbumV2"))
    snapshot = await catalog.horizon(LIBRARY)
    await put(catalog, entity("AlbumAssetCreateV2"))
    assert await held(catalog, "AlbumToAssetV1", snapshot) is None
    await put(catalog, entity("AssetV2", isFavorite=True))
    assert await held(catalog, "AlbumToAssetV1", snapshot) is not None


# Writers at the same time


async def owners_of(catalog: Catalog, album: str) -> list[str]:
    members = await data(catalog, "AlbumUserV1")
    return [found["userId"] for found in members if found["albumId"] == album and found["role"] == "owner"]


async def test_an_album_has_one_owner_whoever_writes_it_at_the_same_time(catalog: Catalog, store: Store) -> None:
    users = [f"user{number}" for number in range(4)]
    await put(catalog, *(entity("UserV1", id=user) for user in users))
    albums = [entity("AlbumV1", id=f"b{number}", ownerId=users[0]) for number in range(10)]
    await put(catalog, *albums)
    first, second, third = (
        [entity("AlbumV1", id=album.id, name=user, ownerId=user) for album in albums] for user in users[1:]
    )
    member = [entity("AlbumUserV1", albumId=album.id, userId=users[3], role="owner") for album in albums]
    for several in ((first, second), (second, third, first), (member, first)):
        for number in range(len(albums)):
            await asyncio.gather(*(Catalog(store).put(LIBRARY, [rows[number]]) for rows in several))
    for album in await data(catalog, "AlbumV1"):
        assert await owners_of(catalog, album["id"]) == [album["ownerId"]]
        assert album["name"] in (album["ownerId"], users[1])  # an album and its owner are written in one go


async def test_an_album_keeps_one_owner_when_one_that_was_waited_for_comes(catalog: Catalog) -> None:
    await catalog.put(LIBRARY, [entity("UserV1"), entity("AlbumV1"), entity("AlbumV1", ownerId="late")])
    assert await owners_of(catalog, ALBUM_ID) == [USER_ID]
    await catalog.put(LIBRARY, [entity("UserV1", id="late")])
    assert await owners_of(catalog, ALBUM_ID) == ["late"]
    assert await living(catalog) == {"UserV1": 2, "AlbumV2": 1, "AlbumUserV1": 1, "AlbumUserDeleteV1": 1}


async def test_who_owns_an_album_under_a_given_id_is_not_written_again(catalog: Catalog) -> None:
    await put(catalog, entity("AlbumV2"), entity("AlbumUserBackfillV1", "given"))
    assert await put(catalog, entity("AlbumV1")) == Written(unchanged=1)
    assert await living(catalog) == {"AlbumV2": 1, "AlbumUserBackfillV1": 1}


async def test_an_album_that_is_refused_keeps_its_owner(catalog: Catalog) -> None:
    await put(catalog, entity("AlbumV1"), entity("UserV1", id="b"), entity("AssetDeleteV1"))
    written = await put(catalog, entity("AlbumV1", ownerId="b", thumbnailAssetId=ASSET_ID))
    assert [path for _, path, _ in written.refused] == [("data", "thumbnailAssetId")]
    assert await owners_of(catalog, ALBUM_ID) == [USER_ID]


@pytest.mark.parametrize("entity_type", ["AssetV2", "AlbumAssetCreateV2"])
async def test_no_row_of_a_user_comes_while_they_are_deleted(valkey_store: Store, entity_type: str) -> None:
    """Each write of the delete is a moment at which another writer adds a row of the user, and changes one's owner."""
    meanwhile = Meanwhile(valkey_store)
    catalog, other = Catalog(meanwhile), Catalog(valkey_store)
    await put(other, entity("UserV1"), entity("UserV1", id="b"), *(entity(entity_type, id=f"a{n}") for n in range(5)))
    refused: list[bool] = []

    async def write() -> None:
        name = f"new{len(refused)}"
        written = await other.put(LIBRARY, [entity(entity_type, id=name), entity(entity_type, id="a3", ownerId="b")])
        refused.append(bool(written.refused))

    meanwhile.write = write
    await catalog.put(LIBRARY, [entity("UserDeleteV1")])
    assert refused[-1]
    assert [(asset["id"], asset["ownerId"]) for asset in await data(other, entity_type)] == [("a3", "b")]
    await put(other, entity("UserV1"), entity(entity_type, id="again"))
    assert len(await data(other, entity_type)) == 2


class Meanwhile:
    """A store behind each of whose scripts somebody else writes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.write: Callable[[], Awaitable[None]] | None = None

    async def command(self, *args: Arg, key: bytes) -> Any:
        return await self._store.command(*args, key=key)

    async def script(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg]) -> Any:
        if self.write is not None:
            await self.write()
        return await self._store.script(script, keys, args)

    async def each_primary(self, *args: Arg) -> list[Any]:
        return await self._store.each_primary(*args)

    async def close(self) -> None:
        await self._store.close()


# The rows of those who sign in


async def provisioned(catalog: Catalog, user: str = USER_ID, library: str = LIBRARY) -> int:
    return await catalog.of_session(user, "s").provision(library, await catalog.horizon(library))


async def test_an_album_without_an_owner_is_there_for_what_hangs_on_it_in_both_versions(catalog: Catalog) -> None:
    await put(catalog, entity("UserV1"), entity("AssetV2"), entity("AlbumV2", thumbnailAssetId=None))
    await put(catalog, entity("AlbumToAssetV1"))
    asking = catalog.of_session("bob", "s")
    before = await asking.provision(LIBRARY, await catalog.horizon(LIBRARY))
    pages = [page async for page in asking.pages(LIBRARY, "AlbumV1", None, before, 1000)]
    found = [json.loads(line + b'"}')["data"] for page in pages for line in page.lines]
    assert [(album["id"], album["ownerId"]) for album in found] == [(ALBUM_ID, "bob")]
    await put(catalog, entity("AlbumUserV1", role="owner"))
    later = [page async for page in asking.pages(LIBRARY, "AlbumV1", None, await catalog.horizon(LIBRARY), 1000)]
    owners = [json.loads(line + b'"}')["data"]["ownerId"] for page in later for line in page.lines]
    assert owners == [sample("AlbumUserV1")["userId"]]


async def test_who_signs_in_is_a_user_of_the_library_and_what_waited_for_them_goes(catalog: Catalog) -> None:
    await catalog.put(LIBRARY, [entity("AssetV2"), entity("AssetExifV1"), entity("AssetV2", id="b", ownerId="other")])
    horizon = await provisioned(catalog)
    assert horizon == await catalog.horizon(LIBRARY)
    assert await living(catalog) == {"AuthUserV1": 1, "UserV1": 1, "AssetV2": 1, "AssetExifV1": 1}
    assert [held.parent for held in await catalog.held_back(LIBRARY)] == ["user|other"]
    for name in ("AuthUserV1", "UserV1"):
        ((found,),) = [await data(catalog, name)]
        assert (found["id"], found["name"], found["email"]) == (USER_ID, USER_ID, f"{USER_ID}@localhost")
    assert await provisioned(catalog) == horizon
    assert await catalog.libraries() == [LIBRARY]


async def test_rows_that_somebody_wrote_stay_and_replace_those_that_were_made(catalog: Catalog) -> None:
    await put(catalog, entity("UserV1"))
    await provisioned(catalog)
    assert await data(catalog, "UserV1") == [sample("UserV1")]
    assert len(await data(catalog, "AuthUserV1")) == 1
    assert await put(catalog, entity("AuthUserV1")) == Written(taken=1)
    assert await data(catalog, "AuthUserV1") == [sample("AuthUserV1")]
    horizon = await catalog.horizon(LIBRARY)
    await catalog.renamed(LIBRARY, USER_ID)
    assert await provisioned(catalog) == horizon


async def test_a_deleted_user_is_not_made_again_until_the_marker_is_gone(catalog: Catalog) -> None:
    await provisioned(catalog)
    await put(catalog, entity("UserDeleteV1"))
    await provisioned(catalog)
    assert await data(catalog, "UserV1") == []
    await catalog.purge_tombstones(LIBRARY, END_US)
    await provisioned(Catalog(catalog._store))
    assert len(await data(catalog, "UserV1")) == 1


async def test_sessions_that_begin_at_once_make_a_user_once(catalog: Catalog, store: Store) -> None:
    await asyncio.gather(*(provisioned(Catalog(store)) for _ in range(20)), put(Catalog(store), entity("UserV1")))
    assert await data(catalog, "UserV1") == [sample("UserV1")]
    assert len(await data(catalog, "AuthUserV1")) == 1


async def test_names_come_from_the_identity_record_and_are_stored_nowhere_else(store: Store) -> None:
    profiles = {USER_ID: Profile(USER_ID, LIBRARY, "ann@example.test", "Ann", admin=True)}

    async def profile(user: str) -> Profile | None:
        return profiles.get(user)

    catalog = Catalog(store, lambda: 10**15, profiles=profile)  # renamed in the very moment in which it was made
    await provisioned(catalog)
    (auth_user,) = await data(catalog, "AuthUserV1")
    assert (auth_user["name"], auth_user["email"], auth_user["isAdmin"]) == ("Ann", "ann@example.test", True)
    assert json.loads(await catalog.entity(LIBRARY, "UserV1", USER_ID) or b"")["name"] == "Ann"
    done = Position(await catalog.horizon(LIBRARY), "")
    del profiles[USER_ID]
    await catalog.renamed(LIBRARY, USER_ID)
    assert [user["name"] for user in await data(catalog, "UserV1", after=done)] == [USER_ID]
    assert [user["isAdmin"] for user in await data(catalog, "AuthUserV1", after=done)] == [False]


async def test_rows_of_so_many_users_are_remembered_at_most(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "MOST_USERS", 3)
    names = [f"user-{number}" for number in range(8)]
    await put(catalog, *(entity("UserV1", id=name) for name in names))
    for name in (*names, *names):
        assert json.loads(await catalog.entity(LIBRARY, "UserV1", name) or b"")["id"] == name
    assert len(catalog._versions._users) == 3


async def test_a_users_row_is_read_again_only_where_it_lies_elsewhere(catalog: Catalog, store: Store) -> None:
    read: list[Arg] = []

    class Watched(Meanwhile):
        async def command(self, *args: Arg, key: bytes) -> Any:
            read.append(args[0])
            return await store.command(*args, key=key)

    reader = Catalog(Watched(store))

    async def name() -> str | None:
        read.clear()
        found = await reader.entity(LIBRARY, "UserV1", USER_ID)
        return None if found is None else str(json.loads(found)["name"])

    assert await name() is None
    await put(catalog, entity("UserV1", name="Ann", email="ann@example.test"))
    assert (await name(), read) == ("Ann", ["HGET", "ZRANGEBYSCORE"])
    assert (await name(), read) == ("Ann", ["HGET"])
    await put(catalog, entity("UserV1", name="Anna", email="ann@example.test"))
    assert (await name(), read) == ("Anna", ["HGET", "ZRANGEBYSCORE"])
    await put(catalog, entity("UserDeleteV1", userId=USER_ID))
    assert await name() is None


# Forgetting, moving, listing


@pytest.mark.each_store
async def test_purged_delete_markers_raise_the_floor(catalog: Catalog) -> None:
    await put(catalog, *(entity("AssetDeleteV1", assetId=f"a{number}") for number in range(1200)))
    old = await catalog.horizon(LIBRARY)
    await put(catalog, entity("AlbumDeleteV1"), entity("AssetV2"))
    assert await catalog.purge_tombstones(LIBRARY, 1) == 0
    assert await catalog.tombstone_floor(LIBRARY) == 0
    assert await catalog.purge_tombstones(LIBRARY, old) == 1200
    assert await catalog.tombstone_floor(LIBRARY) == old - 1
    assert await living(catalog) == {"AlbumDeleteV1": 1, "AssetV2": 1}
    assert await put(catalog, entity("AssetFaceV2", assetId="a5")) == Written(
        taken=1, waiting=1, held_back={"AssetFaceV2": 1}
    )


async def test_a_purge_leaves_nothing_of_what_was_deleted(catalog: Catalog, store: Store) -> None:
    await put(catalog, entity("AssetV2"), entity("AssetExifV1"), entity("AssetFaceV2"), entity("AssetDeleteV1"))
    await catalog.purge_tombstones(LIBRARY, END_US)
    assert await living(catalog) == {}
    for form in ("asset", "exif", "face"):
        key = keys.catalog_ids(LIBRARY, form)
        assert await store.command("EXISTS", key, key=key) == 0
    edges = keys.catalog_edges(LIBRARY)
    assert await store.command("EXISTS", edges, key=edges) == 0


@pytest.mark.each_store
async def test_an_owner_stays_while_others_refer_to_the_row(catalog: Catalog) -> None:
    """A device that deletes the former owner loses the row's children, which would not be sent again."""
    await put(catalog, entity("AssetV2"), entity("PersonV1"), entity("AssetV2", id="free"), entity("AssetV2", id="b"))
    await put(catalog, entity("AssetExifV1"), entity("AssetFaceV2", assetId="b", personId=PERSON_ID))
    other = {"ownerId": PARTNER_ID}
    written = await put(catalog, entity("AssetV2", **other), entity("PersonV1", **other), entity("MemoryV1", **other))
    assert [(index, path) for index, path, _ in written.refused] == [(0, ("data", "ownerId")), (1, ("data", "ownerId"))]
    assert await put(catalog, entity("AssetV2", id="free", **other), entity("AssetV2", width=5)) == Written(taken=2)
    await put(catalog, entity("AssetDeleteV1"))
    assert await put(catalog, entity("AssetV2", **other)) == Written(taken=1)


@pytest.mark.each_store
async def test_libraries_do_not_touch_each_other(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), entity("AssetFaceV2"))
    await put(catalog, entity("AssetV2"), entity("AssetDeleteV1"), library="L2")
    assert await living(catalog) == {"AssetV2": 1, "AssetFaceV2": 1}
    assert await living(catalog, "L2") == {"AssetDeleteV1": 1}
    assert await catalog.horizon("L3") == START_US
    assert await catalog.libraries() == ["L1", "L2"]
    with pytest.raises(InvalidInput):
        await put(catalog, entity("AssetV2"), library="no{tags}")


async def test_the_listing_is_what_import_reads(catalog: Catalog) -> None:
    written = [entity("UserV1"), entity("AssetV2"), entity("AlbumUserV1", "mine"), entity("AlbumV2")]
    await put(catalog, *written, entity("AssetDeleteV1", assetId="gone"))
    listed = [read_line(line) for page in [page async for page in catalog.entities(LIBRARY)] for line in page]
    assert sorted(listed, key=lambda found: found.row.name) == sorted(written, key=lambda found: found.row.name)
    with_markers = [page async for page in catalog.entities(LIBRARY, ["AssetDeleteV1"], markers=True)]
    assert len(with_markers) == 1


@pytest.mark.each_store
@pytest.mark.parametrize(
    "broken",
    [
        keys.catalog_ids(LIBRARY, "edit"),
        keys.catalog_rows(LIBRARY, "AssetEditDeleteV1"),
        keys.catalog_ids(LIBRARY, "partner_asset"),
        keys.catalog_rows(LIBRARY, "AlbumAssetExifUpdateV1"),
        keys.catalog_ids(LIBRARY, "user"),
        keys.catalog_edges(LIBRARY),
    ],
    ids=["its-ids", "its-rows", "another-form", "its-parts", "its-parents", "edges"],
)
async def test_a_key_of_another_kind_stops_the_write_before_it_begins(
    catalog: Catalog, store: Store, broken: bytes
) -> None:
    await store.command("SET", broken, "of no kind that a catalog has", key=broken)
    with pytest.raises(StoreReplyError, match="WRONGTYPE"):
        await catalog.put(LIBRARY, [entity("AssetV2"), entity("AssetEditV1")])
    assert await catalog.horizon(LIBRARY) == START_US
    assert await pages(catalog, "AssetV2") == []


@pytest.mark.parametrize("broken", [keys.catalog_waiting, keys.catalog_wanted, keys.catalog_arrived])
async def test_where_rows_wait_a_key_of_another_kind_stops_the_write_before_it_begins(
    catalog: Catalog, store: Store, broken: Callable[[str], bytes]
) -> None:
    await put(catalog, entity("UserV1"), entity("AssetEditV1"))  # that waits for its asset
    before = await assets(store)
    await store.command("DEL", broken(LIBRARY), key=broken(LIBRARY))
    await store.command("SET", broken(LIBRARY), "of no kind that a catalog has", key=broken(LIBRARY))
    with pytest.raises(StoreReplyError, match="WRONGTYPE"):
        await catalog.put(LIBRARY, [entity("AssetV2")])
    assert await assets(store) == before


async def assets(store: Store) -> Any:
    """Read which assets are there, and where."""
    name = keys.catalog_ids(LIBRARY, "asset")
    return await store.command("HGETALL", name, key=name)


async def test_all_that_a_write_touches_is_looked_at_before_it_begins(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = "if wrong then return redis.error_reply(wrong) end\n"
    late = "setmetatable(tables, { __index = function(_, name) error(name .. ' is looked at too late') end })\n"
    assert WRITE.text.count(looked) == 1
    monkeypatch.setattr(writer, "WRITE", Script("write", WRITE.text.replace(looked, looked + late)))
    upserts = [name for name in STORED_TYPES if not row(name).is_delete]
    markers = [name for name in STORED_TYPES if row(name).is_delete]
    for round_of in (upserts, upserts[::-1], markers[::-1], upserts, markers):
        for name in round_of:
            await catalog.put(LIBRARY, [entity(name)])
            await catalog.put(LIBRARY, [entity(name)])


async def test_how_much_lies_ahead(catalog: Catalog) -> None:
    assert await catalog.ahead(LIBRARY, "AssetV2", None, END_US) == Ahead(0, None)
    await put(catalog, *(entity("AssetV2", id=f"{ASSET_ID[:-1]}{n}") for n in range(5)))
    await put(catalog, entity("AlbumV2"))
    positions = [page.last for page in await pages(catalog, "AssetV2", limit=1)]
    assert len(positions) == 5
    newest_us = positions[-1].at_us
    assert await catalog.ahead(LIBRARY, "AssetV2", None, END_US) == Ahead(5, newest_us)
    assert await catalog.ahead(LIBRARY, "AssetV1", None, END_US) == Ahead(5, newest_us)
    assert await catalog.ahead(LIBRARY, "AlbumToAssetV1", None, END_US) == Ahead(0, None)
    for index, position in enumerate(positions):
        at_us = position.at_us
        rest = Ahead(4 - index, newest_us if index < 4 else None)
        assert await catalog.ahead(LIBRARY, "AssetV2", position, END_US) == rest
        assert await catalog.ahead(LIBRARY, "AssetV2", Position(at_us, ""), END_US) == rest
        and_itself = Ahead(5 - index, newest_us)
        assert await catalog.ahead(LIBRARY, "AssetV2", Position(at_us, "0"), END_US) == and_itself
        assert await catalog.ahead(LIBRARY, "AssetV2", Position(at_us - 1, ""), END_US) == and_itself
        before = Ahead(index, positions[index - 1].at_us if index else None)
        assert await catalog.ahead(LIBRARY, "AssetV2", None, at_us) == before
    assert await catalog.ahead(LIBRARY, "AssetV2", positions[2], positions[1].at_us) == Ahead(0, None)
    assert await catalog.ahead("other", "AssetV2", None, END_US) == Ahead(0, None)
