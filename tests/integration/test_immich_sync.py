"""A phone and Immich's own database, the real service between them: what is shared late, moved, deleted and re-made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from projections.entities.postgres.mapping.from_toml import load_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from tests.immich.database import TAKEN, ImmichDatabase
from tests.immich.phone import Phone, all_lines, phones, streamed
from tests.support.processes.running import RunningService
from tests.support.sources.near_horizon import APPLICATION, near_horizon
from tests.support.stores.postgres_server import PostgresServer

__all__ = ["near_horizon"]

Phones = Callable[..., tuple[Phone, ...]]
TWO_PLACES = ("UserV1", "AlbumV2")


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[ImmichDatabase]:
    """One database for all tests here: each has users of its own."""
    url = postgres.create_database()
    with ImmichDatabase(url) as database:
        database.apart_s = 0.0015
        yield database.build()
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


@pytest.fixture
def open_phones(service: RunningService, database: ImmichDatabase, tmp_path: Path) -> Iterator[Phones]:
    """Make phones of users, closed behind the test."""
    with ExitStack() as stack:
        yield lambda *users: stack.enter_context(phones(service, database, tmp_path, *users))


@pytest.fixture
def users(database: ImmichDatabase) -> tuple[UUID, UUID, UUID]:
    """Three new users."""
    ann, bob, eve = (database.user(f"{name}-{uuid4().hex[:8]}") for name in ("ann", "bob", "eve"))
    return ann, bob, eve


def held_back(database: ImmichDatabase, user: UUID) -> list[tuple[str, int, str]]:
    """Ask the source what it holds back of a user's library."""

    async def ask() -> list[tuple[str, int, str]]:
        postgres = await Postgres.open(database.url, size=1, wait_s=5, statement_timeout_s=30)
        try:
            held = await PostgresSource(postgres, load_mapping("immich")).held_back(str(user))
        finally:
            await postgres.close()
        return [(one.entity_type, one.rows, one.reason) for one in held]

    return asyncio.run(ask())


def rich_library(db: ImmichDatabase, ann: UUID, bob: UUID, eve: UUID) -> None:
    """Write some of everything: Ann is in an album of Bob's, and Bob shares with her as a partner."""
    db.update("user", ann, avatarColor="blue", quotaSizeInBytes=5_000_000_000, profileImagePath="/p.jpg", pinCode="h")
    for key in ("preferences", "onboarding", "from-tomorrow"):
        db.insert("user_metadata", userId=ann, key=key, value={"is": {"set": True}})
    own = [db.asset(ann, thumbhash=bytes(range(64)), width=4, height=3) for _ in range(3)]
    video = db.asset(ann, type="VIDEO", duration=61_500, visibility="hidden", livePhotoVideoId=own[0])
    others = [db.asset(bob) for _ in range(3)] + [db.asset(eve)]
    db.partner(bob, ann)
    db.partner(ann, eve)
    db.stack(ann, own[:2])
    db.stack(bob, others[:2])
    album = db.album(ann, [bob], [own[0], others[0]], albumThumbnailAssetId=own[0], description=None)
    db.album(bob, [ann, eve], [others[0], others[3], own[1]], albumThumbnailAssetId=others[3])
    db.update("album", album, albumName="Renamed")
    grace = db.person(ann, birthDate=db.value("SELECT date '1906-12-09'"), color="#ff0000", isFavorite=True)
    face = db.face(own[0], grace, imageWidth=100, boundingBoxX2=50)
    db.face(own[1], db.person(bob))
    db.face(video)
    db.update("person", grace, faceAssetId=face)
    db.memory(ann, [own[0], others[1]], seenAt=db.value("SELECT now()"))
    db.ocr(own[0], 'a "text"\n\\with 🦆 and \u2028')
    db.edit(own[1])
    db.insert("asset_metadata", assetId=own[2], key="mobile-app", value={"iCloudId": "x"})
    db.update("asset", others[2], deletedAt=db.value("SELECT now()"), isFavorite=True)


def test_a_first_sync_has_everything_and_each_row_once(
    service: RunningService, database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    rich_library(database, *users)
    for phone in open_phones(*users):
        result = phone.settled()
        compared = phone.compared()
        assert compared.equal, compared.differences
        assert compared.compared > 10
        sent = streamed(service, phone.user)
        assert sum(sent.values()) == result.lines
        assert not {row: times for row, times in sent.items() if times > 1 and row[0] not in TWO_PLACES}
        assert not {row: times for row, times in sent.items() if times > 2}


IN_EACH_STATE: tuple[dict[str, Any], ...] = (
    {"visibility": "timeline"},
    {"visibility": "archive"},
    {"visibility": "hidden"},
    {"visibility": "locked"},
    {"visibility": "timeline", "deletedAt": TAKEN},
)


def favorites_of(db: ImmichDatabase, owner: UUID) -> list[UUID]:
    """Write an asset in each state, with a value in every column that is sent; its owner likes them all."""
    library = db.insert("library", name="Old", ownerId=owner, importPaths=[], exclusionPatterns=[])["id"]
    told = {
        "description": "At home", "orientation": "6", "timeZone": "Europe/Berlin", "projectionType": "EQUIRECTANGULAR",
        "city": "Berlin", "state": "Berlin", "country": "Germany", "make": "Canon", "model": "R6", "lensModel": "RF 50",
        "exposureTime": "1/60", "profileDescription": "sRGB", "latitude": 52.5, "longitude": 13.4, "fNumber": 2.8,
        "focalLength": 50.0, "fps": 29.97, "iso": 200, "rating": 5, "dateTimeOriginal": TAKEN, "modifyDate": TAKEN,
        "exifImageWidth": 4032, "exifImageHeight": 3024,
    }  # fmt: skip
    made = []
    for state in IN_EACH_STATE:
        moving = db.asset(owner, type="VIDEO", visibility="hidden")
        asset = db.asset(
            owner, isFavorite=True, isEdited=True, duration=61_500, width=4032, height=3024,
            thumbhash=bytes(range(64)), livePhotoVideoId=moving, libraryId=library, **state,
        )  # fmt: skip
        db.update("asset_exif", asset, **told)
        made.append(asset)
    db.stack(owner, made)
    return made


def shared_in_each_way(db: ImmichDatabase, ann: UUID, bob: UUID, eve: UUID) -> dict[str, list[UUID]]:
    """Show assets of Bob's and Eve's to Ann: by the entity type, without its version, as which they must come."""
    ways = {"PartnerAssetBackfill": favorites_of(db, bob), "AlbumAssetBackfill": favorites_of(db, eve)}
    db.share(db.album(eve, assets=ways["AlbumAssetBackfill"]), ann, "viewer")
    db.partner(bob, ann)
    ways["PartnerAsset"] = favorites_of(db, bob)
    ways["AlbumAssetCreate"], ways["AlbumAssetUpdate"] = favorites_of(db, eve), favorites_of(db, eve)
    db.album(eve, [ann], [*ways["AlbumAssetCreate"], *ways["AlbumAssetUpdate"]])
    for asset in ways["AlbumAssetUpdate"]:
        db.update("asset", asset, width=4033)
        db.update("asset_exif", asset, city="Hamburg")
    return ways


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_others_see_all_of_an_asset_but_whether_its_owner_likes_it(
    version: str, service: RunningService, database: ImmichDatabase, users: tuple[UUID, UUID, UUID]
) -> None:
    ann, bob, eve = users
    mine = database.asset(ann, isFavorite=True)
    ways = shared_in_each_way(database, ann, bob, eve)
    database.album(bob, [ann], [mine])  # somebody else's album shows it, and it is hers all the same
    database.settle()

    def sent(user: UUID, *types: str) -> dict[tuple[str, str], dict[str, Any]]:
        lines = all_lines(service, user, types)[:-1]
        return {(line["type"], line["data"].get("id") or line["data"]["assetId"]): line["data"] for line in lines}

    assets = sent(ann, f"Assets{version}", f"PartnerAssets{version}", f"AlbumAssets{version}")
    exifs = sent(ann, "PartnerAssetExifsV1", "AlbumAssetExifsV1")
    at_owners = {**sent(bob, f"Assets{version}", "AssetExifsV1"), **sent(eve, f"Assets{version}", "AssetExifsV1")}
    assert assets.pop((f"Asset{version}", str(mine)))["isFavorite"] is True
    for way, shared in ways.items():
        for asset, state in zip(map(str, shared), IN_EACH_STATE, strict=True):
            owners, owners_exif = at_owners[f"Asset{version}", asset], at_owners["AssetExifV1", asset]
            assert [key for key, value in owners.items() if value is None] == ["deletedAt"][: "deletedAt" not in state]
            assert [key for key, value in owners_exif.items() if value is None] == []
            assert (owners["isFavorite"], owners["visibility"]) == (True, state["visibility"])
            assert assets.pop((f"{way}{version}", asset)) == {**owners, "isFavorite": False}
            assert exifs.pop((f"{way.replace('Asset', 'AssetExif')}V1", asset)) == owners_exif
    # What is left are their moving parts: a partner's are shared, those of assets in albums are not.
    assert {name for name, _ in assets} == {f"PartnerAsset{version}", f"PartnerAssetBackfill{version}"}
    assert {data["visibility"] for data in assets.values()} == {"hidden"}


WITHOUT_HEARTS = "data = { isFavorite = 'false' }\n"


def mapping_with_hearts(folder: Path) -> Path:
    """Write the preset as it was while it sent others' hearts: without revisions."""
    preset = resources.files("projections.entities.postgres.mapping").joinpath("immich.toml").read_text()
    assert preset.count(WITHOUT_HEARTS) == 5
    start, end = preset.index("[[resend]]"), preset.index("# Payloads")
    old = folder / "old.toml"
    old.write_text(preset[:start] + preset[end:].replace(WITHOUT_HEARTS, ""))
    return old


@contextmanager
def as_it_was(service: RunningService, folder: Path) -> Iterator[RunningService]:
    """Run a service with the preset as it was on the same store, as before an update that replaces it."""
    old = RunningService(
        service.folder,
        source="postgres",
        postgres=service.environment["LEDGER_POSTGRES"],
        postgres_mapping=str(mapping_with_hearts(folder)),
    )
    try:
        yield old.start()
    finally:
        old.stop()


def test_a_phone_that_got_others_hearts_is_put_right_once(
    service: RunningService, database: ImmichDatabase, users: tuple[UUID, UUID, UUID], tmp_path: Path
) -> None:
    ann, bob, eve = users
    ways = shared_in_each_way(database, ann, bob, eve)
    shared, mine = [asset for assets in ways.values() for asset in assets], database.asset(ann, isFavorite=True)
    database.settle()
    tokens = {}
    with as_it_was(service, tmp_path) as old, phones(old, database, tmp_path, ann, bob) as before:
        for phone in before:
            phone.sync()
            tokens[phone.user] = phone.token
        with pytest.raises(AssertionError, match="isFavorite is 1, not 0"):
            before[0].check()
        told = [len(phone.history(service)) for phone in before]
    phone, owner = (
        Phone(service, database, user, tmp_path / f"{user}-{at}.db", token)
        for at, (user, token) in enumerate(tokens.items())
    )
    with closing(phone), closing(owner):
        database.delete("asset", id=shared[1])
        database.link(database.album(eve, [ann]), mine)

        sent = phone.settled().by_type  # it holds what it must, and another sync is one line
        assert {name: rows for name, rows in sent.items() if name.startswith(tuple(ways))} == {
            "PartnerAssetDeleteV1": 1, "PartnerAssetBackfillV2": 9, "PartnerAssetV2": 10, "AlbumAssetBackfillV2": 5,
            "AlbumAssetCreateV2": 5, "AlbumAssetUpdateV2": 5,
        }  # fmt: skip
        assert {asset for asset in phone.ids("asset") if phone.is_favorite(asset)} == {str(mine)}
        first, second, *acks = phone.history(service)[told[0] :]
        assert (first["event"], second["event"]) == ("checkpoints_cleared", "stream_offered")
        assert (first["data"]["cause"], first["data"]["reset"]) == ("source_revision", False)
        assert set(first["data"]["types"]) == {f"{way}V2" for way in ways}
        assert second["data"]["revision"] == 1
        assert {event["event"] for event in acks} == {"acks_recorded"}

        owner.settled()  # who was shown nothing of others' is only noted to be of this revision
        noted = owner.history(service)[told[1]]
        assert (noted["event"], noted["data"]["revision"]) == ("stream_offered", 1)
        happened = [len(each.history(service)) for each in (phone, owner)]
        assert [each.sync().by_type for each in (phone, owner)] == [{"SyncCompleteV1": 1}] * 2
        assert [len(each.history(service)) for each in (phone, owner)] == happened


def test_an_old_album_that_is_shared_late_comes_with_all_that_is_in_it(
    database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, eve = users
    album = database.album(bob, [eve], [database.asset(bob) for _ in range(5)])
    (phone,) = open_phones(ann)
    first = phone.settled()
    assert not {"AlbumV2", "AlbumAssetCreateV2", "AlbumAssetBackfillV2"} & first.by_type.keys()
    database.share(album, ann, "viewer")
    late = phone.settled().by_type
    assert late["AlbumAssetBackfillV2"] == late["AlbumAssetExifBackfillV1"] == late["AlbumToAssetBackfillV1"] == 5
    assert phone.row("album", album) is not None


def test_a_new_partner_brings_old_assets_and_what_changes_later(
    database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, _ = users
    assets = [database.asset(bob) for _ in range(4)]
    database.stack(bob, assets[:2])
    (phone,) = open_phones(ann)
    phone.settled()
    database.partner(bob, ann)
    database.asset(bob)
    database.update("asset", assets[0], isFavorite=True)
    database.update("asset_exif", assets[1], city="Berlin")
    late = phone.settled().by_type
    assert late["PartnerAssetBackfillV2"] == 3
    assert late["PartnerAssetV2"] == 2
    assert late["PartnerAssetExifBackfillV1"] == 3
    assert late["PartnerAssetExifV1"] == 2
    assert late["PartnerStackBackfillV1"] == 1
    database.update("asset", assets[3], isFavorite=True)
    assert phone.settled().by_type == {"PartnerAssetV2": 1, "SyncCompleteV1": 1}


def test_an_asset_that_is_added_to_a_shared_album_and_changed_later(
    database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, eve = users
    old = database.asset(bob)
    album = database.album(bob, [ann])
    other = database.album(eve, [ann])
    (phone,) = open_phones(ann)
    phone.settled()
    database.link(album, old)
    added = phone.settled().by_type
    assert added["AlbumAssetCreateV2"] == added["AlbumAssetExifCreateV1"] == added["AlbumToAssetV1"] == 1
    database.link(other, old)
    linked = phone.settled().by_type
    assert linked == {"AlbumToAssetV1": 1, "SyncCompleteV1": 1}
    database.update("asset", old, isFavorite=True)
    database.update("asset_exif", old, city="Berlin")
    changed = phone.settled().by_type
    assert changed == {"AlbumAssetUpdateV2": 1, "AlbumAssetExifUpdateV1": 1, "SyncCompleteV1": 1}


@pytest.mark.parametrize("cut_at", ["AlbumAssetBackfillV2", "AlbumAssetExifBackfillV1"])
def test_a_phone_cut_off_gets_what_only_a_later_album_still_shows(
    cut_at: str, database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, _ = users
    shown = []
    for is_changed in (False, True):
        for ends in ("album_asset", "album_user", "album"):
            asset = database.asset(bob)
            first, later = database.album(bob, [ann], [asset]), database.album(bob, assets=[asset])
            if is_changed:
                database.update("asset", asset, isFavorite=True)
                database.update("asset_exif", asset, city="Berlin")
            database.share(later, ann)
            shown.append((ends, first, asset))
    database.share(database.album(bob, assets=[database.asset(bob)]), ann)
    (phone,) = open_phones(ann)
    database.settle()
    phone.sync_to(cut_at)
    for ends, first, asset in shown:
        of = {"album_asset": {"albumId": first, "assetId": asset}, "album_user": {"albumId": first, "userId": ann}}
        database.delete(ends, **of.get(ends, {"id": first}))
    phone.settled()


def test_a_share_that_ends_and_begins_again(
    database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, _ = users
    kept, dropped, gone, unstacked = (database.asset(bob) for _ in range(4))
    stack = database.stack(bob, [unstacked])
    album = database.album(bob, [ann], [kept, dropped])
    database.partner(bob, ann)
    synced, away = open_phones(ann, ann)
    for phone in (synced, away):
        phone.settled()
    database.delete("album_user", albumId=album, userId=ann)
    database.delete("partner", sharedById=bob, sharedWithId=ann)
    ended = synced.settled().by_type
    assert ended == {"PartnerDeleteV1": 1, "AlbumDeleteV1": 1, "SyncCompleteV1": 1}
    database.delete("album_asset", albumId=album, assetId=dropped)
    database.update("asset", unstacked, stackId=None)
    database.delete("stack", id=stack)
    database.delete("asset", id=gone)
    database.asset(bob)
    synced.settled()
    database.share(album, ann)
    database.partner(bob, ann)
    for phone in (synced, away):
        phone.settled()
        assert phone.row("asset", gone) is None
        assert phone.row("stack", stack) is None


def test_deletes_of_everything(database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones) -> None:
    ann, bob, eve = users
    rich_library(database, ann, bob, eve)
    made = open_phones(ann, bob, eve)
    for tables in (
        (),
        ("asset_face", "asset_ocr", "asset_edit", "asset_metadata", "user_metadata"),
        ("memory_asset", "person", "album_asset", "partner"),
        ("memory", "stack", "album"),
        ("asset",),
    ):
        for table in tables:
            if table == "stack":
                database.execute('UPDATE asset SET "stackId" = NULL WHERE "stackId" IS NOT NULL')
            database.execute(f'DELETE FROM "{table}"')
        for phone in made:
            phone.settled()
    database.delete("user", id=eve)
    for phone in made[:2]:
        assert phone.settled().by_type["UserDeleteV1"] == 1
        assert str(eve) not in phone.ids("asset", "ownerId")


def test_ids_that_were_deleted_and_come_again(
    database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, _ = users
    asset = database.asset(ann)
    person = database.person(ann)
    face = database.face(asset, person)
    database.face(asset)
    database.edit(asset)
    memory = database.memory(ann, [asset])
    album = database.album(ann, [bob], [asset])
    synced, away = open_phones(ann, ann)
    for phone in (synced, away):
        phone.settled()
    for table, columns in (
        ("album_asset", {"albumId": album}), ("album", {"id": album}), ("memory", {"id": memory}),
        ("asset_face", {"id": face}), ("person", {"personGroupId": person}), ("asset", {"id": asset}),
    ):  # fmt: skip
        database.delete(table, **columns)
    synced.settled()
    assert database.asset(ann, id=asset) == asset
    database.person(ann, person)
    database.face(asset, person, id=face)
    assert database.memory(ann, [asset], id=memory) == memory
    assert database.album(ann, [bob], [asset], id=album) == album
    for phone in (synced, away):
        phone.settled()


def test_an_asset_that_moves_to_another_owner(
    database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, eve = users
    asset = database.asset(ann)
    database.partner(bob, eve)
    mine, theirs, partner = open_phones(ann, bob, eve)
    for phone in (mine, theirs, partner):
        phone.settled()
    database.update("asset", asset, ownerId=bob)
    database.update("asset_exif", asset, city="Berlin")
    for phone in (theirs, partner):
        phone.settled()
        assert phone.row("asset", asset) is not None
    database.settle()
    mine.sync()
    assert mine.row("asset", asset) is not None  # Immich has no marker for this; the old owner keeps it
    album = database.album(bob, [ann], [asset])
    mine.settled()
    assert mine.row("album_asset", album, "albumId") is not None


def test_a_memory_of_an_asset_of_somebody_else_waits_until_it_can_be_seen(
    database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, eve = users
    theirs, hers = database.asset(bob), database.asset(eve)
    database.memory(ann, [theirs, hers, database.asset(ann)])
    (phone,) = open_phones(ann)
    assert phone.settled().by_type["MemoryToAssetV1"] == 1
    assert sorted(held_back(database, ann)) == [
        ("MemoryToAssetV1", 2, "missing_parent"), ("MemoryToAssetV2", 2, "missing_parent"),
    ]  # fmt: skip
    database.partner(bob, ann)
    assert phone.settled().by_type["MemoryToAssetV1"] == 1
    database.album(eve, [ann], [hers])
    assert phone.settled().by_type["MemoryToAssetV1"] == 1
    assert phone.ids("memory_asset", "assetId") >= {str(theirs), str(hers)}
    assert held_back(database, ann) == []


def test_a_deleted_asset_of_an_album_makes_room_for_the_same_file(
    database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, _ = users
    member, left = database.asset(bob, "one"), database.asset(bob, "two")
    album, closed = database.album(bob, [ann], [member]), database.album(bob, [ann], [left])
    synced, away = open_phones(ann, ann)
    for phone in (synced, away):
        phone.settled()
    database.delete("album_user", albumId=closed, userId=ann)
    synced.settled()
    database.delete("asset", id=member)
    database.delete("asset", id=left)
    database.link(album, database.asset(bob, "one"))
    database.link(album, database.asset(bob, "two"))
    for phone in (synced, away):
        phone.settled()
        assert phone.row("asset", member) is None
        assert phone.row("asset", left) is None


def test_a_deleted_asset_of_a_deleted_album_makes_room_for_the_same_file(
    database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, eve = users
    first, later = database.asset(bob, "first"), database.asset(bob, "later")
    own = database.asset(eve, "own")
    albums = [database.album(bob, [ann], [asset]) for asset in (first, later)]
    hers = database.album(ann, [eve], [own])
    (phone,) = open_phones(ann)
    phone.settled()
    database.delete("asset", id=first)
    for album in (*albums, hers):
        database.delete("album", id=album)
    for asset in (later, own):
        database.delete("asset", id=asset)
    database.album(bob, [ann], [database.asset(bob, "first"), database.asset(bob, "later")])
    database.album(eve, [ann], [database.asset(eve, "own")])
    phone.settled()
    assert not phone.ids("asset") & {str(first), str(later), str(own)}


def test_a_marker_that_shows_late_takes_nothing_that_was_made_anew_with_its_id(
    service: RunningService, database: ImmichDatabase, users: tuple[UUID, UUID, UUID]
) -> None:
    ann, bob, _ = users
    gone = database.album(bob, [ann], [])
    anew, deleted = database.asset(bob, "first"), database.asset(bob, "second")
    for asset in (anew, deleted):
        database.delete("asset", id=asset)
    database.asset(bob, "first", id=anew)
    database.album(bob, [ann], [anew])
    database.delete("album", id=gone)  # from now on all that was deleted of its members is told of
    database.settle()
    lines = streamed(service, ann)
    assert ("AssetDeleteV1", str(deleted)) in lines
    assert ("AssetDeleteV1", str(anew)) not in lines


def test_users_and_albums_that_change_all_the_time_hold_nothing_up(
    database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, _ = users
    album = database.album(bob, [ann], [database.asset(bob), database.asset(bob)])
    mine = database.asset(ann)
    (phone,) = open_phones(ann)
    database.settle()
    for user in (ann, bob):
        database.execute('UPDATE "user" SET "quotaUsageInBytes" = "quotaUsageInBytes" + 1 WHERE id = $1', user)
    database.update("album", album, albumName="filling up")
    result = phone.sync().by_type
    assert result["AssetV2"] == 1
    assert len(phone.ids("album_asset", "assetId")) == 2
    assert phone.row("asset", mine) is not None
    assert phone.row("album", album) is not None
    phone.settled()


def test_a_user_written_late_in_a_transaction_comes_to_phones_that_are_past_its_start(
    database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, _ = users
    (phone,) = open_phones(ann)
    with ImmichDatabase(database.url) as slow:
        slow.execute("BEGIN")
        slow.value("SELECT 1")
        database.update("user", bob, avatarColor="red")
        phone.settled()
        late = slow.user(f"late-{uuid4().hex[:8]}")
        slow.execute("COMMIT")
        slow.settle()
    phone.settled()
    assert str(late) in phone.ids("user")


def test_a_thumbnail_is_null_where_it_cannot_be_seen(
    database: ImmichDatabase, users: tuple[UUID, UUID, UUID], open_phones: Phones
) -> None:
    ann, bob, _ = users
    hidden, seen = database.asset(bob), database.asset(bob)
    album = database.album(bob, [ann], [seen], albumThumbnailAssetId=hidden)
    mine, theirs = open_phones(ann, bob)
    for phone, thumbnail in ((mine, None), (theirs, str(hidden))):
        phone.settled()
        row = phone.row("album", album)
        assert row is not None
        assert row["thumbnailAssetId"] == thumbnail
    database.update("album", album, albumThumbnailAssetId=seen)
    mine.settled()
    row = mine.row("album", album)
    assert row is not None
    assert row["thumbnailAssetId"] == str(seen)
