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
from projections.entities.postgres.mapping.mapping import Mapping, load_mapping, read_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from projections.entities.postgres.statements.branches import MappingError
from tests.immich.database import ImmichDatabase

EVER_US = 2**52

PEOPLE_OF_3_1 = """
DROP TABLE person CASCADE;
DROP TABLE person_audit;
ALTER TABLE asset_face DROP COLUMN "personGroupId";
CREATE TABLE person (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "ownerId" uuid NOT NULL REFERENCES "user",
  name text NOT NULL DEFAULT '',
  "createdAt" timestamptz NOT NULL DEFAULT now(), "updatedAt" timestamptz NOT NULL DEFAULT now(), "birthDate" date,
  "isHidden" boolean NOT NULL DEFAULT false, "isFavorite" boolean NOT NULL DEFAULT false, color text,
  "faceAssetId" uuid, "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);
CREATE TABLE person_audit (
  id uuid PRIMARY KEY DEFAULT immich_uuid_v7(), "personId" uuid NOT NULL, "ownerId" uuid NOT NULL,
  "deletedAt" timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE asset_face ADD COLUMN "personId" uuid REFERENCES person ON DELETE SET NULL;
"""

UPGRADE_TO_3_2 = """
ALTER TABLE person RENAME id TO "personGroupId";
ALTER TABLE person_audit RENAME "personId" TO "personGroupId";
ALTER TABLE asset_face RENAME "personId" TO "personGroupId";
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
        database.build().execute(PEOPLE_OF_3_1)
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
        database.build().execute(PEOPLE_OF_3_1)
        ann = database.user("ann")
        database.insert("person", ownerId=ann, name="Grace")
        database.settle()
        counts, refused = asyncio.run(read_over_an_upgrade(database, str(ann)))
    assert counts == {"before": 1, "after": 1}
    assert refused, "nothing told the source"
    assert all("person" in text for text in refused), refused


async def read_over_an_upgrade(database: ImmichDatabase, library: str) -> tuple[dict[str, int], list[str]]:
    """Count the people before and after an upgrade, and list what was refused meanwhile, once at most for each kind."""
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

    counts, refused = {"before": await people()}, []
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
    return counts, refused


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
