"""What holds for every source: the catalog, PostgreSQL, Gumnut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from endpoints.sync.stream_lines import chunks
from ledger.errors import Unavailable
from ledger.positions import Position
from ledger.store.interface import open_store
from projections.entities.catalog.catalog import Catalog
from projections.entities.lines import data_of, position_of
from projections.entities.registry import ROWS, entity_types_for
from projections.entities.source import EntitySource, Page, SourceUnavailable
from tests.support.gumnut.server import GumnutServer
from tests.support.ledger.given import CREATED, given
from tests.support.phones.http import serving
from tests.support.sources.backends import LIBRARY, OTHER, Backend, CatalogBackend, GumnutBackend, PostgresBackend
from tests.support.sources.near_horizon import near_horizon
from tests.support.stores.fake_store import FakeStore

__all__ = ["near_horizon"]

pytestmark = pytest.mark.usefixtures("near_horizon")

ASSET: Final = "AssetV2"
ALBUM: Final = "AlbumV2"
LINK: Final = "AlbumToAssetV1"
GONE: Final = "AssetDeleteV1"
TYPES: Final = (GONE, ASSET, ALBUM, LINK)
REQUESTS: Final = ("AssetsV2", "AlbumsV2", "AlbumToAssetsV1")


class Row(NamedTuple):
    """A line, read."""

    position: Position
    data: dict[str, Any]


class Stream(NamedTuple):
    """A source as one stream reads it: bound, with the snapshot it took."""

    source: EntitySource
    snapshot_us: int
    library: str = LIBRARY

    async def pages(self, entity_type: str, after: Position | None = None, limit: int = 1000) -> list[Page]:
        """Read the pages of a type."""
        made = self.source.pages(self.library, entity_type, after, self.snapshot_us, limit)
        return [page async for page in made]

    async def rows(self, entity_type: str, after: Position | None = None, limit: int = 1000) -> list[Row]:
        """Read all rows of a type."""
        pages = await self.pages(entity_type, after, limit)
        return [
            Row(position_of(line), msgspec.json.decode(data_of(line), type=dict[str, Any]))
            for page in pages
            for line in page.lines
        ]

    async def ids(self, entity_type: str, after: Position | None = None) -> list[str]:
        """Tell whose rows they are: an asset's, an album's, or the asset's that is in an album."""
        name = "id" if entity_type in (ASSET, ALBUM) else "assetId"
        return [row.data[name] for row in await self.rows(entity_type, after)]


async def begin(backend: Backend, library: str = LIBRARY) -> Stream:
    """Begin a stream behind all that was written."""
    await backend.settle()
    source = backend.source.of_session("ann", "")
    return Stream(source, await source.horizon(library), library)


@pytest.fixture
def gumnut() -> Iterator[GumnutServer]:
    with GumnutServer().running() as server:
        yield server


@pytest.fixture(
    params=[
        pytest.param("catalog on fakeredis", marks=pytest.mark.soak), "catalog on Valkey", "PostgreSQL", "Gumnut",
    ]
)  # fmt: skip
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    """Each source in turn, empty."""
    match request.param:
        case "catalog on fakeredis":
            yield CatalogBackend(FakeStore())
        case "catalog on Valkey":
            store = await open_store(request.getfixturevalue("valkey_url"))
            yield CatalogBackend(store)
            await store.close()
        case "PostgreSQL":
            server, url = request.getfixturevalue("postgres"), request.getfixturevalue("postgres_url")
            async with PostgresBackend.opened(server, url) as postgres:
                yield postgres
        case _:
            async with GumnutBackend.opened(request.getfixturevalue("gumnut"), FakeStore()) as gumnut:
                yield gumnut


async def fill(backend: Backend, library: str = LIBRARY, assets: int = 12) -> tuple[list[str], str]:
    """Add assets, and an album with each third of them."""
    made = [await backend.add_asset(library) for _ in range(assets)]
    album = await backend.add_album(library)
    for asset in made[::3]:
        await backend.link(library, album, asset)
    return made, album


async def test_each_row_once_in_order(backend: Backend) -> None:
    assets, album = await fill(backend)
    stream = await begin(backend)
    expected = {GONE: [], ASSET: assets, ALBUM: [album], LINK: assets[::3]}
    for entity_type in TYPES:
        rows = await stream.rows(entity_type)
        assert sorted(await stream.ids(entity_type)) == sorted(expected[entity_type])
        keys = [row.position.key for row in rows]
        assert keys == sorted(set(keys)), "positions grow strictly"
        assert all(row.position.at_us < stream.snapshot_us for row in rows)


async def test_a_stream_can_be_gone_on_from_any_row(backend: Backend) -> None:
    await fill(backend)
    stream = await begin(backend)
    later = await begin(backend)
    for entity_type in (ASSET, LINK):
        rows = await stream.rows(entity_type)
        for index, row in enumerate(rows):
            assert await stream.rows(entity_type, row.position) == rows[index + 1 :]
            assert [again.data for again in await later.rows(entity_type, row.position)] == [
                left.data for left in rows[index + 1 :]
            ]


async def test_pages_are_bounded(backend: Backend) -> None:
    assets = [await backend.add_asset(LIBRARY) for _ in range(300)]
    stream = await begin(backend)
    assert await stream.ids(ASSET) == assets
    for limit in (1, 7, 1000):
        pages = await stream.pages(ASSET, limit=limit)
        assert [len(page.lines) for page in pages if not 0 < len(page.lines) <= limit] == []
        assert all(sum(map(len, page.lines)) <= 128 * 1024 for page in pages)
        assert all(page.last == position_of(page.lines[-1]) for page in pages)
        assert sum(len(page.lines) for page in pages) == 300


async def test_what_is_written_later_comes_later_and_only_that(backend: Backend) -> None:
    assets, _ = await fill(backend)
    first = await begin(backend)
    seen = (await first.rows(ASSET))[-1].position
    new = await backend.add_asset(LIBRARY)
    await backend.change_asset(LIBRARY, assets[3])
    second = await begin(backend)
    assert second.snapshot_us > first.snapshot_us
    assert await second.ids(ASSET, seen) == [new, assets[3]]
    assert sorted(await second.ids(ASSET)) == sorted([*assets, new]), "a new device gets each once"


async def test_deletes_are_told_and_take_along_what_hangs_on_them(backend: Backend) -> None:
    assets, _ = await fill(backend)
    await begin(backend)
    await backend.delete_asset(LIBRARY, assets[0])
    stream = await begin(backend)
    assert await stream.ids(GONE) == [assets[0]]
    assert sorted(await stream.ids(ASSET)) == sorted(assets[1:])
    assert sorted(await stream.ids(LINK)) == sorted(assets[3::3])


async def test_a_row_waits_for_its_parent_and_holds_up_nobody(backend: Backend) -> None:
    assets, album = await fill(backend)
    orphan = await backend.orphan(LIBRARY, album)
    await backend.link(LIBRARY, album, assets[1])
    first = await begin(backend)
    assert sorted(await first.ids(LINK)) == sorted([*assets[::3], assets[1]])
    seen = (await first.rows(LINK))[-1].position
    again = await begin(backend)
    assert await again.ids(LINK, seen) == []
    await backend.adopt(LIBRARY, orphan)
    second = await begin(backend)
    assert await second.ids(LINK, seen) == [orphan], "also to a device that is past where it was written"
    assert sorted(await second.ids(LINK)) == sorted([*assets[::3], assets[1], orphan])


async def test_what_waits_is_told(backend: Backend) -> None:
    assets, album = await fill(backend)
    stream = await begin(backend)
    assert list(await stream.source.held_back(LIBRARY)) == []
    orphan = await backend.orphan(LIBRARY, album)
    stream = await begin(backend)
    await stream.rows(LINK)
    told = [(held.entity_type, held.rows, held.reason, held.parent) for held in await stream.source.held_back(LIBRARY)]
    if isinstance(backend, GumnutBackend):  # which keeps what hangs on an asset in the trash to itself
        assert told == []
    else:
        assert told == [(LINK, 1, "missing_parent", f"asset|{orphan}")]
    await backend.adopt(LIBRARY, orphan)
    stream = await begin(backend)
    assert list(await stream.source.held_back(LIBRARY)) == []
    assert len(await stream.rows(LINK)) == len(assets[::3]) + 1


async def test_parents_come_first_also_when_they_change_meanwhile(backend: Backend) -> None:
    assets, _ = await fill(backend)
    stream = await begin(backend)
    for asset in assets[3:]:
        await backend.change_asset(LIBRARY, asset)
    await backend.settle()
    rows = entity_types_for(REQUESTS)
    state = given(msgspec.structs.replace(CREATED, library=LIBRARY))
    body = b"".join([chunk async for chunk in chunks(stream.source, state, rows, stream.snapshot_us)])
    have = set()
    for line in map(msgspec.json.decode, body.splitlines()):
        if line["type"] == LINK:
            assert line["data"]["assetId"] in have
        elif line["type"] == ASSET:
            have.add(line["data"]["id"])
    assert assets[0] in have


async def test_changed_names_all_that_has_rows(backend: Backend) -> None:
    assets, album = await fill(backend)
    stream = await begin(backend)
    ends: dict[str, Position | None] = dict.fromkeys(TYPES)
    named = await stream.source.changed(LIBRARY, ends, stream.snapshot_us)
    assert {ASSET, ALBUM, LINK} <= named <= set(TYPES)
    for entity_type in TYPES:
        rows = await stream.rows(entity_type)
        ends[entity_type] = rows[-1].position if rows else None
    stream = await begin(backend)
    assert await stream.source.changed(LIBRARY, ends, stream.snapshot_us) == frozenset()
    for change, entity_type in (
        (backend.change_asset(LIBRARY, assets[1]), ASSET),
        (backend.link(LIBRARY, album, assets[1]), LINK),
        (backend.delete_asset(LIBRARY, assets[2]), GONE),
    ):
        await change
        stream = await begin(backend)
        named = await stream.source.changed(LIBRARY, ends, stream.snapshot_us)
        having = {name for name in TYPES if await stream.rows(name, ends[name])}
        assert entity_type in having
        assert having <= named


async def test_ahead_counts_what_is_ahead(backend: Backend) -> None:
    assets, _ = await fill(backend)
    stream = await begin(backend)
    rows = await stream.rows(ASSET)
    ahead = await stream.source.ahead(LIBRARY, ASSET, None, stream.snapshot_us)
    assert ahead.rows >= len(assets)
    assert ahead.newest_us is not None
    assert ahead.newest_us < stream.snapshot_us
    ahead = await stream.source.ahead(LIBRARY, ASSET, rows[-1].position, stream.snapshot_us)
    assert (ahead.rows, ahead.newest_us) == (0, None)


async def test_libraries_are_apart(backend: Backend) -> None:
    ours, _ = await fill(backend)
    theirs, _ = await fill(backend, OTHER, assets=4)
    for library, assets in ((LIBRARY, ours), (OTHER, theirs)):
        stream = await begin(backend, library)
        assert sorted(await stream.ids(ASSET)) == sorted(assets)
        assert sorted(await stream.ids(LINK)) == sorted(assets[::3])


async def test_an_empty_library(backend: Backend) -> None:
    await fill(backend, OTHER)
    stream = await begin(backend)
    for row in ROWS:
        if row.form is not None and row.name not in ("AuthUserV1", "AuthUserV2", "UserV1"):  # Gumnut knows its user
            assert await stream.pages(row.name) == []
            assert await stream.source.ahead(LIBRARY, row.name, None, stream.snapshot_us) == (0, None)
    assert await stream.source.tombstone_floor(LIBRARY) == 0
    assert list(await stream.source.held_back(LIBRARY)) == []


@pytest.mark.parametrize("library", ["nobody", "x" * 200, "0190-", "ä ö'\";--"])
async def test_a_library_that_nobody_knows_gives_nothing_of_others(backend: Backend, library: str) -> None:
    await fill(backend)
    await backend.settle()
    source = backend.source.of_session("ann", "")
    if isinstance(backend, GumnutBackend):  # which does not let anybody into a library that it does not know
        with pytest.raises(Exception, match="does not give this session its library"):
            await source.horizon(library)
        return
    stream = Stream(source, await source.horizon(library), library)
    assert await source.changed(library, dict.fromkeys(TYPES), stream.snapshot_us) <= set(TYPES)
    for entity_type in TYPES:
        assert await stream.pages(entity_type) == []


async def test_a_source_that_is_down_says_so(backend: Backend) -> None:
    await fill(backend)
    stream = await begin(backend)
    assert (await backend.source.health()).ok
    await backend.go_down()
    health = await backend.source.health()
    assert not health.ok
    assert health.text
    error = Unavailable if isinstance(backend.source, Catalog) else SourceUnavailable
    later = backend.source.of_session("ann", "")
    with pytest.raises(error):
        await later.horizon(LIBRARY)
    with pytest.raises(error):
        await stream.pages(ASSET)
    with pytest.raises(error):
        await stream.source.ahead(LIBRARY, ASSET, None, stream.snapshot_us)


async def test_idle_polls_leave_no_event(backend: Backend) -> None:
    assets, album = await fill(backend)
    await backend.orphan(LIBRARY, album)
    async with serving(FakeStore(), source=backend.source) as service:
        device = await service.sign_in("ann", LIBRARY)
        await backend.settle()
        lines = await service.stream(device.token, *REQUESTS)
        assert {line["type"] for line in lines} == {ASSET, ALBUM, LINK, "SyncCompleteV1"}
        acks = {line["type"]: line["ack"] for line in lines}
        answer = await service.ask("POST", "/api/sync/ack", device.token, json={"acks": list(acks.values())})
        assert answer.status_code == 204, answer.text
        await backend.settle()
        await service.stream(device.token, *REQUESTS)  # what was above the first horizon: nothing, but it is known now
        seq = (await service.ledger.load("ann", device.sid)).seq
        for _ in range(5):
            await backend.settle()
            [complete] = await service.stream(device.token, *REQUESTS)
            assert complete["type"] == "SyncCompleteV1"
        assert (await service.ledger.load("ann", device.sid)).seq == seq
        await backend.change_asset(LIBRARY, assets[1])
        await backend.settle()
        assert [line["type"] for line in await service.stream(device.token, *REQUESTS)] == [ASSET, "SyncCompleteV1"]
