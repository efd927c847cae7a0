"""What Immich's own server breaks or skips on a database, and this service does not on the very same one.

Each test is a line of the table in ops/docs/beside-immich.md. Immich's side is its statements on that database
(`tests.immich.server`), this one's the real source, stream and fold; the app's copy stops at what the app stops at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from ops.simulate.errors import DeviceError, RefusedRow, UnreadableLine
from tests.immich.both import BothPhone
from tests.immich.database import ImmichDatabase, sha1
from tests.support.sources.near_horizon import near_horizon
from tests.support.stores.postgres_server import PostgresServer

__all__ = ["near_horizon"]

pytestmark = pytest.mark.usefixtures("near_horizon")

Phones = Callable[[UUID], tuple[BothPhone, BothPhone]]


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[ImmichDatabase]:
    """One database for all tests here: each has users of its own."""
    url = postgres.create_database()
    with ImmichDatabase(url) as database:
        database.apart_s = 0.0015
        yield database.build()
    postgres.drop_database(url)


@pytest.fixture
def phones(database: ImmichDatabase, tmp_path: Path) -> Iterator[Phones]:
    """Make two phones of a user: one that syncs with Immich, and one that syncs here."""
    with ExitStack() as stack:
        yield lambda user: (
            stack.enter_context(BothPhone(database, user, tmp_path / "immich.db")),
            stack.enter_context(BothPhone(database, user, tmp_path / "here.db")),
        )


@pytest.fixture
def ann(database: ImmichDatabase) -> UUID:
    """A new user."""
    return database.user(f"ann-{uuid4().hex[:8]}")


@pytest.fixture
def bob(database: ImmichDatabase) -> UUID:
    """Another one."""
    return database.user(f"bob-{uuid4().hex[:8]}")


def stops(phone: BothPhone, error: type[DeviceError], says: str) -> None:
    """See that the app stops at what Immich sends, and again with each sync that follows."""
    for _ in range(3):
        with pytest.raises(error, match=says):
            phone.at_immich()


def ends_right(database: ImmichDatabase, phone: BothPhone) -> None:
    """See that a phone that syncs here has all it must, and is done."""
    database.settle()
    phone.at_ours()
    assert phone.differences() == []
    assert set(phone.at_ours()) == {"SyncCompleteV1"}


def test_the_model_of_immichs_server_syncs_what_is_in_order(
    database: ImmichDatabase, phones: Phones, ann: UUID, bob: UUID
) -> None:
    """Both sides bring a phone to the same: what follows is not for want of a line in the model."""
    own, others = [database.asset(ann) for _ in range(3)], [database.asset(bob) for _ in range(2)]
    grace = database.person(ann)
    for each in (*own, *own):
        database.face(each, grace)
    database.stack(ann, own[:2])
    database.memory(ann, own)
    database.ocr(own[0], "text")
    database.edit(own[1])
    database.insert("asset_metadata", assetId=own[2], key="mobile-app", value={})
    database.insert("user_metadata", userId=ann, key="preferences", value={})
    database.album(ann, [bob], own)
    there, here = phones(ann)
    database.settle()
    for sync in (there.at_immich, here.at_ours):
        assert sync()["AssetV2"] == 3
    assert there.differences() == here.differences() == []
    eve = database.user(f"eve-{uuid4().hex[:8]}")
    album = database.album(eve, [], [database.asset(eve) for _ in range(2)])
    database.partner(bob, ann)
    database.album(bob, [ann], others)
    database.delete("asset", id=own[2])
    database.update("asset", own[1], isFavorite=True)

    def both_have_two_more() -> None:
        database.settle()
        for sync in (there.at_immich, here.at_ours):
            came = sync()
            for ways in (("PartnerAssetV2", "PartnerAssetBackfillV2"), ("AlbumAssetCreateV2", "AlbumAssetBackfillV2")):
                assert sum(came[way] for way in ways) >= 2, came  # here some come with a placeholder before
        assert there.differences() == here.differences() == []

    both_have_two_more()
    database.partner(eve, ann)  # what it shares is older than what the phone has of others
    database.share(album, ann)
    both_have_two_more()


def test_a_face_of_somebody_who_is_no_person_of_the_user(
    database: ImmichDatabase, phones: Phones, ann: UUID, bob: UUID
) -> None:
    database.face(database.asset(ann), database.person(bob))
    there, here = phones(ann)
    stops(there, RefusedRow, "AssetFaceV2 .*FOREIGN KEY")
    ends_right(database, here)


def test_a_person_who_changes_while_faces_are_sent(database: ImmichDatabase, phones: Phones, ann: UUID) -> None:
    grace = database.person(ann)
    database.face(database.asset(ann), grace)
    there, here = phones(ann)
    database.settle()
    stream = there.immich.stream(before=there.immich.instant())

    def changed_meanwhile() -> None:
        database.update("person", grace, name="Grace Hopper")
        with pytest.raises(RefusedRow, match=r"AssetFaceV2 .*FOREIGN KEY"):
            there.store(b"".join(stream))
        came = here.at_ours()
        assert (came["AssetV2"], came["PersonV1"], came["AssetFaceV2"]) == (1, 0, 0)

    # However long that takes: who writes since before holds back what is read.
    committed_late(database, changed_meanwhile, "SELECT pg_current_xact_id()")
    ends_right(database, here)


def test_a_memory_of_an_asset_that_the_user_cannot_see(
    database: ImmichDatabase, phones: Phones, ann: UUID, bob: UUID
) -> None:
    database.memory(ann, [database.asset(ann), database.asset(bob)])
    there, here = phones(ann)
    stops(there, RefusedRow, "MemoryToAssetV1 .*FOREIGN KEY")
    ends_right(database, here)


def test_an_album_with_a_cover_that_the_user_cannot_see(
    database: ImmichDatabase, phones: Phones, ann: UUID, bob: UUID
) -> None:
    database.album(bob, [ann], [database.asset(bob)], albumThumbnailAssetId=database.asset(bob))
    there, here = phones(ann)
    stops(there, RefusedRow, "AlbumV2 .*FOREIGN KEY")
    ends_right(database, here)


def test_two_assets_that_exchange_their_files(database: ImmichDatabase, phones: Phones, ann: UUID) -> None:
    files = [f"{ann} {number}" for number in range(2)]
    one, two = (database.asset(ann, file) for file in files)
    there, here = phones(ann)
    there.at_immich()
    database.settle()
    here.at_ours()
    database.update("asset", one, checksum=sha1(uuid4().hex))
    database.update("asset", two, checksum=sha1(files[0]))
    database.update("asset", one, checksum=sha1(files[1]))
    stops(there, RefusedRow, "AssetV2 .*UNIQUE")
    ends_right(database, here)


def test_a_row_with_a_time_that_cannot_be_printed(database: ImmichDatabase, phones: Phones, ann: UUID) -> None:
    broken = database.memory(ann)
    database.execute("UPDATE memory SET \"memoryAt\" = 'infinity' WHERE id = $1", broken)
    good = database.memory(ann, [database.asset(ann)])
    there, here = phones(ann)
    stops(there, UnreadableLine, "MemoryV1")
    database.settle()
    came = here.at_ours()
    assert (came["MemoryV1"], came["MemoryToAssetV1"], came["SyncCompleteV1"]) == (1, 1, 1)
    assert here.differences() == [f"missing: memory {broken}"]
    database.update("memory", broken, memoryAt=database.value('SELECT "memoryAt" FROM memory WHERE id = $1', good))
    ends_right(database, here)


def committed_late(database: ImmichDatabase, meanwhile: Callable[[], None], sql: str, *values: object) -> None:
    """Run a statement in a transaction that ends only after other things were done."""

    async def run() -> None:
        connection = await asyncpg.connect(database.url)
        try:
            async with connection.transaction():
                await connection.execute(sql, *values)
                await asyncio.to_thread(meanwhile)
        finally:
            await connection.close()

    asyncio.run(run())


def test_a_row_that_is_committed_late(database: ImmichDatabase, phones: Phones, ann: UUID) -> None:
    late, early = database.asset(ann), database.asset(ann)
    there, here = phones(ann)

    def both_sync() -> None:
        database.update("asset", early, isFavorite=True)
        database.settle()  # so that the margin is not what holds
        there.at_immich()
        here.at_ours()

    committed_late(database, both_sync, 'UPDATE asset SET "isFavorite" = true WHERE id = $1', late)
    for _ in range(3):
        there.at_immich()
    assert there.differences() == [f"different: asset {late}: isFavorite is 0, not 1"]
    ends_right(database, here)


def test_a_share_that_is_committed_late(database: ImmichDatabase, phones: Phones, ann: UUID, bob: UUID) -> None:
    assets = [database.asset(bob) for _ in range(2)]
    old, new = (database.album(bob, [], [asset]) for asset in assets)
    database.album(ann, [], [database.asset(ann)])
    there, here = phones(ann)
    there.at_immich()
    database.settle()
    here.at_ours()

    def both_sync() -> None:
        database.share(new, ann)
        database.settle()
        there.at_immich()
        here.at_ours()

    committed_late(database, both_sync, 'INSERT INTO album_user ("albumId", "userId") VALUES ($1, $2)', old, ann)
    for _ in range(3):
        there.at_immich()
    assert f"missing: asset {assets[0]}" in there.differences()
    ends_right(database, here)
