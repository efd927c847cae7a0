"""One mapping for several versions of a schema: each branch says by a column which it is for."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import msgspec
import pytest

from ledger.errors import InvalidInput, LedgerError
from ledger.positions import Position
from projections.entities.lines import data_of
from projections.entities.postgres.check.check import check_schema
from projections.entities.postgres.mapping.from_toml import load_mapping, read_mapping
from projections.entities.postgres.mapping.mapping import Mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from projections.entities.postgres.statements.branches import MappingError
from tests.immich.database import ImmichDatabase
from tests.immich.schemas import Version
from tests.support.sources.near_horizon import near_horizon

__all__ = ["near_horizon"]

pytestmark = pytest.mark.usefixtures("near_horizon")

EVER_US = 2**52

UPGRADE_TO_3_2 = """
ALTER TABLE person RENAME id TO "personGroupId";
ALTER TABLE person_audit RENAME "personId" TO "personGroupId";
ALTER TABLE asset_face RENAME "personId" TO "personGroupId";
ALTER TABLE "user" ADD COLUMN "clusterGroupId" uuid;
ALTER TABLE asset_ocr ADD COLUMN "updatedAt" timestamptz NOT NULL DEFAULT clock_timestamp();
ALTER TABLE memory_audit RENAME TO old_memory_audit;
CREATE TABLE memory_audit AS SELECT id, "memoryId", "userId", "deletedAt" FROM old_memory_audit;
DROP TABLE old_memory_audit;
"""

TWO_VERSIONS = """
[source]
library = "uuid"
[[entities.UserDeleteV1]]
data = { userId = 'd."userId"' }
from = 'user_audit d'
needs_column = "user_audit.no such column"
where = 'true'
uuid7 = 'd.id'
[[entities.UserMetadataDeleteV1]]
data = { userId = 'd."userId"', key = 'd.key' }
from = 'user_metadata_audit d'
needs_column = "public.user_metadata_audit.key"
where = 'd."userId" = :library'
uuid7 = 'd.id'
"""


TWO_ORDERS = """
[source]
library = "uuid"
[[entities.UserDeleteV1]]
data = { userId = 'd."userId"' }
from = 'user_audit d'
needs_column = "user_audit.id"
where = 'true'
uuid7 = 'd.id'
[[entities.UserDeleteV1]]
data = { userId = 'd."userId"' }
from = 'user_audit d'
lacks_column = "user_audit.id"
where = 'true'
uuid7 = 'd."updateId"'
"""


def read(url: str, mapping: Mapping, library: UUID, *entity_types: str) -> list[list[dict[str, Any]]]:
    """Check a mapping against a database, then read entity types of a library."""

    async def rows() -> list[list[dict[str, Any]]]:
        postgres = await Postgres.open(url, size=2, wait_s=30, statement_timeout_s=30)
        try:
            assert [problem for problem in await check_schema(postgres, mapping) if problem.weight == "problem"] == []
            source = PostgresSource(postgres, mapping)
            return [
                [
                    msgspec.json.decode(data_of(line))
                    async for page in source.pages(str(library), name, None, EVER_US, 100)
                    for line in page.lines
                ]
                for name in entity_types
            ]
        finally:
            await postgres.close()

    return asyncio.run(rows())


def test_a_database_of_immich_3_1_is_read_by_its_own_names(postgres_url: str) -> None:
    with ImmichDatabase(postgres_url) as database:
        database.build("3.1")
        ann, bob = database.user("ann"), database.user("bob")
        grace = database.insert("person", ownerId=ann, name="Grace")["id"]
        others = database.insert("person", ownerId=bob, name="Not hers")["id"]
        asset = database.asset(ann)
        seen = [database.insert("asset_face", assetId=asset, personId=person)["id"] for person in (grace, None, others)]
        gone = database.insert("person_audit", personId=bob, ownerId=ann)["personId"]
        database.insert("person_audit", personId=grace, ownerId=ann)
    deleted, people, faces = read(
        postgres_url, load_mapping("immich"), ann, "PersonDeleteV1", "PersonV1", "AssetFaceV2"
    )
    assert deleted == [{"personId": str(gone)}], "not the one who is there"
    assert [(person["id"], person["name"]) for person in people] == [(str(grace), "Grace")]
    assert {face["id"]: face["personId"] for face in faces} == {
        str(seen[0]): str(grace),
        str(seen[1]): None,
        str(seen[2]): None,
    }, "nobody is told of a person they have not got"


def test_a_database_of_immich_3_2_is_read_by_its_own_names(postgres_url: str) -> None:
    with ImmichDatabase(postgres_url) as database:
        ann = database.build().user("ann")
        grace = database.person(ann)
        face = database.face(database.asset(ann), grace)
    people, faces = read(postgres_url, load_mapping("immich"), ann, "PersonV1", "AssetFaceV2")
    assert [person["id"] for person in people] == [str(grace)]
    assert [(found["id"], found["personId"]) for found in faces] == [(str(face), str(grace))]


@pytest.mark.parametrize("version", ["3.1", "3.2", "3.3"])
def test_who_has_no_id_at_a_provider_has_null_in_v2_and_an_empty_text_in_v1(
    postgres_url: str, version: Version
) -> None:
    with ImmichDatabase(postgres_url) as database:
        ann = database.build(version).user("ann")
        bob = database.user("bob", oauthId="bob-at-provider")
    for user, first, second in ((ann, "", None), (bob, "bob-at-provider", "bob-at-provider")):
        (v1,), (v2,) = read(postgres_url, load_mapping("immich"), user, "AuthUserV1", "AuthUserV2")
        assert (v1["oauthId"], v2["oauthId"]) == (first, second)
        assert {**v1, "oauthId": None} == {**v2, "oauthId": None}


def test_an_album_without_a_description_has_an_empty_one(postgres_url: str) -> None:
    with ImmichDatabase(postgres_url) as database:
        ann = database.build("3.3").user("ann")
        database.album(ann, description=None)
    for albums in read(postgres_url, load_mapping("immich"), ann, "AlbumV1", "AlbumV2"):
        assert {album["description"] for album in albums} == {""}


def test_older_devices_have_only_the_memories_that_they_know(postgres_url: str) -> None:
    grace = {"personId": str(UUID(int=7)), "personName": "Grace"}
    with ImmichDatabase(postgres_url) as database:
        ann = database.build("3.3").user("ann")
        asset = database.asset(ann)
        years = database.memory(ann, [asset])
        birthday = database.memory(ann, [asset], type="birthday", data=grace)
        others = [  # no app could read these
            database.memory(ann, [asset], type="birthday", data={"personId": str(UUID(int=7)), "personName": None}),
            database.memory(ann, [asset], type="birthday", data={}),
            database.memory(ann, [asset], type="wedding", data={"year": 2020}),
        ]
        database.settle()
        v1, links_v1, v2, links_v2 = read(
            postgres_url, load_mapping("immich"), ann, "MemoryV1", "MemoryToAssetV1", "MemoryV2", "MemoryToAssetV2"
        )
        gone = [
            database.insert("memory_audit", memoryId=one, userId=ann)["memoryId"] for one in (years, birthday, *others)
        ]
    assert [(memory["id"], memory["type"], memory["data"]) for memory in v1] == [
        (str(years), "on_this_day", {"year": 2020}),
    ]  # fmt: skip
    assert links_v1 == [{"memoryId": str(years), "assetId": str(asset)}]
    assert {(memory["id"], memory["type"]): memory["data"] for memory in v2} == {
        (str(years), "on_this_day"): {"year": 2020},
        (str(birthday), "birthday"): grace,
    }
    assert {link["memoryId"] for link in links_v2} == {str(years), str(birthday)}
    (markers,) = read(postgres_url, load_mapping("immich"), ann, "MemoryDeleteV1")
    assert {marker["memoryId"] for marker in markers} == set(map(str, gone)), "one kind of marker for all"


def test_a_narrowed_type_counts_nothing_as_unfit_that_is_not_its_own(postgres_url: str) -> None:
    async def held() -> list[tuple[str, int, str]]:
        postgres = await Postgres.open(postgres_url, size=2, wait_s=30, statement_timeout_s=30)
        try:
            found = await PostgresSource(postgres, load_mapping("immich")).held_back(str(ann))
            return [(one.entity_type, one.rows, one.reason) for one in found]
        finally:
            await postgres.close()

    with ImmichDatabase(postgres_url) as database:
        ann = database.build("3.3").user("ann")
        asset = database.asset(ann)
        database.memory(ann, [asset], type="birthday", data={"personId": "p", "personName": "Grace"})
        assert asyncio.run(held()) == []
        database.memory(ann, [asset], type="birthday", data={"year": 2020.5})
        assert asyncio.run(held()) == [("MemoryV2", 1, "unfit"), ("MemoryToAssetV2", 1, "missing_parent")]


@pytest.mark.parametrize("version", ["3.2", "3.3"])
def test_faces_of_v3_are_those_of_the_cluster_group(postgres_url: str, version: Version) -> None:
    with ImmichDatabase(postgres_url) as database:
        ann, carl = database.build(version).user("ann"), database.user("carl")
        group = database.value('SELECT "clusterGroupId" FROM "user" WHERE id = $1', ann)
        bob = database.user("bob", clusterGroupId=group)
        grace = database.person(bob)  # ann calls that group of faces nothing
        mine, its, theirs = (database.asset(owner) for owner in (ann, bob, carl))
        seen = {database.face(asset, grace): asset for asset in (mine, its, theirs)}
        gone = {asset: database.face(asset) for asset in (mine, its, theirs)}
        for face in gone.values():
            database.delete("asset_face", id=face)
        asked = ("AssetFaceV2", "AssetFaceV3", "AssetFaceDeleteV1")
        v2, v3, markers = read(postgres_url, load_mapping("immich"), ann, *asked)
        database.execute('UPDATE "user" SET "clusterGroupId" = $1 WHERE id = $2', group, carl)
        later = read(postgres_url, load_mapping("immich"), ann, *asked)
    faces = {asset: str(face) for face, asset in seen.items()}
    assert [(face["id"], face["personId"]) for face in v2] == [(faces[mine], None)]
    assert {face["id"]: face["personId"] for face in v3} == {faces[mine]: str(grace), faces[its]: str(grace)}
    assert set(v3[0]) == set(v2[0])
    assert {marker["assetFaceId"] for marker in markers} == {str(gone[mine]), str(gone[its])}
    assert [len(rows) for rows in later] == [1, 3, 3]


def test_a_database_of_immich_3_1_has_own_faces_alone(postgres_url: str) -> None:
    with ImmichDatabase(postgres_url) as database:
        ann, bob = database.build("3.1").user("ann"), database.user("bob")
        grace = database.insert("person", ownerId=ann, name="Grace")["id"]
        face = database.insert("asset_face", assetId=database.asset(ann), personId=grace)["id"]
        database.insert("asset_face", assetId=database.asset(bob), personId=None)
    v2, v3 = read(postgres_url, load_mapping("immich"), ann, "AssetFaceV2", "AssetFaceV3")
    assert [(found["id"], found["personId"]) for found in v3] == [(str(face), str(grace))]
    assert v2 == v3


def test_what_rows_are_ordered_by_is_renamed_while_they_are_read(postgres_url: str) -> None:
    mapping = read_mapping(TWO_ORDERS, "two")

    async def changed_over_a_rename() -> list[frozenset[str] | str]:
        postgres = await Postgres.open(postgres_url, size=2, wait_s=30, statement_timeout_s=30)
        source, seen = PostgresSource(postgres, mapping), list[frozenset[str] | str]()
        try:
            for rename in ("", 'ALTER TABLE user_audit RENAME id TO "updateId"', "", ""):
                await asyncio.to_thread(database.execute, rename or "SELECT 1")
                try:
                    before = await source.horizon(str(ann))
                    seen.append(await source.changed(str(ann), {"UserDeleteV1": Position(1, "")}, before))
                except LedgerError as error:
                    seen.append(str(error))
                await asyncio.sleep(0.2)  # until the horizon is another
        finally:
            await postgres.close()
        return seen

    with ImmichDatabase(postgres_url) as database:
        ann = database.build().user("ann")
        database.insert("user_audit", userId=ann)
        database.settle()
        first, refused, *later = asyncio.run(changed_over_a_rename())
    assert first == later[-1] == frozenset({"UserDeleteV1"})
    assert isinstance(refused, str)
    assert "id" in refused


def test_a_database_is_upgraded_while_it_is_read(postgres_url: str) -> None:
    with ImmichDatabase(postgres_url) as database:
        database.build("3.1")
        ann = database.user("ann")
        database.insert("person", ownerId=ann, name="Grace")
        database.settle()
        counts, refused, revisions = asyncio.run(read_over_an_upgrade(database, str(ann)))
    assert counts == {"before": 1, "after": 1}
    assert revisions == [1, 1, 2], "what the upgrade sends again, once it is seen"
    assert all("person" in text for text in refused), refused  # most is asked anew at once, and refused to nobody


async def read_over_an_upgrade(database: ImmichDatabase, library: str) -> tuple[dict[str, int], list[str], list[int]]:
    """Count the people before and after an upgrade, and list what was refused meanwhile, once at most for each kind.

    And tell the newest revision of the source: before anything is read, before the upgrade and after it.
    """
    postgres = await Postgres.open(database.url, size=2, wait_s=30, statement_timeout_s=30)
    source = PostgresSource(postgres, load_mapping("immich"))
    types = ("MemoryDeleteV1", "PersonDeleteV1", "PersonV1", "AssetFaceDeleteV1", "AssetFaceV2")

    async def people() -> int:
        before = await source.horizon(library)
        changed = await source.changed(library, dict.fromkeys(types, Position(1, "")), before)
        assert changed == {"PersonV1"}
        for name in types:
            async for page in source.pages(library, name, None, before, 100):
                assert name == "PersonV1"
                rows = len(page.lines)
        assert (await source.ahead(library, "PersonV1", None, before)).rows == rows
        assert await source.held_back(library) == ()
        return rows

    revisions = [source.resends[-1].revision]
    counts, refused = {"before": await people()}, []
    revisions.append(source.resends[-1].revision)
    try:
        await asyncio.to_thread(database.execute, UPGRADE_TO_3_2)
        await asyncio.to_thread(database.settle)
        for _ in range(5):
            try:
                counts["after"] = await people()
            except LedgerError as error:
                refused.append(str(error))
            else:
                break
    finally:
        await postgres.close()
    return counts, refused, [*revisions, source.resends[-1].revision]


def test_an_entity_type_without_a_branch_for_the_database_says_so(postgres_url: str) -> None:
    with ImmichDatabase(postgres_url) as database:
        ann = database.build().user("ann")
        database.insert("user_metadata_audit", userId=ann, key="preferences")
    mapping = read_mapping(TWO_VERSIONS, "two")
    (markers,) = read(postgres_url, mapping, ann, "UserMetadataDeleteV1")
    assert markers == [{"userId": str(ann), "key": "preferences"}]
    with pytest.raises(MappingError, match="No branch of UserDeleteV1 in two"):
        read(postgres_url, mapping, ann, "UserDeleteV1")


def test_a_column_is_named_with_its_table() -> None:
    with pytest.raises(InvalidInput) as refused:
        read_mapping(TWO_VERSIONS.replace("user_audit.no such column", "column"), "two")
    assert refused.value.problems == (
        (("entities", "UserDeleteV1", 0, "needs_column"), "must be a table and a column, like person.name"),
    )
