"""The PostgreSQL source on a real server: every kind of order, pages cut anywhere, parents, shares, unfit rows."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from ledger.errors import LedgerError
from ledger.positions import Position
from projections.entities.lines import position_of
from projections.entities.postgres.mapping.from_toml import read_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.reading import FETCH_BYTES, PAGE_BYTES, WIDE_PAGE_BYTES
from projections.entities.postgres.source import PostgresSource
from projections.entities.source import Page, SourceUnavailable
from tests.support.stores.postgres_server import PostgresServer

LIBRARY = "00000000-0000-4000-8000-000000000001"
OTHER = "00000000-0000-4000-8000-000000000002"
EVER = 2**52
START_MS = 1_700_000_000_000

SCHEMA = """
CREATE FUNCTION uuid7(ms bigint, tail bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
  $$ SELECT (lpad(to_hex(ms), 12, '0') || '70008000' || lpad(to_hex(tail), 12, '0'))::uuid $$;
CREATE FUNCTION at(us bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
  $$ SELECT timestamptz 'epoch' + (us / 1000000) * interval '1 second' + (us % 1000000) * interval '1 microsecond' $$;
CREATE TABLE photo (
  stamp uuid PRIMARY KEY, owner uuid NOT NULL, name text, taken timestamptz, plain timestamp, small int, big bigint,
  number float8, exact numeric, flag boolean, note jsonb, raw json
);
CREATE INDEX ON photo (owner, stamp);
CREATE TABLE album (
  id text PRIMARY KEY, owner uuid NOT NULL, made timestamptz NOT NULL, changed timestamptz NOT NULL, cover uuid
);
CREATE TABLE link (stamp uuid PRIMARY KEY, owner uuid NOT NULL, album text, photo uuid);
CREATE TABLE share (stamp uuid PRIMARY KEY, who uuid NOT NULL, by uuid NOT NULL);
"""
STACK = "id = '{id}', ownerId = 'p.owner', primaryAssetId = 'p.name', createdAt = 'p.taken', updatedAt = 'p.taken'"
ORDERS = {
    "uuid7": ("uuid7 = 'p.stamp'", "p.stamp"),
    "zoned and uuid": ("updated_at = 'p.taken'\nid = 'p.stamp'", "p.stamp"),
    "plain and uuid": ("updated_at = 'p.plain'\nid = 'p.stamp'", "p.stamp"),
    "plain and text": ("updated_at = 'p.plain'\nid = 'p.name'", "p.name"),
    "zoned and text": ("updated_at = 'p.taken'\nid = 'p.name'", "p.name"),
    "zoned and integer": ("updated_at = 'p.taken'\nid = 'p.small'", "p.small"),
    "zoned and bigint": ("updated_at = 'p.taken'\nid = 'p.big'", "p.big"),
}


def stacks(order: str = ORDERS["uuid7"][0], entity_id: str = "p.stamp", *, library: str = "uuid") -> str:
    """A mapping of one table, as stacks, which have the fewest keys of all that have times."""
    return f"""
    [source]
    library = "{library}"
    [[entities.StackV1]]
    from = 'photo p'
    where = 'p.owner = :library'
    {order}
    data = {{ {STACK.format(id=entity_id)} }}
    """


@asynccontextmanager
async def source_of(url: str, mapping: str) -> AsyncIterator[PostgresSource]:
    """Open a source on a database."""
    postgres = await Postgres.open(url, size=2, wait_s=20, statement_timeout_s=60)
    try:
        yield PostgresSource(postgres, read_mapping(mapping, "test"))
    finally:
        await postgres.close()


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Any]:
    """A connection to a database with the tables, empty."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(SCHEMA)
    yield connection
    await connection.close()


async def read(
    source: PostgresSource,
    entity_type: str,
    after: Position | None = None,
    *,
    before: int = EVER,
    limit: int = 1000,
    library: str = LIBRARY,
) -> list[Page]:
    """Read all pages."""
    return [page async for page in source.pages(library, entity_type, after, before, limit)]


def lines_of(pages: Sequence[Page]) -> list[bytes]:
    return [line for page in pages for line in page.lines]


def rows_of(pages: Sequence[Page]) -> list[dict[str, Any]]:
    """Decode all lines, as whole ones."""
    return [json.loads(line + b'"}') for line in lines_of(pages)]


async def add_photos(connection: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert photos; a row's place in the list tells what it does not say."""
    for at, row in enumerate(rows):
        values = {
            "stamp": UUID(f"{START_MS + at:012x}70008000{0:012x}"),
            "owner": UUID(LIBRARY),
            "name": f"photo {at}",
            **row,
        }
        columns = ", ".join(values)
        marks = ", ".join(f"${number + 1}" for number in range(len(values)))
        await connection.execute(f"INSERT INTO photo ({columns}) VALUES ({marks})", *values.values())


# Order


TIES = """
INSERT INTO photo (stamp, owner, name, taken, plain, small, big)
SELECT uuid7({ms} + n % 5, n * 7919 % 3000), $1, chr(33 + n % 90) || 'ö' || n, at({ms} * 1000 + n % 7),
  at({ms} * 1000 + n % 7) AT TIME ZONE 'UTC', n - 1500, (n - 1500) * 6000000000000000::bigint
FROM generate_series(1, 3000) n
"""


@pytest.mark.parametrize("order", ORDERS)
async def test_pages_cut_anywhere_have_every_row_once_in_the_order_of_positions(
    order: str, database: Any, postgres_url: str
) -> None:
    await database.execute(TIES.format(ms=START_MS), UUID(LIBRARY))
    choose = random.Random(order)
    async with source_of(postgres_url, stacks(*ORDERS[order])) as source:
        found: list[bytes] = []
        after = None
        while True:  # as a device that breaks off, and comes again behind what it has acknowledged
            pages = source.pages(LIBRARY, "StackV1", after, EVER, choose.choice((1, 7, 50, 400, 1000)))
            count = len(found)
            async for page in pages:
                kept = page.lines[: choose.randint(1, len(page.lines))]
                found += kept
                after = position_of(kept[-1])
                if len(kept) < len(page.lines) or choose.random() < 0.2:
                    break
            if len(found) == count:
                break
        positions = [position_of(line) for line in found]
        assert positions == sorted(positions, key=lambda position: position.key)
        assert len({position.id for position in positions}) == len(positions) == 3000
        assert {row["data"]["id"] for row in rows_of([Page(found, positions[-1], 0)])} == {
            row[0] for row in await database.fetch(f"SELECT {ORDERS[order][1]}::text FROM photo p")
        }


@pytest.mark.parametrize("order", ORDERS)
async def test_a_position_without_an_id_is_behind_its_whole_instant(
    order: str, database: Any, postgres_url: str
) -> None:
    await database.execute(TIES.format(ms=START_MS), UUID(LIBRARY))
    async with source_of(postgres_url, stacks(*ORDERS[order])) as source:
        at_us = [position_of(line).at_us for line in lines_of(await read(source, "StackV1"))]
    async with source_of(postgres_url, stacks(*ORDERS[order])) as source:
        third = sorted(set(at_us))[2]
        behind = lines_of(await read(source, "StackV1", Position(third, "")))
        assert [position_of(line).at_us for line in behind] == [stamp for stamp in at_us if stamp > third]
    async with source_of(postgres_url, stacks(*ORDERS[order])) as source:
        below = lines_of(await read(source, "StackV1", before=third))
        assert [position_of(line).at_us for line in below] == [stamp for stamp in at_us if stamp < third]


async def test_instants_are_exact_to_the_microsecond(database: Any, postgres_url: str) -> None:
    stamps = [1, 999_999, 1_700_000_000_123_457, 4_102_444_800_000_001, 253_402_300_799_999_999]
    for at, us in enumerate(stamps):
        await database.execute(
            "INSERT INTO photo (stamp, owner, name, taken, plain) VALUES (uuid7($1, 0), $2, 'x', at($3), at($3))",
            START_MS + at,
            UUID(LIBRARY),
            us,
        )
    for order in ("zoned and uuid", "plain and uuid"):
        async with source_of(postgres_url, stacks(*ORDERS[order])) as source:
            await database.execute("UPDATE photo SET plain = taken AT TIME ZONE 'UTC'")
            lines = lines_of(await read(source, "StackV1", before=2**60))
            assert [position_of(line).at_us for line in lines] == stamps
            for before, line in zip([None, *lines], lines, strict=False):
                after = None if before is None else position_of(before)
                (page,) = await read(source, "StackV1", after, before=position_of(line).at_us + 1)
                assert page.lines == [line]


async def test_the_milliseconds_of_a_uuid_are_exact(database: Any, postgres_url: str) -> None:
    moments = [1, 1_700_000_000_001, 4_102_444_800_001, 9_007_199_254_740]
    for ms in moments:
        await database.execute(
            "INSERT INTO photo (stamp, owner, taken, name) VALUES (uuid7($1, 5), $2, now(), 'x')", ms, UUID(LIBRARY)
        )
    async with source_of(postgres_url, stacks()) as source:
        lines = lines_of(await read(source, "StackV1", before=2**60))
    assert [position_of(line).at_us for line in lines] == [ms * 1000 for ms in moments]


async def test_several_branches_are_one_order(database: Any, postgres_url: str) -> None:
    await database.execute(TIES.format(ms=START_MS), UUID(LIBRARY))
    mapping = stacks("updated_at = 'p.taken'\nid = 'p.stamp'").replace("= :library", "= :library AND p.small < 0")
    mapping += stacks().split('library = "uuid"')[1].replace("= :library", "= :library AND p.small >= 0")
    async with source_of(postgres_url, mapping) as source:
        lines = lines_of(await read(source, "StackV1"))
        positions = [position_of(line) for line in lines]
        assert positions == sorted(positions, key=lambda position: position.key)
        assert len({position.id for position in positions}) == 3000
    async with source_of(postgres_url, mapping) as source:
        assert lines_of(await read(source, "StackV1", limit=100)) == lines
        for at in range(0, 2999, 197):
            first = await anext(aiter(source.pages(LIBRARY, "StackV1", positions[at], EVER, 1)))
            assert first.lines == [lines[at + 1]]
            break_off = await read(source, "StackV1", positions[at], before=positions[at].at_us)
            assert lines_of(break_off) == []


# Libraries


async def test_libraries_do_not_mix(database: Any, postgres_url: str) -> None:
    await add_photos(database, [{"owner": UUID(who), "taken": None} for who in (LIBRARY, OTHER, LIBRARY)])
    await database.execute("UPDATE photo SET taken = now()")
    async with source_of(postgres_url, stacks()) as source:
        assert [row["data"]["ownerId"] for row in rows_of(await read(source, "StackV1"))] == [LIBRARY, LIBRARY]
        (other,) = rows_of(await read(source, "StackV1", library=OTHER))
        assert other["data"]["ownerId"] == OTHER


ODD = ["", "x", LIBRARY[:-1], LIBRARY + "0", "{" + LIBRARY + "}", "' OR '1'='1", "\0", "1; DROP TABLE photo", "ü" * 99]


@pytest.mark.parametrize("kind", ["uuid", "text", "bigint"])
async def test_a_library_that_is_none_is_empty(kind: str, database: Any, postgres_url: str) -> None:
    await add_photos(database, [{}])
    await database.execute("UPDATE photo SET taken = now()")
    mapping = stacks(library=kind).replace("p.owner = :library", "p.owner::text = :library::text")
    async with source_of(postgres_url, mapping) as source:
        for library in ODD:
            assert await read(source, "StackV1", library=library) == [], library
            assert await source.changed(library, {"StackV1": None}, EVER) == frozenset(), library
            assert await source.ahead(library, "StackV1", None, EVER) == (0, None), library
            assert list(await source.held_back(library)) == [], library


async def test_ids_of_libraries_may_be_integers(database: Any, postgres_url: str) -> None:
    await add_photos(database, [{"big": 7}, {"big": -(2**63)}, {"big": 2**63 - 1}])
    await database.execute("UPDATE photo SET taken = now()")
    mapping = stacks(library="bigint").replace("p.owner = :library", "p.big = :library")
    async with source_of(postgres_url, mapping) as source:
        for library in ("7", str(-(2**63)), str(2**63 - 1)):
            assert len(lines_of(await read(source, "StackV1", library=library))) == 1
        assert await read(source, "StackV1", library=str(2**63)) == []


async def test_types_that_are_not_mapped_have_no_rows(database: Any, postgres_url: str) -> None:
    async with source_of(postgres_url, stacks()) as source:
        assert await read(source, "AssetV2") == []
        assert await read(source, "AlbumV1") == []
        assert await source.changed(LIBRARY, {"AssetV2": None, "SyncCompleteV1": None}, EVER) == frozenset()
        assert await source.ahead(LIBRARY, "AssetV2", None, EVER) == (0, None)


# Lines


OCR = """
[[entities.AssetOcrV1]]
from = 'photo p'
where = 'p.owner = :library'
uuid7 = 'p.stamp'
[entities.AssetOcrV1.data]
id = 'p.stamp'
assetId = 'p.owner'
text = 'p.name'
textScore = 'p.number'
boxScore = 'p.exact'
isVisible = 'p.flag'
""" + "\n".join(f"{axis}{corner} = 'p.small'" for corner in range(1, 5) for axis in "xy")
EDIT = """
[[entities.AssetEditV1]]
from = 'photo p'
where = 'p.owner = :library'
uuid7 = 'p.stamp'
data = { id = 'p.stamp', assetId = 'p.owner', action = 'p.name', sequence = 'p.big', parameters = 'p.note' }
"""
MEMORY = """
[[entities.AssetMetadataV1]]
from = 'photo p'
where = 'p.owner = :library'
uuid7 = 'p.stamp'
data = { assetId = 'p.owner', key = 'p.name', value = 'p.raw' }
"""
WHOLE = {"number": 0.5, "exact": 1, "flag": True, "small": 3}


async def test_a_line_is_what_a_device_reads(database: Any, postgres_url: str) -> None:
    name = "a \"quoted\" \\ name\nwith %s, 100%, '', \u2028, 😀 and \x01"
    await add_photos(database, [{"name": name, **WHOLE}])
    async with source_of(postgres_url, OCR) as source:
        ((line,),) = [page.lines for page in await read(source, "AssetOcrV1")]
    stamp = f"{START_MS >> 16:08x}-{START_MS & 0xFFFF:04x}-7000-8000-000000000000"
    assert b"\n" not in line
    assert json.loads(line + b'"}') == {
        "type": "AssetOcrV1",
        "data": {
            "id": stamp,
            "assetId": LIBRARY,
            "text": name,
            "textScore": 0.5,
            "boxScore": 1,
            "isVisible": True,
            **dict.fromkeys((f"{axis}{corner}" for axis in "xy" for corner in range(1, 5)), 3),
        },
        "ack": f"AssetOcrV1|2023-11-14T22:13:20.000000Z|{stamp}",
    }


async def test_times_have_milliseconds_and_are_in_utc(database: Any, postgres_url: str) -> None:
    await add_photos(database, [{}])
    await database.execute("UPDATE photo SET taken = '2024-02-29 23:59:59.999999-05', plain = '0001-01-01 00:00'")
    mapping = stacks().replace("createdAt = 'p.taken'", "createdAt = 'p.plain'")
    async with source_of(postgres_url, mapping) as source:
        (row,) = rows_of(await read(source, "StackV1"))
    assert row["data"]["updatedAt"] == "2024-03-01T04:59:59.999Z"
    assert row["data"]["createdAt"] == "0001-01-01T00:00:00.000Z"


async def test_json_is_on_one_line(database: Any, postgres_url: str) -> None:
    await add_photos(database, [{}])
    await database.execute('UPDATE photo SET raw = E\'{"a":\\n\\r\\n [1,\\t"x\\\\ny"]}\'')
    async with source_of(postgres_url, MEMORY) as source:
        (row,) = rows_of(await read(source, "AssetMetadataV1"))
    assert row["data"]["value"] == {"a": [1, "x\ny"]}


@pytest.mark.parametrize(
    ("change", "mapping", "field"),
    [
        ("name = NULL", OCR, "text"),
        ("number = 'NaN'", OCR, "textScore"),
        ("number = '-Infinity'", OCR, "textScore"),
        ("exact = 'NaN'", OCR, "boxScore"),
        ("flag = NULL", OCR, "isVisible"),
        ("small = NULL", OCR, "x1"),
        ("name = 'turn'", EDIT, "action"),
        ("big = NULL", EDIT, "sequence"),
        ("note = '[1]'", EDIT, "parameters"),
        ("note = 'null'", EDIT, "parameters"),
        ("raw = '\"text\"'", MEMORY, "value"),
        ("taken = 'infinity'", stacks(), "createdAt"),
        ("taken = '-infinity'", stacks(), "createdAt"),
        ("taken = '10000-01-01'", stacks(), "createdAt"),
        ("taken = '0044-03-15 BC'", stacks(), "createdAt"),
        ("name = E'a|b'", stacks(), "primaryAssetId"),
        ("name = ''", stacks(), "primaryAssetId"),
        ("exact = 1.0", EDIT.replace("p.big", "p.exact"), "sequence"),
        (
            "name = name || '|b'",
            stacks("updated_at = 'p.taken'\nid = 'p.name'").replace("= 'p.name',", "= 'p.owner',"),
            "id",
        ),
        ("owner = NULL", stacks().replace("p.owner =", "p.small = 3 OR p.owner ="), "ownerId"),
    ],
)
async def test_a_row_that_no_device_can_read_is_left_out_and_told(
    change: str, mapping: str, field: str, database: Any, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    (entity_type,) = read_mapping(mapping, "").entities
    await database.execute("ALTER TABLE photo ALTER owner DROP NOT NULL")
    rows = [{**WHOLE, "big": 1, "note": '{"a": 1}', "raw": "{}", "name": "crop"}] * 5
    await add_photos(database, rows)
    await database.execute("UPDATE photo SET taken = at($1)", START_MS * 1000)
    if "id = 'p.name'" in mapping:
        await database.execute("UPDATE photo SET name = name || stamp")
    ids = [row["stamp"] for row in await database.fetch("SELECT stamp FROM photo ORDER BY stamp")]
    await database.execute(f"UPDATE photo SET {change} WHERE stamp = ANY($1)", [ids[1], ids[3]])
    async with source_of(postgres_url, mapping) as source:
        (page,) = await read(source, entity_type)
        assert (len(page.lines), page.held_back) == (3, 2)
        assert len(lines_of(await read(source, entity_type, Position(1, "")))) == 3
        (held,) = await source.held_back(LIBRARY)
        assert (held.entity_type, held.rows, held.reason, held.parent) == (entity_type, 2, "unfit", field)
    (logged,) = [record.getMessage() for record in caplog.records if "is not sent" in record.getMessage()]
    assert field in logged
    assert entity_type in logged
    assert "turn" not in logged


async def test_a_null_where_a_device_takes_it(database: Any, postgres_url: str) -> None:
    await add_photos(database, [{}])
    asset = """
    [[entities.AssetV2]]
    from = 'photo p'
    where = 'p.owner = :library'
    uuid7 = 'p.stamp'
    [entities.AssetV2.data]
    type = "'IMAGE'"
    visibility = "'timeline'"
    isFavorite = 'coalesce(p.flag, false)'
    isEdited = 'false'
    """
    nothing = {"width": "p.small", "height": "null", "duration": "p.big", "thumbhash": "p.name || p.number"}
    nothing |= dict.fromkeys(("fileCreatedAt", "fileModifiedAt", "createdAt"), "p.taken")
    nothing |= {"localDateTime": "p.plain", "deletedAt": "null", "stackId": "null::uuid", "libraryId": "null"}
    nothing |= {"livePhotoVideoId": "p.note::text"}
    given = {"id": "p.stamp", "ownerId": "p.owner", "originalFileName": "p.name", "checksum": "p.name"}
    asset += "".join(f"{key} = '{sql}'\n" for key, sql in {**nothing, **given}.items())
    async with source_of(postgres_url, asset) as source:
        (row,) = rows_of(await read(source, "AssetV2"))
        assert {key: row["data"][key] for key in nothing} == dict.fromkeys(nothing)
        await database.execute("UPDATE photo SET big = 65432")
        (old,) = rows_of(await read(source, "AssetV1"))
        assert old["type"] == "AssetV1"
        assert old["data"]["duration"] == "0:01:05.43200"
        assert old["ack"].replace("V1", "V2", 1) == row["ack"]
        assert await source.changed(LIBRARY, {"AssetV1": None}, EVER) == {"AssetV1"}
        assert (await source.ahead(LIBRARY, "AssetV1", None, EVER)).rows == 1


# Pages


async def test_pages_are_bounded(database: Any, postgres_url: str) -> None:
    await database.execute(
        "INSERT INTO photo (stamp, owner, taken, name) SELECT uuid7($1::bigint + n, 0), $2, now(),"
        " CASE WHEN n % 300 = 200 THEN repeat('x', 200) || n ELSE 'x' || n END FROM generate_series(1, 2000) n",
        START_MS,
        UUID(LIBRARY),
    )
    await database.execute(
        "INSERT INTO photo (stamp, owner) SELECT uuid7($1::bigint + n, 1), $2 FROM generate_series(100, 140) n",
        START_MS,
        UUID(LIBRARY),
    )
    mapping = OCR.replace("text = 'p.name'", '''text = "coalesce(p.name, repeat('y', 150000))"''')
    for key in ("number", "exact", "small"):
        mapping = mapping.replace(f"p.{key}", "1")
    mapping = mapping.replace("p.flag", "true")
    async with source_of(postgres_url, mapping) as source:
        pages = await read(source, "AssetOcrV1")
    assert len(lines_of(pages)) == 2041
    for page in pages:
        assert len(page.lines) == 1 or sum(map(len, page.lines)) <= WIDE_PAGE_BYTES
        assert len(page.lines) <= 1000
    assert max(map(len, lines_of(pages))) > 2 * PAGE_BYTES
    assert FETCH_BYTES < 41 * 150_000


async def test_no_connection_is_held_while_a_page_is_sent(database: Any, postgres_url: str) -> None:
    await database.execute(TIES.format(ms=START_MS), UUID(LIBRARY))
    postgres = await Postgres.open(postgres_url, size=1, wait_s=20, statement_timeout_s=60)
    source = PostgresSource(postgres, read_mapping(stacks(), "test"))
    readers = [source.pages(LIBRARY, "StackV1", None, EVER, 10) for _ in range(20)]
    for reader in readers:
        await anext(reader)
    async with asyncio.timeout(60):
        while postgres.in_use:  # noqa: ASYNC110 - by what comes next; who reads none of it holds nothing
            await asyncio.sleep(0.01)
    for reader in readers:
        assert isinstance(await anext(reader), Page)
    for reader in readers:
        await reader.aclose()  # type: ignore[attr-defined]
    assert len(lines_of(await read(source, "StackV1"))) == 3000
    await postgres.close()


# Parents


LINKS = """
[[entities.AlbumV2]]
from = 'album b'
where = 'b.owner = :library'
updated_at = 'b.changed'
id = 'b.id'
[entities.AlbumV2.data]
id = 'b.id'
name = 'b.id'
description = "''"
createdAt = 'b.made'
updatedAt = 'b.changed'
thumbnailAssetId = 'b.cover'
isActivityEnabled = 'true'
order = "'asc'"
[[entities.AlbumV2.parents]]
table = "asset"
from = 'photo p'
on = 'p.stamp = b.cover'
uuid7 = 'p.stamp'

[[entities.AlbumToAssetV1]]
from = 'link l'
where = 'l.owner = :library'
uuid7 = 'l.stamp'
data = { albumId = 'l.album', assetId = 'l.photo' }
[[entities.AlbumToAssetV1.parents]]
table = "album"
from = 'album b'
on = 'b.id = l.album AND b.owner = :library'
updated_at = 'b.changed'
since = 'b.made'
[[entities.AlbumToAssetV1.parents]]
table = "asset"
from = 'photo p'
on = 'p.stamp = l.photo'
uuid7 = 'p.stamp'
"""


def moment(ms: int) -> str:
    return f"at({(START_MS + ms) * 1000})"


async def add_album(connection: Any, name: str, made: int, changed: int, *, owner: str = LIBRARY) -> None:
    await connection.execute(
        f"INSERT INTO album (id, owner, made, changed) VALUES ($1, $2, {moment(made)}, {moment(changed)})",
        name,
        UUID(owner),
    )


def photo(ms: int) -> UUID:
    return UUID(f"{START_MS + ms:012x}70008000{0:012x}")


async def add_link(connection: Any, ms: int, album: str, asset: int) -> None:
    await connection.execute(
        "INSERT INTO link VALUES (uuid7($1, 9), $2, $3, $4)", START_MS + ms, UUID(LIBRARY), album, photo(asset)
    )


async def test_a_row_stands_where_its_latest_parent_does(database: Any, postgres_url: str) -> None:
    await add_photos(database, [{"stamp": photo(0)}, {"stamp": photo(50)}])
    for album, made, changed in (("early", 1, 90), ("late", 60, 60)):
        await add_album(database, album, made, changed)
    wanted = []
    for at, (album, asset) in enumerate((a, p) for a in ("early", "late") for p in (0, 50)):
        await add_link(database, 10 + at, album, asset)
        wanted.append((max(10 + at, {"early": 1, "late": 60}[album], asset), album, asset))
    await add_link(database, 70, "late", 50)
    wanted.append((70, "late", 50))
    async with source_of(postgres_url, LINKS) as source:
        for limit in (1, 2, 1000):
            rows = rows_of(await read(source, "AlbumToAssetV1", limit=limit))
            found = [(row["ack"].split("|")[1], row["data"]["albumId"], row["data"]["assetId"]) for row in rows]
            assert found == [
                (f"2023-11-14T22:13:20.{ms:03}000Z", album, str(photo(asset))) for ms, album, asset in sorted(wanted)
            ]
        lines = lines_of(await read(source, "AlbumToAssetV1"))
        for at, line in enumerate(lines):
            rest = await read(source, "AlbumToAssetV1", position_of(line))
            assert lines_of(rest) == lines[at + 1 :]


async def test_a_row_waits_for_a_missing_parent_and_comes_with_it(database: Any, postgres_url: str) -> None:
    await add_photos(database, [{"stamp": photo(0)}])
    await add_album(database, "there", 1, 1)
    for ms, album in ((10, "there"), (11, "none"), (12, "other's"), (13, "there")):
        await add_link(database, ms, album, 0)
    await add_album(database, "other's", 1, 1, owner=OTHER)
    async with source_of(postgres_url, LINKS) as source:
        (page,) = await read(source, "AlbumToAssetV1", before=(START_MS + 15) * 1000)
        assert [row["data"]["albumId"] for row in rows_of([page])] == ["there", "there"]
        assert page.held_back == 2
        (held,) = await source.held_back(LIBRARY)
        assert (held.entity_type, held.rows, held.reason) == ("AlbumToAssetV1", 2, "missing_parent")
        assert held.example_id.endswith(str(photo(0)))
        assert held.parent in ("album|none", "album|other's")
        done = position_of(page.lines[-1])
        await add_album(database, "none", 20, 20)
        (late,) = await read(source, "AlbumToAssetV1", done)
        assert [row["data"]["albumId"] for row in rows_of([late])] == ["none"]
        assert position_of(late.lines[0]).at_us == (START_MS + 20) * 1000


async def test_a_reference_that_is_null_waits_for_nothing(database: Any, postgres_url: str) -> None:
    await add_album(database, "without", 1, 1)
    await add_album(database, "with", 2, 2)
    await database.execute("UPDATE album SET cover = $1 WHERE id = 'with'", photo(5))
    async with source_of(postgres_url, LINKS) as source:
        (page,) = await read(source, "AlbumV2")
        assert [row["data"]["id"] for row in rows_of([page])] == ["without"]
        assert page.held_back == 1


async def test_the_first_row_whose_parent_is_too_new_is_found(database: Any, postgres_url: str) -> None:
    await add_photos(database, [{"stamp": photo(0)}, {"stamp": photo(1)}])
    for album, changed in (("calm", 1), ("busy", 80)):
        await add_album(database, album, 1, changed)
    for ms, album in ((10, "calm"), (11, "calm"), (12, "busy"), (13, "calm")):
        await add_link(database, ms, album, ms % 2)
    snapshot_us = (START_MS + 50) * 1000
    async with source_of(postgres_url, LINKS) as source:
        (page,) = await read(source, "AlbumToAssetV1", before=snapshot_us)
        assert len(page.lines) == 4
        held = await source.first_waiting(LIBRARY, "AlbumToAssetV1", page, snapshot_us, {})
        assert held is not None
        assert (held.index, held.position) == (2, position_of(page.lines[2]))
        later = (START_MS + 100) * 1000
        assert await source.first_waiting(LIBRARY, "AlbumToAssetV1", page, later, {}) is None
        # Its own run was cut before the second asset.
        cut = {"AssetV2": Position((START_MS + 1) * 1000, "x")}
        held = await source.first_waiting(LIBRARY, "AlbumToAssetV1", page, later, cut)
        assert held is not None
        assert held.index == 1
        # Albums may stand elsewhere than where they changed last, so none is known to have been sent.
        held = await source.first_waiting(LIBRARY, "AlbumToAssetV1", page, later, {"AlbumV2": Position(later - 1, "x")})
        assert held is not None
        assert held.index == 0
        assert (
            await source.first_waiting(LIBRARY, "AlbumToAssetV1", page, later, {"AlbumDeleteV1": Position(1, "x")})
            is None
        )


async def test_parents_are_matched_to_lines_where_some_are_left_out(database: Any, postgres_url: str) -> None:
    await add_photos(database, [{"stamp": photo(0)}])
    await add_album(database, "calm", 1, 1)
    await add_album(database, "busy", 1, 80)
    for ms, album in ((10, "none"), (11, "calm"), (12, "none"), (13, "busy")):
        await add_link(database, ms, album, 0)
    async with source_of(postgres_url, LINKS) as source:
        (page,) = await read(source, "AlbumToAssetV1", before=(START_MS + 50) * 1000)
        held = await source.first_waiting(LIBRARY, "AlbumToAssetV1", page, (START_MS + 50) * 1000, {})
        assert held is not None
        assert held.index == 1


# Shares


SHARES = """
[[entities.PartnerStackBackfillV1]]
from = 'photo p'
where = 'p.owner = s.by AND p.stamp <= s.stamp'
uuid7 = 'p.stamp'
data = { STACK }
each = { from = 'share s', where = 's.who = :library', uuid7 = 's.stamp' }

[[entities.PartnerStackDeleteV1]]
from = 'photo p'
where = 'p.owner = s.by AND p.stamp <= s.stamp'
uuid7 = 'p.stamp'
data = { stackId = 'p.stamp' }
each = { from = 'share s', where = 's.who = :library', uuid7 = 's.stamp' }
[[entities.PartnerStackDeleteV1]]
from = 'photo p JOIN share s ON s.by = p.owner'
where = 's.who = :library AND p.stamp > s.stamp'
uuid7 = 'p.stamp'
data = { stackId = 'p.stamp' }
""".replace("STACK }", STACK.format(id="p.stamp") + " }")


async def add_shares(connection: Any) -> None:
    """Forty partners, some of whom share at the same instant, with few, no or many photos, older and newer."""
    await connection.execute(
        """
        INSERT INTO share SELECT uuid7($1::bigint + 500 + n / 3, 999 + n), $2, uuid7(0, n) FROM generate_series(1, 40) n
        """,
        START_MS,
        UUID(LIBRARY),
    )
    await connection.execute(
        """
        INSERT INTO photo (stamp, owner, name, taken)
        SELECT uuid7($1::bigint + (n * 7919 + photo * 31) % 1000, n * 100000 + photo), uuid7(0, n), 'x', now()
        FROM generate_series(1, 40) n
        CROSS JOIN LATERAL
          generate_series(1, CASE n WHEN 7 THEN 1500 WHEN 8 THEN 0 WHEN 20 THEN 700 ELSE n % 4 END) photo
        """,
        START_MS,
    )


@pytest.mark.parametrize("entity_type", ["PartnerStackBackfillV1", "PartnerStackDeleteV1"])
async def test_rows_of_shares_come_share_by_share_wherever_pages_are_cut(
    entity_type: str, database: Any, postgres_url: str
) -> None:
    await add_shares(database)
    choose = random.Random(entity_type)
    old = "SELECT p.stamp::text, s.stamp::text FROM photo p JOIN share s ON s.by = p.owner WHERE p.stamp <= s.stamp"
    new = "SELECT p.stamp::text, NULL FROM photo p JOIN share s ON s.by = p.owner WHERE p.stamp > s.stamp"
    rows = await database.fetch(old if "Backfill" in entity_type else f"{old} UNION ALL {new}")
    wanted = []
    for stamp, share in rows:
        at_us = int((share or stamp).replace("-", "")[:12], 16) * 1000
        wanted.append(Position(at_us, f"{share}:{stamp}" if share else stamp))
    wanted.sort(key=lambda position: position.key)
    async with source_of(postgres_url, SHARES) as source:
        for limit in (1000, 40, 7):
            assert [position_of(line) for line in lines_of(await read(source, entity_type, limit=limit))] == wanted
        for _ in range(30):
            at = choose.randrange(len(wanted) - 1)
            pages = source.pages(LIBRARY, entity_type, wanted[at], EVER, choose.choice((1, 10, 500)))
            found = [position_of(line) for line in (await anext(pages)).lines]
            assert found == wanted[at + 1 : at + 1 + len(found)]
        assert await source.changed(LIBRARY, {entity_type: wanted[-2]}, EVER) == {entity_type}
    async with source_of(postgres_url, SHARES) as source:
        assert await source.changed(LIBRARY, {entity_type: wanted[-1]}, EVER) == frozenset()
        ahead = await source.ahead(LIBRARY, entity_type, wanted[10], EVER)
        assert ahead == (len(wanted) - 11, wanted[-1].at_us)
        before = wanted[len(wanted) // 2].at_us
        below = lines_of(await read(source, entity_type, before=before))
        assert [position_of(line) for line in below] == [position for position in wanted if position.at_us < before]


# What changed


async def test_what_changed_is_told_for_all_types_at_once(database: Any, postgres_url: str) -> None:
    await add_photos(database, [{"stamp": photo(ms)} for ms in (1, 2, 3)])
    await add_album(database, "one", 5, 5)
    async with source_of(postgres_url, stacks() + LINKS) as source:
        types = {"StackV1": None, "AlbumV2": None, "AlbumToAssetV1": None, "AssetV2": None}
        assert await source.changed(LIBRARY, types, EVER) == {"StackV1", "AlbumV2"}
        at_us = (START_MS + 3) * 1000
        for stack, before, expected in (
            (Position(at_us, ""), EVER, set()),
            (Position(at_us - 1, ""), EVER, {"StackV1"}),
            (Position(at_us - 1, ""), at_us, set()),
            (Position(at_us - 1, ""), at_us + 1, {"StackV1"}),
        ):
            known = {"StackV1": stack, "AlbumV2": Position((START_MS + 5) * 1000, "one")}
            assert await source.changed(LIBRARY, known, before) == expected


async def test_what_is_held_back_does_not_count_as_changed_once_it_was_read(database: Any, postgres_url: str) -> None:
    await add_link(database, 10, "none", 0)
    async with source_of(postgres_url, LINKS) as source:
        before = (START_MS + 50) * 1000
        known: dict[str, Position | None] = {"AlbumToAssetV1": None, "AlbumV2": Position(1, "")}
        assert await source.changed(LIBRARY, known, before) == {"AlbumToAssetV1"}
        assert lines_of(await read(source, "AlbumToAssetV1", before=before)) == []
        for _ in range(3):
            before += 10_000
            assert await source.changed(LIBRARY, known, before) == frozenset()
        await add_album(database, "none", 90, 90)
        await add_photos(database, [{"stamp": photo(0)}])
        before = (START_MS + 95) * 1000
        assert await source.changed(LIBRARY, known, before) == {"AlbumToAssetV1", "AlbumV2"}
        assert len(lines_of(await read(source, "AlbumToAssetV1", before=before))) == 1


async def test_a_device_that_starts_over_gets_what_was_put_behind_the_horizon(database: Any, postgres_url: str) -> None:
    async with source_of(postgres_url, stacks()) as source:
        assert await source.changed(LIBRARY, {"StackV1": None}, EVER) == frozenset()
        assert await read(source, "StackV1") == []
        await add_photos(database, [{"stamp": photo(1)}])
        await database.execute("UPDATE photo SET taken = now()")
        assert await source.changed(LIBRARY, {"StackV1": None, "AlbumV2": Position(1, "")}, EVER) == frozenset()
        assert await source.changed(LIBRARY, {"StackV1": None}, EVER) == {"StackV1"}
        assert len(lines_of(await read(source, "StackV1"))) == 1


async def test_what_lies_ahead_is_counted_up_to_a_bound(database: Any, postgres_url: str) -> None:
    await database.execute(
        "INSERT INTO photo (stamp, owner) SELECT uuid7($1::bigint + n, 0), $2 FROM generate_series(1, 10100) n",
        START_MS,
        UUID(LIBRARY),
    )
    async with source_of(postgres_url, stacks()) as source:
        newest = (START_MS + 10_100) * 1000
        assert await source.ahead(LIBRARY, "StackV1", None, EVER) == (10_001, newest)
        assert await source.ahead(LIBRARY, "StackV1", Position(newest - 5000, ""), EVER) == (5, newest)
        assert await source.ahead(LIBRARY, "StackV1", Position(newest, ""), EVER) == (0, None)


# Trouble


async def test_a_mapping_that_does_not_fit_the_database_says_so(database: Any, postgres_url: str) -> None:
    async with source_of(postgres_url, stacks("uuid7 = 'p.stamps'")) as source:
        with pytest.raises(SourceUnavailable, match=r"rows of StackV1 .*column p.stamps does not exist"):
            await read(source, "StackV1")
        with pytest.raises(SourceUnavailable, match="StackV1"):
            await source.changed(LIBRARY, {"StackV1": None}, EVER)


async def test_what_a_row_holds_is_not_in_an_error(database: Any, postgres_url: str) -> None:
    await add_photos(database, [{"name": "a secret"}])
    mapping = stacks().replace("createdAt = 'p.taken'", "createdAt = 'p.name::timestamptz'")
    async with source_of(postgres_url, mapping) as source:
        with pytest.raises(LedgerError, match="StackV1") as failed:
            await read(source, "StackV1")
        assert "secret" not in str(failed.value)
        assert failed.value.__suppress_context__
        await database.execute("UPDATE photo SET name = now()::text, taken = now()")
        assert len(lines_of(await read(source, "StackV1"))) == 1  # and the connection is as good as before


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("uuid7 = 'p.name'", "a uuid7 that is text"),
        ("updated_at = 'p.small'\nid = 'p.stamp'", "an updated_at that is int4"),
        ("updated_at = 'p.taken'\nid = 'p.number'", "an id of the type float8"),
    ],
)
async def test_orders_that_positions_cannot_hold_are_refused(
    order: str, message: str, database: Any, postgres_url: str
) -> None:
    async with source_of(postgres_url, stacks(order)) as source:
        with pytest.raises(LedgerError, match=message):
            await read(source, "StackV1")


async def test_branches_with_ids_of_different_types_are_refused(database: Any, postgres_url: str) -> None:
    mapping = stacks() + stacks(*ORDERS["zoned and text"]).split('library = "uuid"')[1]
    async with source_of(postgres_url, mapping) as source:
        with pytest.raises(LedgerError, match=r"ids of StackV1 are of several types \(text, uuid\)"):
            await read(source, "StackV1")


async def test_a_server_that_is_away_is_unavailable(postgres_server: PostgresServer) -> None:
    async with source_of(postgres_server.url, stacks()) as source:
        assert (await source.health()).ok
        postgres_server.stop()
        health = await source.health()
        assert (health.kind, health.ok) == ("postgres", False)
        for question in (
            source.changed(LIBRARY, {"StackV1": None}, EVER),
            read(source, "StackV1"),
            source.ahead(LIBRARY, "StackV1", None, EVER),
        ):
            with pytest.raises(SourceUnavailable):
                await question
    async with source_of(postgres_server.url, stacks()) as source:
        with pytest.raises(SourceUnavailable):
            await source.horizon(LIBRARY)


async def test_deletes_are_kept_as_long_as_the_mapping_says(database: Any, postgres_url: str) -> None:
    mapping = stacks()
    async with source_of(postgres_url, mapping) as source:
        assert await source.tombstone_floor(LIBRARY) == 0
    async with source_of(postgres_url, mapping.replace("[source]", '[source]\nkeeps_deletes = "2d"')) as source:
        now_us = await database.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        floor_us = await source.tombstone_floor(LIBRARY)
        horizon_us = await source.horizon(LIBRARY)
    assert 0 <= floor_us - (now_us - 2 * 86_400_000_000) < 60_000_000
    assert horizon_us <= now_us + 60_000_000


async def test_a_transaction_open_for_longer_than_deletes_are_kept_stops_streams_and_is_named(
    database: Any, postgres_url: str
) -> None:
    await database.execute("SET application_name = 'upload'")
    mapping = stacks().replace("[source]", '[source]\nkeeps_deletes = "3s"')
    async with source_of(postgres_url, mapping) as source:
        assert await source.horizon(LIBRARY) > await source.tombstone_floor(LIBRARY)
        await database.execute("BEGIN; SELECT pg_sleep(3.1)")
        with pytest.raises(SourceUnavailable, match=r"\(upload\)"):
            await source.horizon(LIBRARY)
        health = await source.health()
        assert not health.ok
        assert "(upload)" in health.text
        await database.execute("COMMIT")
        assert await source.horizon(LIBRARY) > await source.tombstone_floor(LIBRARY)
        assert (await source.health()).ok


async def test_who_holds_the_horizon_back_is_told(database: Any, postgres_url: str) -> None:
    await database.execute("SET application_name = 'upload'")
    async with source_of(postgres_url, stacks()) as source:
        assert source.of_session("u", "s") is source
        assert (await source.health()).text == "PostgreSQL answers"
        await database.execute("BEGIN; SELECT pg_sleep(5.1)")
        health = await source.health()
        assert health.ok
        assert "devices see nothing of the last" in health.text
        assert "(upload)" in health.text
