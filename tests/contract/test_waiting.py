"""Rows whose parents are not there: on every backend they wait, unsent, and go on their way when the parents come."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from ledger import keys
from ledger.positions import Position
from ledger.store.interface import Store
from ledger.store.scripts import Arg, Script
from ops.backup.fill import put_other
from projections.backup.dump import CatalogDump
from projections.backup.format import Pairs
from projections.entities.catalog.catalog import Catalog
from projections.entities.catalog.layout import WAITS_US, keys_of
from projections.entities.catalog.write_arguments import LOOKED_AT_ROWS, Write, arguments
from projections.entities.catalog.writer import WRITE, Written
from projections.entities.entity import Entity, read_line
from projections.entities.source import Ahead, HeldBack
from tests.support.sources.owners import let_owners_be_there, living_but_owners
from tests.support.sources.samples import ASSET_ID, PARTNER_ID, PERSON_ID, USER_ID, sample
from tests.support.stores.fake_store import FakeStore

LIBRARY = "L1"
PARENT = f"asset|{ASSET_ID}"


@pytest.fixture
def catalog(store: Store) -> Catalog:
    return Catalog(store)


def entity(entity_type: str, entity_id: str | None = None, **changes: Any) -> Entity:
    line = {"type": entity_type, "data": sample(entity_type, **changes)}
    return read_line(json.dumps(line if entity_id is None else {**line, "id": entity_id}).encode())


async def put(catalog: Catalog, *entities: Entity) -> Written:
    await let_owners_be_there(catalog, LIBRARY, entities)
    return await catalog.put(LIBRARY, entities)


async def put_alone(catalog: Catalog, *entities: Entity) -> Written:
    """Write these and nobody's user with them."""
    return await catalog.put(LIBRARY, entities)


async def rows(catalog: Catalog, entity_type: str, after: Position | None = None) -> list[dict[str, Any]]:
    """Read all that a device gets of a type below the horizon."""
    before = await catalog.horizon(LIBRARY)
    pages = [page async for page in catalog.pages(LIBRARY, entity_type, after, before, 1000)]
    return [json.loads(line + b'"}') for page in pages for line in page.lines]


async def data(catalog: Catalog, entity_type: str, **bounds: Any) -> list[dict[str, Any]]:
    return [found["data"] for found in await rows(catalog, entity_type, **bounds)]


async def stamps(catalog: Catalog, *types: str) -> list[str]:
    """Tell the times of all rows of some types, in this order."""
    return [found["ack"].split("|")[1] for name in types for found in await rows(catalog, name)]


async def living(catalog: Catalog) -> dict[str, int]:
    return await living_but_owners(catalog, LIBRARY)


async def waiting(catalog: Catalog) -> dict[str, int]:
    return {held.entity_type: held.rows for held in await catalog.held_back(LIBRARY)}


async def nothing_is_left(store: Store) -> bool:
    """Tell whether no trace is left of rows that waited."""
    of = [make(LIBRARY) for make in (keys.catalog_waiting, keys.catalog_wanted, keys.catalog_arrived)]
    return [await store.command("EXISTS", key, key=key) for key in of] == [0, 0, 0]


# Waiting and going


async def test_a_row_without_its_parent_is_sent_when_the_parent_is_there_and_after_it(
    catalog: Catalog, store: Store
) -> None:
    assert await put(catalog, entity("AssetExifV1")) == Written(taken=1, waiting=1, held_back={"AssetExifV1": 1})
    horizon = await catalog.horizon(LIBRARY)
    assert await rows(catalog, "AssetExifV1") == []
    assert await catalog.ahead(LIBRARY, "AssetExifV1", None, horizon) == Ahead(0, None)
    assert await catalog.changed(LIBRARY, {"AssetExifV1": None}, horizon) == frozenset()
    assert await catalog.entity(LIBRARY, "AssetExifV1", ASSET_ID) is None
    assert await living(catalog) == {}
    assert await catalog.held_back(LIBRARY) == [HeldBack("AssetExifV1", 1, "missing_parent", ASSET_ID, PARENT)]

    assert await put(catalog, entity("AssetV2")) == Written(taken=1)
    assert await data(catalog, "AssetExifV1", after=Position(horizon, "")) == [sample("AssetExifV1")]
    parent, child = await stamps(catalog, "AssetV2", "AssetExifV1")
    assert parent < child
    assert await catalog.held_back(LIBRARY) == ()
    assert await nothing_is_left(store)
    assert await put(catalog, entity("AssetExifV1")) == Written(unchanged=1)


@pytest.mark.parametrize(
    ("child", "parents"),
    [
        (entity("AlbumV2", thumbnailAssetId=ASSET_ID), ["AssetV2"]),
        (entity("AssetFaceV2", personId=PERSON_ID), ["AssetV2", "PersonV1"]),
        (entity("AssetFaceV1", personId=PERSON_ID), ["PersonV1", "AssetV1"]),
        (entity("AlbumToAssetV1"), ["AlbumV2", "AssetV2"]),
        (entity("AlbumToAssetBackfillV1"), ["AssetV2", "AlbumV2"]),
        (entity("MemoryToAssetV1"), ["MemoryV1", "AssetV2"]),
        (entity("AlbumUserV1", role="viewer"), ["AlbumV2"]),
        (entity("PartnerAssetExifBackfillV1"), ["PartnerAssetBackfillV2"]),
        (entity("AlbumAssetExifUpdateV1"), ["AlbumAssetCreateV1"]),
        (entity("AssetExifV1"), ["PartnerAssetV2"]),  # an asset in any form
        (entity("AssetOcrV1"), ["AssetV2"]),
        (entity("AssetEditV1"), ["AssetV2"]),
        (entity("AssetMetadataV1"), ["AssetV2"]),
    ],
    ids=lambda found: found.row.name if isinstance(found, Entity) else "+".join(found),
)
async def test_every_reference_is_waited_for(catalog: Catalog, store: Store, child: Entity, parents: list[str]) -> None:
    assert (await put(catalog, child)).waiting == 1
    for name in parents:
        assert await waiting(catalog) == {child.row.name: 1}
        assert await rows(catalog, child.row.name) == []
        await put(catalog, entity(name))
    assert await waiting(catalog) == {}
    assert len(await rows(catalog, child.row.name)) == 1
    assert await nothing_is_left(store)


async def test_what_hangs_on_a_row_that_waits_waits_too_and_goes_after_it(catalog: Catalog, store: Store) -> None:
    await put(catalog, entity("AlbumToAssetV1", assetId="b"), entity("AlbumUserV1"), entity("AssetV2", id="b"))
    await put(catalog, entity("AlbumV2", thumbnailAssetId=ASSET_ID))
    assert await waiting(catalog) == {"AlbumV2": 1, "AlbumUserV1": 1, "AlbumToAssetV1": 1}
    await put(catalog, entity("AssetV2"))
    assert await waiting(catalog) == {}
    _, asset, place, album, member = await stamps(catalog, "AssetV2", "AlbumToAssetV1", "AlbumV2", "AlbumUserV1")
    assert asset < place
    assert asset < member < album  # an owner gives the album a new time
    assert await nothing_is_left(store)


async def test_parents_and_children_in_one_batch_in_any_order(catalog: Catalog, store: Store) -> None:
    batch = [
        entity("UserV1"), entity("AssetV2"), entity("AssetExifV1"), entity("PersonV1"), entity("AlbumV1"),
        entity("AssetFaceV2", personId=PERSON_ID), entity("AlbumToAssetV1"), entity("MemoryV1"),
        entity("MemoryToAssetV1"), entity("UserMetadataV1"), entity("StackV1"),
    ]  # fmt: skip
    for seed in range(20):
        random.Random(seed).shuffle(batch)
        written = await put(catalog, *batch)
        assert (written.taken + written.unchanged, written.refused) == (len(batch), [])
        assert await waiting(catalog) == {}
        assert len(await living(catalog)) == len(batch) + 1
        await put(catalog, entity("UserV1", id="other"), entity("UserDeleteV1"), entity("AlbumDeleteV1"))
        for name in ("AssetDeleteV1", "PersonDeleteV1", "MemoryDeleteV1", "StackDeleteV1"):
            await put(catalog, entity(name))
        await catalog.purge_tombstones(LIBRARY, WAITS_US)
        assert await living(catalog) == {"UserV1": 1}
        assert await nothing_is_left(store)


# Users


async def test_owners_are_waited_for_also_where_a_library_has_no_users(catalog: Catalog, store: Store) -> None:
    held_back = {"AssetV2": 1, "PartnerV1": 1, "AlbumV2": 1}
    written = await put_alone(catalog, entity("AssetV2"), entity("PartnerV1"), entity("AlbumV1"))
    assert written == Written(3, waiting=3, held_back=held_back)
    assert await living_but_owners(catalog, LIBRARY) == {}
    await put_alone(catalog, entity("UserV1"))
    assert await waiting(catalog) == {"PartnerV1": 1}
    other = {"ownerId": PARTNER_ID}
    written = await put_alone(catalog, entity("AssetV2", id="b", **other), entity("MemoryV1", **other))
    assert written == Written(taken=2, waiting=2, held_back={"AssetV2": 1, "MemoryV1": 1})
    assert [held.parent for held in await catalog.held_back(LIBRARY)] == [f"user|{PARTNER_ID}"] * 3
    await put_alone(catalog, entity("UserV1", id=PARTNER_ID))
    assert await nothing_is_left(store)


async def test_without_the_last_user_rows_go_on_waiting(catalog: Catalog, store: Store) -> None:
    await put_alone(catalog, entity("UserV1", id="a"), entity("AssetV2"))
    await put_alone(catalog, entity("MemoryToAssetV1"), entity("MemoryV1"), entity("AlbumUserV1"))
    await put_alone(catalog, entity("UserDeleteV1", userId="a"))
    assert await waiting(catalog) == {"AssetV2": 1, "MemoryToAssetV1": 1, "MemoryV1": 1, "AlbumUserV1": 1}
    await put_alone(catalog, entity("AlbumV2"), entity("UserV1"))
    assert await nothing_is_left(store)


async def test_many_rows_that_wait_for_a_user_go_in_bounded_steps(valkey_store: Store) -> None:
    count = 1000
    watched = Watched(valkey_store, "AssetV2")
    catalog = Catalog(watched)
    await put_alone(catalog, *(entity("AssetV2", id=f"a{n}") for n in range(count)))
    watched.served = [0]
    await put_alone(catalog, entity("UserV1"))
    steps = [after - before for before, after in zip(watched.served, watched.served[1:], strict=False)]
    assert sum(steps) == count
    assert max(steps) <= LOOKED_AT_ROWS
    assert await nothing_is_left(valkey_store)


async def test_an_album_v1_waits_for_its_owner_and_so_do_its_assets(catalog: Catalog, store: Store) -> None:
    await put_alone(catalog, entity("UserV1", id="somebody"), entity("AssetV2", ownerId="somebody"))
    assert (await put_alone(catalog, entity("AlbumV1"), entity("AlbumToAssetV1"))).waiting == 2
    assert await waiting(catalog) == {"AlbumV2": 1, "AlbumUserV1": 1, "AlbumToAssetV1": 1}
    await put_alone(catalog, entity("UserV1"))
    assert await data(catalog, "AlbumV1") == [sample("AlbumV1")]
    assert len(await rows(catalog, "AlbumToAssetV1")) == 1
    assert await nothing_is_left(store)


async def test_a_new_owner_who_is_not_there_leaves_the_former_one_and_another_takes_the_place(catalog: Catalog) -> None:
    await put_alone(catalog, entity("UserV1"), entity("UserV1", id="b"), entity("AlbumV1"))
    await put_alone(catalog, entity("AlbumV1", ownerId="nobody"))
    assert await waiting(catalog) == {"AlbumUserV1": 1}
    assert [album["ownerId"] for album in await data(catalog, "AlbumV1")] == [USER_ID]
    assert await put_alone(catalog, entity("AlbumV1", ownerId="b")) == Written(unchanged=1)
    assert [album["ownerId"] for album in await data(catalog, "AlbumV1")] == ["b"]
    assert await waiting(catalog) == {}
    await put_alone(catalog, entity("UserV1", id="nobody"))
    assert [member["userId"] for member in await data(catalog, "AlbumUserV1")] == ["b"]


# What it replaces


async def test_what_a_waiting_row_is_to_replace_is_served_until_then(catalog: Catalog) -> None:
    await put(catalog, entity("AlbumV2"), entity("AlbumUserV1", role="viewer"))
    assert await put(catalog, entity("AlbumV2", thumbnailAssetId=ASSET_ID)) == Written(
        taken=1, waiting=1, held_back={"AlbumV2": 1}
    )
    assert await data(catalog, "AlbumV2") == [sample("AlbumV2")]
    done = Position(await catalog.horizon(LIBRARY), "")
    await put(catalog, entity("AssetV2"))
    assert await data(catalog, "AlbumV2", after=done) == [sample("AlbumV2", thumbnailAssetId=ASSET_ID)]
    assert await living(catalog) == {"AlbumV2": 1, "AlbumUserV1": 1, "AssetV2": 1}


async def test_an_equal_row_goes_on_waiting_and_another_takes_its_place(catalog: Catalog, store: Store) -> None:
    face = entity("AssetFaceV2")
    assert await put(catalog, face, face) == Written(taken=1, unchanged=1, waiting=2, held_back={"AssetFaceV2": 1})
    horizon = await catalog.horizon(LIBRARY)
    assert await put(catalog, face) == Written(unchanged=1, waiting=1)
    assert await catalog.horizon(LIBRARY) == horizon
    assert await put(catalog, entity("AssetFaceV2", imageWidth=7)) == Written(
        taken=1, waiting=1, held_back={"AssetFaceV2": 1}
    )
    assert await catalog.horizon(LIBRARY) > horizon
    await put(catalog, entity("AssetFaceV2", assetId="b"))
    await put(catalog, entity("AssetV2"))
    assert await waiting(catalog) == {"AssetFaceV2": 1}
    await put(catalog, entity("AssetV2", id="b"))
    assert [found["assetId"] for found in await data(catalog, "AssetFaceV2")] == ["b"]
    assert await nothing_is_left(store)


async def test_the_row_as_it_is_served_ends_what_waits_to_replace_it(catalog: Catalog, store: Store) -> None:
    await put(catalog, entity("AlbumV2"), entity("AlbumV2", thumbnailAssetId=ASSET_ID))
    assert await put(catalog, entity("AlbumV2")) == Written(unchanged=1)
    assert await nothing_is_left(store)
    await put(catalog, entity("AssetV2"))
    assert await data(catalog, "AlbumV2") == [sample("AlbumV2")]


async def test_another_variant_waits_in_the_place_of_the_first(catalog: Catalog, store: Store) -> None:
    await put(catalog, entity("AlbumToAssetV1"), entity("AlbumToAssetBackfillV1"))
    assert await waiting(catalog) == {"AlbumToAssetBackfillV1": 1}
    await put(catalog, entity("AlbumV2"), entity("AssetV2"))
    assert (await living(catalog)).keys() == {"AlbumV2", "AssetV2", "AlbumToAssetBackfillV1"}
    assert await nothing_is_left(store)


async def test_an_owner_that_may_not_change_any_more_goes_on_waiting(catalog: Catalog) -> None:
    await put_alone(catalog, entity("UserV1"), entity("AssetV2"), entity("AssetV2", ownerId="b"), entity("AssetExifV1"))
    await put_alone(catalog, entity("UserV1", id="b"))
    assert [found["ownerId"] for found in await data(catalog, "AssetV2")] == [USER_ID]
    assert await waiting(catalog) == {"AssetV2": 1}
    written = await put_alone(catalog, entity("AssetV2", ownerId="b"))
    assert [path for _, path, _ in written.refused] == [("data", "ownerId")]


@pytest.mark.parametrize(
    ("children", "freeing"),
    [
        ([entity("AssetFaceV2")], entity("AssetFaceDeleteV1")),
        ([entity("AssetFaceV2")], entity("AssetFaceV2", assetId="other")),
        ([entity("AssetFaceV2"), entity("AssetFaceV2", id="f2", assetId="other")], entity("AssetFaceDeleteV1")),
        ([entity("AlbumV2", thumbnailAssetId=ASSET_ID)], entity("AlbumV2")),
        ([entity("MemoryV1"), entity("MemoryToAssetV1")], entity("MemoryDeleteV1")),
        ([entity("MemoryV1", ownerId="c"), entity("MemoryToAssetV1")], entity("UserDeleteV1", userId="c")),
        ([entity("AssetExifV1")], entity("UserDeleteV1")),
        ([entity("AssetExifV1"), entity("AssetFaceV2")], entity("UserDeleteV1")),
    ],
    ids=["deleted", "moved", "others left", "let go", "cascade", "a user's", "owner deleted", "owner deleted, a child"],
)
async def test_an_owner_changes_when_nothing_refers_to_the_row_any_more(
    catalog: Catalog, store: Store, children: list[Entity], freeing: Entity
) -> None:
    await put_alone(catalog, *(entity("UserV1", id=user) for user in (USER_ID, "c", "d")))
    await put_alone(catalog, entity("AssetV2", id="other", ownerId="d"))
    await put_alone(catalog, entity("AssetV2"), entity("AssetV2", ownerId="b"), *children, entity("UserV1", id="b"))
    assert await waiting(catalog) == {"AssetV2": 1}
    await put_alone(catalog, freeing)
    assert sorted(found["ownerId"] for found in await data(catalog, "AssetV2")) == ["b", "d"]
    assert await nothing_is_left(store)


@pytest.mark.each_store
async def test_an_owner_changes_though_the_writer_died_that_made_it_possible(catalog: Catalog, store: Store) -> None:
    await put_alone(catalog, entity("UserV1"), entity("AssetV2"), entity("AssetV2", ownerId="b"), entity("AssetFaceV2"))
    await put_alone(catalog, entity("UserV1", id="b"))
    await crashed(store, 0, entity("AssetFaceDeleteV1"))
    assert await waiting(catalog) == {"AssetV2": 1}
    await catalog.release(LIBRARY)
    assert [found["ownerId"] for found in await data(catalog, "AssetV2")] == ["b"]
    assert await nothing_is_left(store)


async def test_an_owner_that_was_looked_at_too_early_is_looked_at_again(catalog: Catalog, store: Store) -> None:
    await put_alone(catalog, entity("UserV1"), entity("AssetV2"), entity("AssetV2", ownerId="b"), entity("AssetFaceV2"))
    await put_alone(catalog, entity("AssetFaceDeleteV1"), entity("AssetOcrV1"), entity("UserV1", id="b"))
    assert await waiting(catalog) == {"AssetV2": 1}
    await put_alone(catalog, entity("AssetOcrDeleteV1"))
    assert await nothing_is_left(store)


# Deletes


async def test_a_row_that_waits_can_be_deleted(catalog: Catalog, store: Store) -> None:
    await put(catalog, entity("AssetFaceV2"), entity("AssetFaceDeleteV1"))
    assert await nothing_is_left(store)
    await put(catalog, entity("AssetFaceV2"), entity("AssetFaceDeleteV1"))  # the marker is there already
    assert await nothing_is_left(store)
    await put(catalog, entity("AssetV2"))
    assert await living(catalog) == {"AssetV2": 1, "AssetFaceDeleteV1": 1}


@pytest.mark.each_store
async def test_what_waits_for_a_parent_goes_with_its_delete(catalog: Catalog, store: Store) -> None:
    await put_alone(
        catalog, entity("AssetFaceV2"), entity("AssetExifV1"), entity("AlbumV2", thumbnailAssetId=ASSET_ID),
        entity("AlbumToAssetV1"), entity("UserV1", id="somebody"), entity("AssetV2", id="b"),
    )  # fmt: skip
    await put_alone(catalog, entity("AssetDeleteV1"), entity("UserDeleteV1"))
    assert await living(catalog) == {"AssetDeleteV1": 1, "UserDeleteV1": 1, "UserV1": 1, "AlbumV2": 1}
    assert await data(catalog, "AlbumV2") == [sample("AlbumV2")]  # it only lost its thumbnail
    assert await nothing_is_left(store)
    assert len((await put_alone(catalog, entity("AssetFaceV2"))).refused) == 1


async def test_what_waits_goes_with_another_of_its_parents_too(catalog: Catalog, store: Store) -> None:
    await put(catalog, entity("AssetV2"), entity("AssetFaceV2", personId=PERSON_ID), entity("AlbumToAssetV1"))
    await put(catalog, entity("AssetFaceV2", id="f2", assetId="b", personId="p"), entity("PersonV1", id="p"))
    await put(catalog, entity("AssetDeleteV1"))
    assert await waiting(catalog) == {"AssetFaceV2": 1}
    await put(catalog, entity("PersonDeleteV1", personId="p"))
    await put(catalog, entity("AssetV2", id="b"))
    assert [(found["id"], found["personId"]) for found in await data(catalog, "AssetFaceV2")] == [("f2", None)]
    assert await nothing_is_left(store)


async def test_the_delete_of_a_former_parent_leaves_what_waits_for_another(catalog: Catalog) -> None:
    await put(catalog, entity("AssetV2"), entity("AssetFaceV2"), entity("AssetFaceV2", assetId="b"))
    await put(catalog, entity("AssetDeleteV1"))
    assert await living(catalog) == {"AssetDeleteV1": 1, "AssetFaceDeleteV1": 1}
    await put(catalog, entity("AssetV2", id="b"))
    assert [found["assetId"] for found in await data(catalog, "AssetFaceV2")] == ["b"]


async def test_a_deleted_user_takes_what_waits_and_leaves_what_waits_for_another(catalog: Catalog) -> None:
    await put_alone(catalog, entity("UserV1"), entity("UserV1", id="c"), entity("AlbumUserV1", role="viewer"))
    await put_alone(catalog, entity("AssetV2"), entity("AssetV2", ownerId="b"), entity("AssetFaceV2", assetId="x"))
    await put_alone(catalog, entity("UserDeleteV1"))
    assert await waiting(catalog) == {"AssetV2": 1, "AssetFaceV2": 1}
    await put_alone(catalog, entity("UserV1", id="b"))
    assert [found["ownerId"] for found in await data(catalog, "AssetV2")] == ["b"]


async def test_ids_with_quotes_wait_as_well(catalog: Catalog, store: Store) -> None:
    for name in ('quo"te', "back\\slash", "ünï", "a b", "line\u2028end", "}{"):
        await put(catalog, entity("AssetFaceV2", id="f" + name, assetId=name), entity("AssetExifV1", assetId=name))
        assert {held.parent for held in await catalog.held_back(LIBRARY)} == {f"asset|{name}"}
        await put(catalog, entity("AssetV2", id=name))
        assert json.loads(await catalog.entity(LIBRARY, "AssetFaceV2", "f" + name) or b"")["assetId"] == name
        await put(catalog, entity("AlbumV2", id=name, thumbnailAssetId="-" + name))
        await put(catalog, entity("AssetDeleteV1", assetId="-" + name))
        assert await nothing_is_left(store)


# Listing


async def test_the_listing_has_what_waits_unless_not_wanted(catalog: Catalog) -> None:
    await put(catalog, entity("AlbumV2"), entity("AlbumV2", thumbnailAssetId=ASSET_ID))
    await put(catalog, *(entity("AssetMetadataV1", key=f"{n}", value={"x": "y" * 3000}) for n in range(100)))

    async def listed(**options: Any) -> list[Entity]:
        return [read_line(line) async for page in catalog.entities(LIBRARY, **options) for line in page]

    assert await listed(waiting=False) == [entity("AlbumV2")]
    everything = await listed()
    assert len(everything) == 102
    copy = Catalog(catalog._store)  # the same rows, as another library
    written = await copy.put("copy", everything)
    assert (written.taken, written.waiting) == (102, 101)
    assert [line async for page in copy.entities("copy") for line in page] == [
        line async for page in catalog.entities(LIBRARY) for line in page
    ]


async def test_a_library_from_a_backup_goes_on_waiting(catalog: Catalog, store: Store) -> None:
    faces = [entity("AssetFaceV2", id=f"f{number:03}") for number in range(300)]
    await put(catalog, *faces, entity("AlbumV2"), entity("AlbumV2", thumbnailAssetId="x"))
    await crashed(store, 120, entity("AssetV2"))
    other = FakeStore()
    dump = await CatalogDump.open(store, LIBRARY)
    async for lines in dump.lines():
        for line in lines:
            assert isinstance(line, Pairs)
            await put_other(other, 1, line)
    assert await dump.is_still_so()
    restored = Catalog(other)
    assert await waiting(restored) == {"AlbumV2": 1, "AssetFaceV2": 180}
    await put(restored, entity("AssetV2", id="x"))
    assert await waiting(restored) == {}
    assert (await living(restored))["AssetFaceV2"] == 300
    assert await nothing_is_left(other)


# Many, crashes, and others at the same time


class Watched:
    """A store that notes after each script how many rows of a type are served."""

    def __init__(self, store: Store, stored: str) -> None:
        self._store = store
        self._rows = keys.catalog_rows(LIBRARY, stored)
        self.served = [0]

    async def command(self, *args: Arg, key: bytes) -> Any:
        return await self._store.command(*args, key=key)

    async def script(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg]) -> Any:
        reply = await self._store.script(script, keys, args)
        self.served.append(await self._store.command("ZCOUNT", self._rows, 0, f"({WAITS_US}", key=self._rows))
        return reply

    async def each_primary(self, *args: Arg) -> list[Any]:
        return await self._store.each_primary(*args)

    async def close(self) -> None:
        await self._store.close()


@pytest.mark.parametrize("count", [4000, pytest.param(20_000, marks=pytest.mark.soak)])
async def test_many_children_of_one_late_parent_go_in_bounded_steps(valkey_store: Store, count: int) -> None:
    """A script that let them all go at once would keep everybody else waiting: of 20,000, for a second."""
    watched = Watched(valkey_store, "AssetOcrV1")
    catalog = Catalog(watched)
    for start in range(0, count, 500):
        await put(catalog, *(entity("AssetOcrV1", id=f"o{number:05}") for number in range(start, start + 500)))
    assert await waiting(catalog) == {"AssetOcrV1": count}
    watched.served = [0]
    assert await put(catalog, entity("AssetV2")) == Written(taken=1)
    steps = [after - before for before, after in zip(watched.served, watched.served[1:], strict=False)]
    assert sum(steps) == count
    assert max(steps) <= LOOKED_AT_ROWS
    assert len(await rows(catalog, "AssetOcrV1")) == count
    assert await nothing_is_left(valkey_store)


async def test_rows_that_wait_for_two_parents_are_looked_at_once_for_each(valkey_store: Store) -> None:
    count = 3000
    watched = Watched(valkey_store, "AssetFaceV2")
    catalog = Catalog(watched)
    await put(catalog, *(entity("AssetFaceV2", id=f"f{n}", personId=PERSON_ID) for n in range(count)))
    scripts = len(watched.served)
    await put(catalog, entity("AssetV2"))
    assert count / LOOKED_AT_ROWS < len(watched.served) - scripts <= count / LOOKED_AT_ROWS + 3
    await put(catalog, entity("AssetV2", isFavorite=True))  # it was there: nobody waits for it any more
    assert len(watched.served) - scripts <= count / LOOKED_AT_ROWS + 4
    assert await rows(catalog, "AssetFaceV2") == []
    await put(catalog, entity("PersonV1"))
    assert len(await rows(catalog, "AssetFaceV2")) == count


async def test_long_rows_go_in_steps_of_bounded_size(valkey_store: Store) -> None:
    watched = Watched(valkey_store, "AssetMetadataV1")
    catalog = Catalog(watched)
    await put(catalog, *(entity("AssetMetadataV1", key=f"{n}", value={"x": "y" * 100_000}) for n in range(60)))
    watched.served = [0]
    await put(catalog, entity("AssetV2"))
    steps = [after - before for before, after in zip(watched.served, watched.served[1:], strict=False)]
    assert sum(steps) == 60
    assert max(steps) <= 6


async def crashed(store: Store, looked_at: int, *entities: Entity) -> None:
    """Write as a writer that dies when so many rows that waited were looked at; whose they are is there."""
    await let_owners_be_there(Catalog(store), LIBRARY, entities)
    args = arguments([Write.of(found) for found in entities])
    await store.script(WRITE, keys_of(LIBRARY), [looked_at, *args[1:]])


async def test_what_a_dead_writer_left_goes_with_the_next_write_or_the_next_expiry(
    catalog: Catalog, store: Store
) -> None:
    faces = [entity("AssetFaceV2", id=f"f{number}") for number in range(300)]
    for again in (lambda: put(catalog, entity("UserV1")), lambda: catalog.release(LIBRARY)):
        await put(catalog, *faces)
        await crashed(store, 120, entity("AssetV2"))
        assert (await living(catalog))["AssetFaceV2"] == 120
        assert await waiting(catalog) == {"AssetFaceV2": 180}
        await again()
        assert await waiting(catalog) == {}
        assert (await living(catalog))["AssetFaceV2"] == 300
        assert await nothing_is_left(store)
        sent = await stamps(catalog, "AssetV2", "AssetFaceV2")
        assert sent == sorted(set(sent))
        await put(catalog, entity("AssetDeleteV1"))
        await catalog.purge_tombstones(LIBRARY, WAITS_US)


class Counted(Watched):
    """A store that notes which commands it was sent, and how many scripts."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, "AssetFaceV2")
        self.asked: list[Arg] = []

    async def command(self, *args: Arg, key: bytes) -> Any:
        self.asked.append(args[0])
        return await super().command(*args, key=key)


async def test_looking_for_what_a_dead_writer_left_costs_the_same_however_many_wait(valkey_store: Store) -> None:
    counted = Counted(valkey_store)
    catalog = Catalog(counted)
    await put(catalog, *(entity("AssetFaceV2", id=f"f{n}", assetId=f"a{n}") for n in range(3000)))
    counted.asked, counted.served = [], []
    await catalog.release(LIBRARY)
    assert (counted.asked, counted.served) == (["ZCARD"], [])
    await crashed(valkey_store, 0, entity("AssetV2", id="a7"))
    await catalog.release(LIBRARY)
    assert (counted.asked, counted.served) == (["ZCARD", "ZCARD"], [1])
    assert await waiting(catalog) == {"AssetFaceV2": 2999}


async def test_a_parent_that_goes_and_comes_again_in_between_is_looked_at_from_the_start(
    catalog: Catalog, store: Store
) -> None:
    faces = [entity("AssetFaceV2", id=f"f{number:03}") for number in range(300)]
    await put(catalog, *faces)
    await crashed(store, 250, entity("AssetV2"))
    await crashed(store, 0, entity("AssetFaceV2", id="f000", assetId="b"))
    await put(catalog, entity("AssetDeleteV1"))
    await catalog.purge_tombstones(LIBRARY, WAITS_US)
    assert await waiting(catalog) == {"AssetFaceV2": 1}
    await put(catalog, *faces)
    await crashed(store, 10, entity("AssetV2"))
    await put(catalog, entity("UserV1"))
    assert (await living(catalog))["AssetFaceV2"] == 300
    assert await nothing_is_left(store)


async def test_an_equal_row_of_a_parent_that_came_goes_without_being_looked_at(catalog: Catalog, store: Store) -> None:
    await put(catalog, entity("AssetFaceV2"))
    await crashed(store, 0, entity("AssetV2"))
    await crashed(store, 0, entity("AssetFaceV2"))
    assert len(await rows(catalog, "AssetFaceV2")) == 1
    assert await waiting(catalog) == {}


@pytest.mark.each_store
async def test_writers_of_parents_and_children_at_the_same_time_send_each_row_once(store: Store) -> None:
    parents = [entity("AssetV2", id=f"a{number}") for number in range(60)]
    people = [entity("PersonV1", id=f"p{number}") for number in range(60)]
    faces = [entity("AssetFaceV2", id=f"f{n}", assetId=f"a{n % 60}", personId=f"p{n % 60}") for n in range(240)]
    exif = [entity("AssetExifV1", assetId=f"a{number}") for number in range(60)]
    batches = [found[at : at + 15] for found in (parents, people, faces, exif) for at in range(0, len(found), 15)]
    random.Random(5).shuffle(batches)
    writers = [Catalog(store) for _ in batches]
    before = await Catalog(store).horizon(LIBRARY)
    await asyncio.gather(*(put(writer, *batch) for writer, batch in zip(writers, batches, strict=True)))
    catalog = Catalog(store)
    assert await waiting(catalog) == {}
    assert await nothing_is_left(store)
    assert await living(catalog) == {"AssetV2": 60, "PersonV1": 60, "AssetFaceV2": 240, "AssetExifV1": 60}
    at = {}
    for name in ("AssetV2", "PersonV1", "AssetFaceV2", "AssetExifV1"):
        for found in await rows(catalog, name, after=Position(before, "")):
            row = found["data"]
            at[name, row.get("id", row.get("assetId"))] = found["ack"].split("|")[1]
    assert len(set(at.values())) == 420
    for number in range(240):
        face = at["AssetFaceV2", f"f{number}"]
        assert face > max(at["AssetV2", f"a{number % 60}"], at["PersonV1", f"p{number % 60}"])
    assert all(at["AssetExifV1", f"a{number}"] > at["AssetV2", f"a{number}"] for number in range(60))
