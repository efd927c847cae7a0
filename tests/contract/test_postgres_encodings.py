"""Databases of other encodings than UTF-8: nothing is asked that one lacks, and bytes that are no text keep one row."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
import pytest

from ledger.positions import Position
from projections.entities.lines import position_of
from projections.entities.postgres.check.check import check
from projections.entities.postgres.mapping.from_toml import read_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from projections.entities.postgres.statements.encodings import can_hold, in_unicode
from projections.entities.source import Page
from tests.support.sources.near_horizon import MARGIN_US, near_horizon
from tests.support.sources.photo_database import MAPPING, PhotoDatabase
from tests.support.stores.postgres_server import PostgresServer

__all__ = ["near_horizon"]

pytestmark = pytest.mark.usefixtures("near_horizon")

LIBRARY = "lib"
TYPES = ("AssetV2", "AlbumV2", "AlbumToAssetV1")
NAMES = {
    "LATIN1": "café.jpg",
    "WIN1252": "5 €.jpg",
    "EUC_JP": "写真.jpg",
    "SQL_ASCII": "café 写真.jpg",
    "UTF8": "写真 €.jpg",
}


@contextmanager
def database(server: PostgresServer, encoding: str) -> Iterator[str]:
    """A database in an encoding."""
    name = f"in_{encoding.lower()}"
    server.psql(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER libc "
        "TEMPLATE template0"
    )
    try:
        yield server.url_of(name)
    finally:
        server.psql(f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def library(url: str) -> AsyncIterator[tuple[PhotoDatabase, PostgresSource, Postgres]]:
    """The database with its tables, and the source on it."""
    photos = await PhotoDatabase.build(url)
    pool = await Postgres.open(url, size=2, wait_s=20, statement_timeout_s=30)
    try:
        yield photos, PostgresSource(pool, read_mapping(MAPPING, "photos.toml")), pool
    finally:
        await pool.close()
        await photos.close()


async def read(source: PostgresSource, name: str, after: Position | None = None, of: str = LIBRARY) -> list[Page]:
    """Read what is below the horizon."""
    return [page async for page in source.pages(of, name, after, await source.horizon(of), 1000)]


def ids_of(pages: list[Page]) -> list[str]:
    return [position_of(line).id for page in pages for line in page.lines]


@pytest.mark.parametrize(
    "encoding", [pytest.param(name, marks=pytest.mark.soak if name in ("UTF8", "WIN1252") else ()) for name in NAMES]
)
async def test_a_library_in_any_encoding_is_read(postgres: PostgresServer, encoding: str) -> None:
    with database(postgres, encoding) as url:
        async with library(url) as (photos, source, pool):
            await photos.put_photo(LIBRARY, "p1", NAMES[encoding])
            await photos.put_photo(LIBRARY, "p2")
            await photos.settle()
            horizon_us = await source.horizon(LIBRARY)
            first = dict.fromkeys(TYPES)
            assert "AssetV2" in await source.changed(LIBRARY, first, horizon_us)
            pages = await read(source, "AssetV2")
            assert ids_of(pages) == ["p1", "p2"]
            assert f'"originalFileName":"{NAMES[encoding]}"'.encode() in pages[0].lines[0]
            for foreign in ("\U0010ffff", "ünï", "ไทย"):  # of another source's, or somebody's hand
                assert ids_of(await read(source, "AssetV2", of=foreign)) == []
                assert await source.changed(foreign, first, horizon_us) == frozenset()
                at = position_of(pages[0].lines[0])
                behind = Position(at.at_us, foreign)
                assert ids_of(await read(source, "AssetV2", behind)) in (["p1", "p2"], ["p2"]), "none is passed by"
                assert (await source.ahead(LIBRARY, "AssetV2", behind, horizon_us)).rows in (1, 2)
            report = await check(pool, read_mapping(MAPPING, "photos.toml"))
            assert [problem.says for problem in report.problems if problem.weight == "problem"] == []


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [
        ("SQL_ASCII", "\\xe9"),
        pytest.param("SQL_ASCII", "\\xed\\xa0\\x80", marks=pytest.mark.soak),
        ("WIN1252", "\\x81"),
    ],
)
async def test_bytes_that_are_no_text_keep_their_row_and_no_other(
    postgres: PostgresServer, encoding: str, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    with database(postgres, encoding) as url:
        async with library(url) as (photos, source, pool):
            for photo in ("p1", "p2", "p3"):
                await photos.put_photo(LIBRARY, photo)
            await photos.put_album(LIBRARY, "b")
            for photo in ("p1", "p2"):
                await photos.link(LIBRARY, "b", photo)
            raw = await asyncpg.connect(url, server_settings={"client_encoding": encoding})
            text = bad.replace("\\x", "")
            wrong = f"convert_from(decode('{text}', 'hex'), '{encoding}')"
            await raw.execute(f"UPDATE photo SET name = 'caf' || {wrong} WHERE id = 'p2'")
            await raw.execute(f"INSERT INTO photo (id, owner, name) VALUES ('x' || {wrong}, '{LIBRARY}', 'x')")
            await raw.execute(f"INSERT INTO photo (id, owner, name) VALUES ('p4', 'l' || {wrong}, 'x')")
            await raw.execute(f"SELECT pg_sleep({MARGIN_US / 1e6 + 0.1})")
            await raw.close()
            horizon_us = await source.horizon(LIBRARY)
            assert "AssetV2" in await source.changed(LIBRARY, dict.fromkeys(TYPES), horizon_us)
            pages = await read(source, "AssetV2")
            assert ids_of(pages) == ["p1", "p3"]
            assert [page.unfit for page in pages] == [{"originalFileName": 1}]
            assert "cannot read its originalFileName" in caplog.text
            assert ids_of(await read(source, "AlbumToAssetV1")) == ["b+p1"], "what refers to it waits"
            held = {(each.entity_type, each.reason, each.example_id) for each in await source.held_back(LIBRARY)}
            escaped = "x" + "".join(f"\\{byte:o}" for byte in bytes.fromhex(text))
            assert held == {
                ("AssetV2", "unfit", "p2"), ("AssetV2", "unfit", escaped), ("AlbumToAssetV1", "missing_parent", "b:p2"),
            }  # fmt: skip
            report = await check(pool, read_mapping(MAPPING, "photos.toml"))
            told = " ".join(problem.says for problem in report.problems)
            assert "originalFileName cannot be read by a device in 1 rows, like p2" in told
            (wrong_id,) = [problem.told for problem in report.problems if problem.weight == "problem"]
            assert "photo.id: is no id a position can hold" in wrong_id
            assert "in 1 of the first" in wrong_id
            await photos.put_photo(LIBRARY, "p2", "cafe.jpg")
            await photos.settle()
            assert ids_of(await read(source, "AssetV2", pages[-1].last)) == ["p2"]
            assert ids_of(await read(source, "AlbumToAssetV1")) == ["b+p1", "b+p2"]


async def test_the_database_finds_what_is_no_utf8_as_python_does(postgres: PostgresServer) -> None:
    choose = random.Random(9)
    ends = [
        b"",
        b"a",
        "é".encode(),
        "写".encode(),
        "\U0010ffff".encode(),
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
    ]
    texts = [
        *ends,
        *(bytes([high, second]) for high in range(0x80, 0x100, 3) for second in (0x41, 0x7F, 0x80, 0xBF, 0xC2)),
    ]
    for _ in range(1000):
        parts = [choose.choice([choose.choice(ends), choose.randbytes(2)]) for _ in range(3)]
        texts.append(b"".join(parts).replace(b"\0", b"0"))
    with database(postgres, "SQL_ASCII") as url:
        connection = await asyncpg.connect(url)
        sql = f"SELECT {in_unicode('t.x', 'SQL_ASCII')} FROM (SELECT convert_from(b, 'SQL_ASCII') AS x, at"
        rows = await connection.fetch(f"{sql} FROM unnest($1::bytea[]) WITH ORDINALITY u (b, at)) t ORDER BY at", texts)
        await connection.close()
    assert [row[0] for row in rows] == [is_utf8(text) for text in texts]


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_what_an_encoding_can_hold() -> None:
    assert all(can_hold(encoding, "plain") for encoding in ("UTF8", "SQL_ASCII", "LATIN1", "MULE_INTERNAL"))
    assert [can_hold("LATIN1", text) for text in ("é", "€", "\U0010ffff")] == [True, False, False]
    assert [can_hold("WIN1252", text) for text in ("€", "Ж")] == [True, False]
    assert [can_hold("MULE_INTERNAL", text) for text in ("é", "x")] == [False, True]
