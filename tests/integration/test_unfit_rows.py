"""Every field of every type made unreadable in turn in Immich's database, with all that hangs on it: phones go on.

The cases are made of the preset and of the payloads, so that none can be forgotten: each takes one column of a row with
children of its own and gives it a value that no phone can read, or null where a later schema may allow it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest

from projections.entities.forms import forms_of
from projections.entities.postgres.check.check import check
from projections.entities.postgres.mapping.column_types import Field, fields_of
from projections.entities.postgres.mapping.from_toml import load_mapping
from projections.entities.postgres.mapping.sql_names import columns_in, tables_in, unquoted
from projections.entities.postgres.pool import Postgres
from projections.entities.registry import row
from tests.immich.database import ImmichDatabase
from tests.immich.phone import phones
from tests.support.processes.running import RunningService
from tests.support.sources.near_horizon import APPLICATION, near_horizon
from tests.support.stores.postgres_server import PostgresServer

__all__ = ["near_horizon"]

WHERE_KEYS = {
    "asset_exif": '"assetId"', "asset_metadata": '"assetId"', "album_user": '"userId"', "album_asset": '"assetId"',
    "memory_asset": '"assetId"', "person": '"personGroupId"', "user_metadata": '"userId"', "partner": '"sharedById"',
}  # fmt: skip
TEXTS_SENT_EMPTY = {
    ("user", "name"), ("user", "email"), ("user", "oauthId"), ("user", "profileImagePath"), ("album", "albumName"),
    ("album", "description"), ("person", "name"),
}  # fmt: skip
SENT_ALL_THE_SAME = {("user", "avatarColor"), ("user", "profileChangedAt")}
"""A user keeps nothing from those who see it: an unknown colour is none, and a picture without a time is an old one."""
DEEP = "[" * 70 + "]" * 70


class Case(NamedTuple):
    """One column of a table given one value; `waits` tells whether the row may not be sent then."""

    table: str
    column: str
    field: str
    value: str
    waits: bool


def cases(types: dict[tuple[str, str], str]) -> list[Case]:
    """Make the cases of all columns that the preset prints; `types` are those of the database."""
    found: dict[tuple[str, str, str], Case] = {}
    for name, branches in load_mapping("immich").entities.items():
        if row(name).is_delete:
            continue
        for branch in branches:
            tables = {alias: unquoted(table) for alias, table in tables_in(branch.from_).items()}
            for field in fields_of(name):
                column = next(iter(columns_in(branch.data.get(field.name, ""))), None)
                if column is None or field.kind == "id" or column.alias not in tables:
                    continue
                table = tables[column.alias]
                if (table, column.name) in types:
                    for value in values(field, types[table, column.name], table):
                        waits = waits_at(field, table, column.name, value)
                        found[table, column.name, value] = Case(table, column.name, field.name, value, waits)
    return list(found.values())


def values(field: Field, sql_type: str, table: str) -> Iterator[str]:
    """Yield values that no phone reads in a field, as SQL."""
    if not field.nullable:
        yield "NULL"
    match field.kind:
        case "time" if sql_type == "date":
            yield "'0044-03-15 BC'"
        case "time":
            yield from ("'infinity'", "'12024-06-01'") if field.nullable else ("'-infinity'", "'12024-06-01'")
        case "text" if field.values:
            yield "'tomorrow'"
        case "number":
            yield from ("'NaN'", "'Infinity'")
        case "integer" if field.name == "duration":
            yield "-1"
        case "object":
            yield from ("'[1]'", f"""'{{"a": {DEEP}, "year": 2020}}'""")
            if table == "memory":
                yield from ("""'{"year": 2020.5}'""", """'{"year": "2020"}'""")


def waits_at(field: Field, table: str, column: str, value: str) -> bool:
    """Tell what protocol and app ask for: null where both take it, else the row waits."""
    if (table, column) in SENT_ALL_THE_SAME or (value == "NULL" and (table, column) in TEXTS_SENT_EMPTY):
        return False
    return not (field.nullable and field.kind in ("time", "number"))


class Scene:
    """A library of Ann's with a tree of rows for each case, all of it shared with Bob in albums."""

    def __init__(self, database: ImmichDatabase, *, all_values: bool) -> None:
        """Without `all_values` each field is given one value alone."""
        self.db = database
        self.ann, self.bob = database.user("ann"), database.user("bob")
        self.before: list[tuple[Case, UUID, Any]] = []
        types = database.fetch(
            "SELECT table_name AS t, column_name AS c, data_type AS d FROM information_schema.columns c"
            " WHERE table_schema = 'public' AND NOT EXISTS (SELECT FROM information_schema.key_column_usage k"
            " WHERE (k.table_name, k.column_name) = (c.table_name, c.column_name) AND k.constraint_name LIKE '%_pkey')"
        )
        every = cases({(one["t"], one["c"]): one["d"] for one in types})
        of_fields = {(case.table, case.column, case.field): case for case in reversed(every)}
        self.cases = every if all_values else list(of_fields.values())

    def tree(self, owner: UUID) -> dict[str, UUID]:
        """Add one row of everything that hangs together; tells the key of each table's."""
        db = self.db
        asset, person = db.asset(owner), db.person(owner)
        db.insert("asset_metadata", assetId=asset, key="mobile-app", value={"iCloudId": "x"})
        friend = db.user(f"friend-{uuid4().hex[:8]}")
        album = db.album(owner, [self.bob, friend], [asset])
        db.update("album", album, albumThumbnailAssetId=asset)
        memory = db.memory(owner, [asset])
        face, text, edit = db.face(asset, person), db.ocr(asset, "text"), db.edit(asset)
        return {
            "asset": asset, "asset_exif": asset, "asset_metadata": asset, "album_asset": asset, "memory_asset": asset,
            "person": person, "album": album, "album_user": friend, "memory": memory, "asset_face": face,
            "asset_ocr": text, "asset_edit": edit, "stack": db.stack(owner, [asset]),
        }  # fmt: skip

    def leaf(self, table: str) -> UUID:
        """Add a row of a table that nothing hangs on; tells its key."""
        db, asset = self.db, self.db.asset(self.ann)
        match table:
            case "asset_face":
                return db.face(asset)
            case "asset_ocr":
                return db.ocr(asset, "text")
            case "asset_edit":
                return db.edit(asset)
            case "stack":
                return db.stack(self.ann, [asset])
            case "asset_metadata":
                db.insert(table, assetId=asset, key="mobile-app", value={"iCloudId": "x"})
            case "album_user":
                friend = db.user(f"friend-{uuid4().hex[:8]}")
                db.album(self.ann, [friend])
                return friend
        return asset

    def subject(self, case: Case) -> UUID:
        """Add a row for a case, with all that hangs on it."""
        if case.table in ("user", "user_metadata", "partner"):
            user = self.db.user(f"of-{uuid4().hex[:8]}")
            self.tree(user)
            self.db.insert("user_metadata", userId=user, key="onboarding", value={"isOnboarded": True})
            self.db.partner(user, self.ann)
            return user
        if case.table in ("asset", "album", "memory", "person"):
            return self.tree(self.ann)[case.table]
        return self.leaf(case.table)

    def spoil(self, case: Case) -> None:
        """Give a case's column its value, as a change of that row."""
        db, key = self.db, self.subject(case)
        where = f"{WHERE_KEYS.get(case.table, 'id')} = '{key}'"
        old = db.value(f'SELECT "{case.column}"::text FROM "{case.table}" WHERE {where}')
        self.before.append((case, key, old))
        db.execute(
            "SET session_replication_role = replica;"  # or a trigger would set updatedAt right
            f'UPDATE "{case.table}" SET "{case.column}" = {case.value}, "updateId" = immich_uuid_v7() WHERE {where};'
            "SET session_replication_role = origin"
        )

    def mend(self) -> None:
        """Give all columns the values back that they had, each as a change of its row."""
        for case, key, old in self.before:
            value = "NULL" if old is None else "'" + old.replace("'", "''") + "'"
            stamp = (
                ', "updateId" = immich_uuid_v7()' if case.table == "asset_ocr" else ""
            )  # a text is only ever replaced
            self.db.execute(
                f'UPDATE "{case.table}" SET "{case.column}" = {value}{stamp}'
                f" WHERE {WHERE_KEYS.get(case.table, 'id')} = '{key}'"
            )

    def waiting(self, table: str, *, but: str = "") -> set[str]:
        """List the rows of a table that may not be sent, without those only one of whose fields is unreadable."""
        return {str(key) for case, key, _ in self.before if case.waits and case.table == table and case.field != but}


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[ImmichDatabase]:
    """A database of a schema that has got looser: no column it prints must have a value, enums know a word more."""
    url = postgres.create_database()
    with ImmichDatabase(url) as database:
        database.build()
        loosen = """
        SELECT format('ALTER TABLE %I ALTER %I DROP NOT NULL', c.relname, a.attname) AS sql
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND a.attnotnull
          AND NOT EXISTS (
            SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY(i.indkey))
        """
        for one in database.fetch(loosen):
            database.execute(one["sql"])
        for enum in ("asset_visibility_enum", "album_user_role_enum", "sourcetype"):
            database.execute(f"ALTER TYPE {enum} ADD VALUE 'tomorrow'")
        yield database
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def service(
    database: ImmichDatabase, near_horizon: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """The service on that database."""
    folder = tmp_path_factory.mktemp("service")
    with RunningService(folder, factory=APPLICATION, source="postgres", postgres=database.url) as service:
        yield service
        assert not service.faults()


def explained(service: RunningService, user: UUID) -> list[tuple[str, str, str]]:
    """Ask a fresh session's explanation what is held back: type, reason and what it needs."""
    token = service.sign_in(str(user), str(user))
    with service.client(token) as client:
        found = client.get(f"/ledger/sessions/{hashlib.sha256(token.encode()).hexdigest()}/explain")
    assert found.status_code == 200, found.text
    return [(one["type"], one["reason"], one["needs"]) for one in found.json()["heldBack"]]


def metrics(service: RunningService) -> dict[str, float]:
    """Read what is counted."""
    key = service.command("key", "create", "--scope", "metrics.read").stdout.strip()
    with service.client(**{"x-api-key": key}) as client:
        lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def checked(url: str) -> Sequence[str]:
    """List what `source check` says."""

    async def ask() -> list[str]:
        postgres = await Postgres.open(url, size=1, wait_s=5, statement_timeout_s=30)
        try:
            return [problem.told for problem in (await check(postgres, load_mapping("immich"))).problems]
        finally:
            await postgres.close()

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "all_values", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["one value", "all values"]
)
def test_every_field_of_every_type_in_turn(
    service: RunningService, database: ImmichDatabase, tmp_path: Path, all_values: bool
) -> None:
    scene = Scene(database, all_values=all_values)
    assert {case.table for case in scene.cases} >= {"asset", "asset_exif", "album", "memory", "person", "user", "stack"}
    whole = scene.tree(scene.ann)
    for case in scene.cases:
        scene.spoil(case)
    with phones(service, database, tmp_path, scene.ann, scene.bob) as both:
        database.settle()
        for phone in both:
            phone.sync()
            assert phone.sync().by_type.keys() <= {"SyncCompleteV1"}
        ann, bob = both
        for table, theirs in {"asset": "asset", "album": "album", "person": "person", "memory": "memory"}.items():
            of = "x.\"ownerId\" = $1" if table != "album" else (
                'EXISTS (SELECT FROM album_user m WHERE m."albumId" = x.id AND m."userId" = $1)'
            )  # fmt: skip
            key = "personGroupId" if table == "person" else "id"
            sql = f'SELECT x."{key}"::text AS id FROM "{table}" x WHERE {of}'
            mine = {one["id"] for one in database.fetch(sql, scene.ann)}
            assert ann.ids(theirs) & mine == mine - scene.waiting(table), table
        assert not bob.ids("asset") & scene.waiting("asset", but="isFavorite"), "others' hearts are not read"
        assert not ann.ids("album_asset", "albumId") & scene.waiting("album")
        assert str(whole["asset"]) in bob.ids("asset")
        users = {one["id"] for one in database.fetch('SELECT id::text FROM "user"')}
        assert ann.ids("user") == users, "a user keeps nothing from anybody"

        held = explained(service, scene.ann)
        for case in scene.cases:
            if case.waits and case.table in ("asset", "album", "memory", "person", "stack", "asset_ocr", "asset_edit"):
                forms = forms_of({"asset_edit": "edit", "asset_ocr": "ocr"}.get(case.table, case.table))
                of_table = {name for form in forms for name in form.upsert_types}
                assert any(t in of_table and (r, n) == ("unfit", case.field) for t, r, n in held), case
        counted = metrics(service)
        for case in scene.cases:
            if case.waits and case.table == "asset":
                assert counted[f'syncledger_rows_unfit_total{{field="AssetV2.{case.field}"}}'] > 0
        told = checked(database.url)
        for case in scene.cases:
            if case.waits and case.table in ("asset", "album", "memory", "person"):
                assert any(f"{case.table}.{case.column}: {case.field} cannot be read" in one for one in told), case

        scene.mend()
        for phone in both:
            phone.settled()
    assert [one for one in explained(service, scene.ann) if one[1] == "unfit"] == []


def test_a_user_whose_columns_became_null_is_who_they_are(
    service: RunningService, database: ImmichDatabase, tmp_path: Path
) -> None:
    user = database.user(f"kim-{uuid4().hex[:8]}", oauthId=None, password=None, avatarColor="tomorrow")
    database.album(user, assets=[database.asset(user)], description=None)
    with phones(service, database, tmp_path, user) as (phone,):
        database.settle()
        phone.sync()
        own = phone.row("auth_user", user)
        assert own is not None
        assert (own["oauthId"], own["avatarColor"]) == ("", None)
    with service.client(service.sign_in(str(user), str(user))) as client:
        me = client.get("/api/users/me").json()
    (known,) = database.fetch('SELECT name, email FROM "user" WHERE id = $1', user)
    assert (me["name"], me["email"], me["oauthId"]) == (known["name"], known["email"], "")


def test_whole_numbers_in_json_are_printed_as_such(
    service: RunningService, database: ImmichDatabase, tmp_path: Path
) -> None:
    user = database.user(f"lou-{uuid4().hex[:8]}")
    memory = database.memory(user)
    data = """{"year": 2020.0, "text": "at: 1.0, \\"2.0\\"", "more": [1.50, -3.00, 10.0500, 100]}"""
    database.execute(f"UPDATE memory SET data = '{data}' WHERE id = '{memory}'")
    with phones(service, database, tmp_path, user) as (phone,):
        database.settle()
        phone.sync()
        row = phone.row("memory", memory)
    assert row is not None
    assert json.loads(row["data"]) == {"year": 2020, "text": 'at: 1.0, "2.0"', "more": [1.5, -3, 10.05, 100]}
    assert "2020.0" not in row["data"]


def test_a_user_with_an_odd_stamp_comes_before_what_they_share(
    service: RunningService, database: ImmichDatabase, tmp_path: Path
) -> None:
    ann = database.user(f"ann-{uuid4().hex[:8]}")
    for odd in ("infinity", "-infinity", "1969-12-31", "12024-06-01", "2100-01-01"):
        other = database.user(f"of-{uuid4().hex[:8]}")
        database.execute(
            "SET session_replication_role = replica;"
            f"""UPDATE "user" SET "createdAt" = '{odd}', "updatedAt" = '{odd}' WHERE id = '{other}';"""
            "SET session_replication_role = origin"
        )
        database.asset(other)
        database.execute(
            "SET session_replication_role = replica;"  # the quota of an upload set it right
            f"""UPDATE "user" SET "createdAt" = '{odd}', "updatedAt" = '{odd}' WHERE id = '{other}';"""
            "SET session_replication_role = origin"
        )
        database.partner(other, ann)
    with phones(service, database, tmp_path, ann) as (phone,):
        database.settle()
        phone.sync()
        assert phone.ids("user") == {one["id"] for one in database.fetch('SELECT id::text FROM "user"')}
        assert len(phone.ids("asset")) == 5
        assert phone.sync().by_type.keys() == {"SyncCompleteV1"}
