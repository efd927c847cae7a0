"""The keys of users' personal texts: one for each, on every kind of storage, gone for good once erased."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ledger.commands import CreateSession, EndSession
from ledger.errors import CorruptLedger, LayoutError, UserKeyUnreadable
from ledger.log.service import Ledger
from ledger.log.whole import mark_new
from ledger.personal import plain, text_of
from ledger.store.interface import Store
from projections.accounts.credentials import Cipher, CredentialUnreadable
from projections.accounts.user_keys import REMEMBERED, REMEMBERED_S, UserKeys
from projections.archive.errors import ArchiveUnavailable
from projections.archive.objects import Objects, open_objects
from tests.support.ledger.given import NOW, SID
from tests.support.stores.fake_store import FakeStore

OLD, NEW = Cipher.make_key(), Cipher.make_key()
TOLD = plain("Ann's iPhone")


class Place:
    """A store and a folder, and workers on both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store: Store = FakeStore()
        self.now_s = 0.0

    def objects(self) -> Objects:
        return open_objects(self.folder.as_uri())

    def worker(self, *keys: str, store: Store | None = None) -> UserKeys:
        cipher = Cipher.from_keys(keys or (OLD,))
        return UserKeys(store or self.store, self.objects, lambda: cipher, lambda: self.now_s)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "user-keys")


async def test_all_workers_have_the_same_key_of_a_user_and_others_of_others(place: Place) -> None:
    one, other = place.worker(), place.worker()
    assert await one.find("ann") is None
    told = (await one.of("ann")).seal(TOLD)
    assert (await other.of("ann")).open(told) == TOLD
    found = await place.worker().find("ann")
    assert found is not None
    assert found.open(told) == TOLD
    assert (await one.of("bob")).open(told) == told
    assert await one.count() == 2


async def test_workers_that_make_a_key_at_once_agree_on_one(place: Place) -> None:
    keys = await asyncio.gather(*(place.worker().of("ann") for _ in range(8)))
    assert {key.seal(TOLD) for key in keys} == {(await place.worker().of("ann")).seal(TOLD)}
    assert await place.worker().count() == 1


async def test_an_erased_key_opens_nothing_on_any_worker_after_a_minute(place: Place) -> None:
    one, other = place.worker(), place.worker()
    told = (await one.of("ann")).seal(TOLD)
    await other.of("ann")
    assert await one.erase("ann", NOW)
    assert await one.find("ann") is None
    place.now_s += REMEMBERED_S
    assert await other.find("ann") is None
    assert (await other.of("ann")).open(told) == told
    assert not [file for file in place.folder.rglob("*") if b"iPhone" in (file.read_bytes() if file.is_file() else b"")]
    assert [(erased.user, erased.at_us) async for erased in one.all_erased()] == [("ann", NOW)]
    assert await one.erase("ann", NOW + 1)
    assert not await one.erase("ann", NOW + 2)
    assert len([erased async for erased in other.all_erased()]) == 3


async def test_keys_lie_wrapped_and_are_wrapped_anew(place: Place) -> None:
    told = (await place.worker().of("ann")).seal(TOLD)
    with pytest.raises(UserKeyUnreadable):
        await place.worker(NEW).find("ann")
    with pytest.raises(CredentialUnreadable):
        await place.worker(NEW).rewrap()
    assert await place.worker(NEW, OLD).rewrap() == 1
    assert await place.worker(NEW, OLD).rewrap() == 0
    found = await place.worker(NEW).find("ann")
    assert found is not None
    assert text_of(found.open(told)) == "Ann's iPhone"


async def test_a_key_that_is_erased_while_it_is_wrapped_anew_stays_away(place: Place) -> None:
    await place.worker().of("ann")
    keys, eraser = place.worker(NEW, OLD), place.worker()

    class Slow(Objects):
        async def replace(self, name: str, content: bytes) -> None:
            await eraser.erase("ann", NOW)
            await super().replace(name, content)

    objects = place.objects()
    keys._open_place = lambda: Slow(objects._store, objects._root)
    await keys.rewrap()
    assert await place.worker(NEW, OLD).find("ann") is None


async def test_a_ledger_and_its_place_belong_together(place: Place, tmp_path: Path) -> None:
    await place.worker().of("ann")
    moved = Place(tmp_path / "empty")
    elsewhere = moved.worker(store=place.store)
    for asked in (elsewhere.find("ann"), elsewhere.of("ann"), elsewhere.erase("ann", NOW), elsewhere.check()):
        with pytest.raises(LayoutError, match="LEDGER_USER_KEYS"):
            await asked
    await elsewhere.adopt()
    assert await elsewhere.find("ann") is None
    with pytest.raises(LayoutError, match="LEDGER_USER_KEYS"):
        await place.worker().find("ann")


async def test_damage_is_told_and_no_key_is_made_over_it(place: Place) -> None:
    keys = place.worker()
    await keys.of("ann")
    await keys.of("bob")
    files = sorted((place.folder / "users").iterdir())
    files[0].write_bytes(files[1].read_bytes())
    wrong = []
    for user in ("ann", "bob"):
        try:
            await place.worker().of(user)
        except CorruptLedger as error:
            wrong.append(str(error))
    assert len(wrong) == 1
    assert "another user's" in wrong[0]
    files[1].write_bytes(b"x" * 5000)
    with pytest.raises(CorruptLedger):
        await asyncio.gather(place.worker().of("ann"), place.worker().of("bob"))


async def test_a_place_that_does_not_answer_is_unavailable(place: Place) -> None:
    keys = place.worker()
    await keys.of("ann")
    place.now_s += REMEMBERED_S
    hidden = place.folder.with_name("hidden")
    place.folder.rename(hidden)
    place.folder.write_text("in the way")
    with pytest.raises(ArchiveUnavailable):
        await keys.of("ann")
    place.folder.unlink()
    hidden.rename(place.folder)
    assert await keys.find("ann") is not None


async def test_a_key_that_cannot_be_read_keeps_nobody_signed_in_and_no_list_shut(place: Place) -> None:
    await mark_new(place.store, 4)
    ledger = Ledger(place.store, 4, lambda: NOW, user_keys=place.worker())
    await ledger.execute("ann", SID, CreateSession("ann", "lib", device_type=TOLD))
    other = Ledger(place.store, 4, lambda: NOW, user_keys=place.worker(NEW))
    assert await other.sealing.key_of("ann") is None
    (state,) = await other.devices("ann")
    assert text_of((await other.sealing.opened(state)).device_type) is None
    assert text_of((await ledger.sealing.opened(state)).device_type) == "Ann's iPhone"
    ended = await other.execute("ann", SID, EndSession("logout", plain("ann")))
    assert ended.ended == "logout"
    assert await ledger.devices("ann") == []


async def test_only_so_many_keys_are_remembered(place: Place) -> None:
    keys = place.worker()
    key = await keys.of("user")
    for number in range(REMEMBERED + 100):
        keys._keep(f"user-{number}", key)
    assert len(keys._known) == REMEMBERED
