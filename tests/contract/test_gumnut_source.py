"""Libraries at Gumnut: what a phone gets, whatever happens there and in whatever order it comes to be known."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.store.interface import Store, open_store
from projections.entities.gumnut import stream_library as library_module
from projections.entities.gumnut import type_run as run_module
from projections.entities.gumnut.stream_library import TOOK
from tests.support.gumnut.phone import COMPLETE, RESET, A, AtGumnut, B, Phone, at_gumnut, by_type, held_at
from tests.support.gumnut.photos import Photos
from tests.support.gumnut.server import Answered, GumnutServer


@pytest.fixture
def server() -> Iterator[GumnutServer]:
    with GumnutServer().running() as server:
        yield server


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    store = await open_store(valkey_url)
    yield store
    await store.close()


@pytest.fixture
async def at(store: Store, server: GumnutServer) -> AsyncIterator[AtGumnut]:
    async with at_gumnut(store, server) as at:
        yield at


@pytest.fixture
def photos(server: GumnutServer) -> Photos:
    return server.photos


@pytest.fixture
async def phone(at: AtGumnut, server: GumnutServer, tmp_path: Path) -> Phone:
    return await Phone.sign_in(at, server, tmp_path / "phone.db")


async def test_a_whole_library_then_nothing_then_what_changed(phone: Phone, photos: Photos) -> None:
    fill(photos, A)
    fill(photos, B)
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)
    assert phone.rows("SELECT id, email FROM auth_user") == phone.rows("SELECT id, email FROM user")
    assert [user for user, _ in phone.rows("SELECT id, name FROM user")] == ["ann"]
    first = (await phone.service.ledger.load("ann", phone.device.sid)).seq
    for _ in range(3):
        photos.tick(3600)
        assert set(by_type(await phone.stream())) == {COMPLETE}
    assert (await phone.service.ledger.load("ann", phone.device.sid)).seq == first
    asset = min(phone_assets(phone))
    photos.update_asset(asset, rating=5)
    assert {name: len(acks) for name, acks in by_type(await phone.stream()).items()} == {
        "AssetV2": 1, "AssetExifV1": 1, COMPLETE: 1,
    }  # fmt: skip
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)


def phone_assets(phone: Phone) -> list[str]:
    return [asset for (asset,) in phone.rows("SELECT id FROM asset")]


def fill(photos: Photos, library: str, assets: int = 12) -> None:
    """Put something of everything into a library."""
    made = [photos.add_asset(library) for _ in range(assets)]
    album, person = photos.add_album(library), photos.add_person(library, "Ann")
    for asset in made[:5]:
        photos.link(album, asset)
        photos.add_face(asset, person)
    photos.add_face(made[6])
    photos.add_stack(made[7:9])
    photos.trash(made[-1])


async def test_devices_of_3_3_get_what_others_do_under_its_names(phone: Phone, photos: Photos) -> None:
    asset = photos.add_asset(A)
    photos.add_face(asset, photos.add_person(A, "Ann"))

    async def sent(*types: str) -> list[dict[str, Any]]:
        answer = await phone.post("/api/sync/stream", {"types": list(types)})
        return [json.loads(line) for line in answer.text.splitlines()[:-1]]

    user, face = await sent("AuthUsersV1", "AssetFacesV2")
    assert (user["type"], face["type"]) == ("AuthUserV1", "AssetFaceV2")
    newer = await sent("AuthUsersV2", "AssetFacesV3", "MemoriesV2", "MemoryToAssetsV2")
    assert [(line["type"], line["data"]) for line in newer] == [
        ("AuthUserV2", {**user["data"], "oauthId": None}),
        ("AssetFaceV3", face["data"]),
    ]
    assert user["data"]["oauthId"] == ""


async def test_small_pages_everywhere(phone: Phone, server: GumnutServer, photos: Photos) -> None:
    server.api.max_events, server.api.max_rows = 7, 2
    fill(photos, A)
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)
    reads = [seen for seen in server.seen if seen.path == "/api/assets"]
    assert any("starting_after_id" in seen.fields for seen in reads)
    assert all(seen.fields["library_id"] == A for seen in reads)
    assert all(seen.fields["state"] == "all" for seen in reads)


async def test_every_line_can_be_gone_on_from(phone: Phone, photos: Photos) -> None:
    """Whichever line of a type was acknowledged last, exactly those behind it come."""
    album, person = photos.add_album(A), photos.add_person(A)
    for _ in range(6):
        asset = photos.add_asset(A)
        photos.link(album, asset)
        photos.add_face(asset, person)
    whole = by_type(await phone.stream())
    names = ("AssetV2", "AlbumToAssetV1", "AssetFaceV2")
    for name in names:
        for index, ack in enumerate(whole[name]):
            await phone.post("/api/sync/ack", {"acks": [ack]})
            rest = by_type(await phone.stream()).get(name, [])
            assert [place(ack) for ack in rest] == [place(ack) for ack in whole[name][index + 1 :]], (name, index)


def place(ack: str) -> str:
    return ack.split("|")[2]


async def test_an_asset_goes_with_all_that_hangs_on_it(phone: Phone, photos: Photos) -> None:
    fill(photos, A)
    await phone.sync()
    asset = next(row["asset_id"] for row in photos.links.values())
    photos.delete_asset(asset)
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)
    assert asset not in phone_assets(phone)


async def test_deleted_things_of_every_kind(phone: Phone, photos: Photos) -> None:
    fill(photos, A)
    await phone.sync()
    photos.delete_face(min(photos.faces))
    photos.delete_person(min(photos.people))
    photos.delete_stack(min(photos.stacks))
    photos.unlink(min(photos.links))
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)
    photos.delete_album(min(photos.albums))
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)
    assert phone.lines["AlbumToAssetDeleteV1"] == 1  # the album takes the others along


async def test_an_asset_moves_to_another_library_and_back(
    at: AtGumnut, server: GumnutServer, phone: Phone, photos: Photos, tmp_path: Path
) -> None:
    other = await Phone.sign_in(at, server, tmp_path / "other.db", B)
    fill(photos, A)
    fill(photos, B)
    await phone.sync()
    await other.sync()
    asset = next(row["asset_id"] for row in photos.links.values())
    for library in (B, A, B):
        photos.move(asset, library)
        photos.move(asset, A if library == B else B)  # there and back before anybody looks
        photos.move(asset, library)
        for one, of in ((phone, A), (other, B)):
            assert await one.sync()
            assert one.holds() == held_at(photos, of)


async def test_what_the_trash_hid_comes_back_also_to_a_phone_that_never_had_it(
    at: AtGumnut, server: GumnutServer, phone: Phone, photos: Photos, tmp_path: Path
) -> None:
    fill(photos, A)
    await phone.sync()
    asset = next(row["asset_id"] for row in photos.links.values())
    photos.trash(asset)
    late = await Phone.sign_in(at, server, tmp_path / "late.db")
    for one in (phone, late):
        assert await one.sync()
        assert one.holds() == held_at(photos, A)
        assert asset in phone_assets(one)
    assert late.rows(f"SELECT id FROM face WHERE \"assetId\" = '{asset}'") == []
    photos.restore(asset)
    for one in (phone, late):
        assert await one.sync()
        assert one.holds() == held_at(photos, A)
    assert len(late.rows(f"SELECT id FROM face WHERE \"assetId\" = '{asset}'")) == 1


async def test_a_row_that_stands_before_what_it_refers_to_waits_for_it(phone: Phone, photos: Photos) -> None:
    """Its transaction began to write first, and the other's is not ready while one in between is open."""
    album = photos.add_album(A)
    await phone.sync()
    linking, open_one = photos.begin(), photos.begin()
    asset = photos.add_asset(A)
    linking.do(photos.link, album, asset)
    linking.commit()
    source, counters = phone.service.services.source, phone.service.services.counters
    for _ in range(2):
        assert await phone.sync()
        assert phone_assets(phone) == []
        assert phone.rows('SELECT "assetId" FROM album_asset') == []
        told = [(held.entity_type, held.reason, held.parent) for held in await source.held_back(A)]
        assert told == [
            ("AlbumV2", "missing_parent", f"asset|{asset}"),  # which is its cover by now
            ("AlbumToAssetV1", "missing_parent", f"album|{album}"),
        ]
    assert phone.lines.get("AssetV2", 0) == 0
    cut = {count.label_value: count.value for count in await counters.all() if count.name == "runs_cut"}
    assert cut["AlbumToAssetV1"] >= 2
    open_one.commit()
    assert await phone.sync()
    assert await source.held_back(A) == []
    assert phone.holds() == held_at(photos, A)
    assert phone.rows('SELECT "assetId" FROM album_asset') == [(asset,)]


async def test_a_row_does_not_go_before_an_asset_that_is_back_but_whose_return_is_not_ready(
    phone: Phone, photos: Photos
) -> None:
    """The asset's older events are below the bound, but the phone was told since that it went."""
    asset, album = photos.add_asset(A), photos.add_album(A)
    assert await phone.sync()
    photos.move(asset, B)
    assert await phone.sync()
    linking, open_one = photos.begin(), photos.begin()
    photos.move(asset, A)
    linking.do(photos.link, album, asset)
    linking.commit()
    assert await phone.sync()
    assert phone_assets(phone) == []
    open_one.commit()
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)


async def test_parents_are_looked_for_within_bounds(
    phone: Phone, server: GumnutServer, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each type's run reads no more pages than it may, and none to look for what another one looked for to the end."""
    album = photos.add_album(A)
    for _ in range(10):
        photos.add_asset(A)
    assert await phone.sync()
    linking, open_one = photos.begin(), photos.begin()
    asset = photos.add_asset(A)
    linking.do(photos.link, album, asset)
    linking.do(photos.add_face, asset, None)
    linking.commit()

    async def read() -> int:
        server.seen.clear()
        assert await phone.sync()
        assert phone.rows("SELECT id FROM face") == []
        return sum("created_at_gte" in seen.fields for seen in server.seen)

    assert 0 < await read() <= len(TOOK)
    monkeypatch.setattr(server.api, "max_events", 1)
    assert await read() > 20
    monkeypatch.setattr(library_module, "MAX_SCAN", 4)
    assert 4 < await read() <= 3 * 4, "for the cover of the album, what is in it, and the face"
    open_one.commit()
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)


async def test_a_row_whose_parent_came_with_a_stream_before_does_not_wait(phone: Phone, photos: Photos) -> None:
    asset = photos.add_asset(A)
    await phone.sync()
    photos.link(photos.add_album(A), asset)
    photos.add_face(asset, photos.add_person(A))
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)


@pytest.mark.parametrize("seed", [113, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3))])
async def test_two_phones_end_equal_to_their_libraries_whatever_happens(
    seed: int, at: AtGumnut, server: GumnutServer, tmp_path: Path
) -> None:
    """Foreign keys are enforced, transactions end late and out of order, and streams are left anywhere."""
    chance, photos = random.Random(seed), server.photos
    server.api.max_events = chance.choice([3, 7, 200])
    phones = {of: await Phone.sign_in(at, server, tmp_path / f"{of}.db", of) for of in (A, B)}
    waiting = []
    for _ in range(150):
        if chance.random() < 0.2:
            waiting.append(photos.begin())
        if waiting and chance.random() < 0.3:
            transaction = waiting.pop(chance.randrange(len(waiting)))
            for _ in range(chance.randrange(3)):
                transaction.do(change, photos, chance)
            transaction.commit()
        else:
            change(photos, chance)
        if chance.random() < 0.15:
            await phones[chance.choice([A, B])].sync(chance)
    for transaction in waiting:
        transaction.commit()
    for of, phone in phones.items():
        assert await phone.sync()
        assert await phone.sync()
        assert phone.holds() == held_at(photos, of)
        for _ in range(3):  # of cursors that are carried in a row only the last is acknowledged
            await phone.sync()
        assert set(by_type(await phone.stream())) == {COMPLETE}


def change(photos: Photos, chance: random.Random) -> None:
    """Change anything."""

    def one(rows: dict[str, dict[str, object]]) -> str | None:
        return chance.choice(sorted(rows)) if rows else None

    library = chance.choice([A, B])
    asset, album, person = one(photos.assets), one(photos.albums), one(photos.people)
    link, face, stack = one(photos.links), one(photos.faces), one(photos.stacks)
    here = sorted(key for key, row in photos.assets.items() if row["library"] == library)
    people_here = sorted(key for key, row in photos.people.items() if row["library"] == library)
    albums_here = sorted(key for key, row in photos.albums.items() if row["library"] == library)
    match chance.randrange(20):
        case 0 | 1 | 2 | 3 | 4:
            photos.add_asset(library)
        case 5 if asset:
            photos.update_asset(asset, rating=chance.choice([0, 3, 5]))
        case 6 if asset and not photos.assets[asset]["trashed_at"]:
            photos.trash(asset)
        case 7 if asset and photos.assets[asset]["trashed_at"]:
            photos.restore(asset)
        case 8 if asset:
            photos.delete_asset(asset)
        case 9 if asset:
            photos.move(asset, B if photos.assets[asset]["library"] == A else A)
        case 10:
            photos.add_album(library)
        case 11 if album and chance.random() < 0.5:
            photos.delete_album(album)
        case 11 if album:
            photos.update_album(album, name="New")
        case 12 | 13 if albums_here and here:
            pair = (chance.choice(albums_here), chance.choice(here))
            if pair not in {(row["album_id"], row["asset_id"]) for row in photos.links.values()}:
                photos.link(*pair)
        case 14 if link:
            photos.unlink(link)
        case 15:
            photos.add_person(library, "Somebody")
        case 16 if person and chance.random() < 0.5:
            photos.delete_person(person)
        case 16 if person:
            photos.update_person(person, name="Else")
        case 17 if here:
            photos.add_face(chance.choice(here), chance.choice([*people_here, None]))
        case 18 if face and chance.random() < 0.5:
            photos.delete_face(face)
        case 18 if face:
            of = photos.assets[photos.faces[face]["asset_id"]]["library"]
            people = sorted(key for key, row in photos.people.items() if row["library"] == of)
            photos.update_face(face, chance.choice([*people, None]))
        case 19:
            free = [key for key in here if not photos.assets[key]["stack_id"]]
            if stack and chance.random() < 0.3:
                photos.delete_stack(stack)
            elif len(free) > 1:
                photos.add_stack(free[:2], chance.choice([None, free[1]]))


async def test_a_stack_gets_another_cover_when_its_own_leaves(phone: Phone, photos: Photos) -> None:
    """Nobody chose it, and the asset that left tells nothing of the stack it was in."""
    first, second, third = (photos.add_asset(A) for _ in range(3))
    stack = photos.add_stack([first, second, third])
    assert await phone.sync()
    photos.delete_asset(first)
    assert await phone.sync()
    assert phone.rows('SELECT id, "primaryAssetId" FROM stack') == [(stack, second)]
    photos.move(second, B)
    assert await phone.sync()
    assert phone.rows('SELECT id, "primaryAssetId" FROM stack') == [(stack, third)]


async def test_an_entity_with_many_events_is_sent_once(phone: Phone, photos: Photos) -> None:
    assets = [photos.add_asset(A) for _ in range(3)]
    for _ in range(20):
        for asset in assets:
            photos.update_asset(asset, rating=3)
    sent = by_type(await phone.stream())
    assert [len(sent[name]) for name in ("AssetV2", "AssetExifV1")] == [3, 3]


async def test_a_cursor_that_gumnut_does_not_know_has_the_phone_start_over(phone: Phone, photos: Photos) -> None:
    fill(photos, A)
    before = photos.ready
    for _ in range(3):
        photos.add_asset(A)
    await phone.sync()
    gone = [asset for asset in photos.assets if int(asset[6:]) > 0][-3:]
    photos.forget_since(before)
    for asset in gone:
        del photos.assets[asset]
    assert [run.type for run in await phone.stream()] == [RESET]
    state = await phone.service.ledger.load("ann", phone.device.sid)
    assert state.pending_reset
    assert await phone.sync()
    assert phone.lines[RESET] == 1
    assert phone.holds() == held_at(photos, A)


async def test_a_position_of_another_source_has_the_phone_start_over(phone: Phone, photos: Photos) -> None:
    fill(photos, A)
    acks = by_type(await phone.stream())["AssetV2"]
    await phone.ack(f"AssetV2|{acks[0].split('|')[1]}|7c0b8a52-9c3f-4d53-a5d5-8a24fe3db1c0")
    assert await phone.sync()
    assert phone.lines[RESET] == 1
    assert phone.holds() == held_at(photos, A)


async def test_a_gumnut_that_is_down_is_503_and_acks_go_on(phone: Phone, server: GumnutServer, photos: Photos) -> None:
    fill(photos, A)
    assert await phone.sync()
    photos.add_asset(A)
    acks = by_type(await phone.stream())["AssetV2"]
    server.down = True
    answer = await phone.post("/api/sync/stream", {"types": ["AssetsV2"]})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "7"
    await phone.ack(phone.copy.confirmed()["AssetV2"])
    assert (await phone.service.ask("GET", "/api/sessions", phone.device.token)).status_code == 200
    assert not (await phone.service.services.source.health()).ok
    server.down = False
    assert (await phone.service.services.source.health()).ok
    assert by_type(await phone.stream())["AssetV2"] == acks
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)


@pytest.mark.parametrize("path", ["/api/assets", "/api/faces", "/api/albums", "/api/album-assets"])
async def test_a_read_that_fails_before_anything_is_sent_is_told_and_loses_nothing(
    phone: Phone, server: GumnutServer, photos: Photos, path: str
) -> None:
    fill(photos, A)
    server.instead[path] = [Answered(500, {"detail": "no"}, {"retry-after-ms": "1"})] * 3
    answer = await phone.post("/api/sync/stream", {"types": list(phone.types)})
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert server.instead[path] == []
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)


async def test_a_rate_limit_is_waited_for_if_it_is_short_and_told_if_it_is_long(
    phone: Phone, server: GumnutServer, photos: Photos
) -> None:
    fill(photos, A)
    server.instead["/api/events"] = [Answered(429, {"detail": "slow"}, {"retry-after-ms": "1"})] * 2
    server.instead["/api/assets"] = [Answered(429, {"detail": "slow"}, {"retry-after-ms": "1"})] * 2
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)
    server.instead["/api/events"] = [Answered(429, {"detail": "slow"}, {"retry-after": "60"})]
    answer = await phone.post("/api/sync/stream", {"types": ["AssetsV2"]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")


async def test_a_token_that_is_renewed_in_mid_stream(
    at: AtGumnut, phone: Phone, server: GumnutServer, photos: Photos
) -> None:
    fill(photos, A)
    first = server.secrets[-1]
    server.refresh = 30
    assert await phone.sync()
    kept = await at.credentials.read("ann", phone.device.sid)
    assert kept != first
    server.expire(first)
    photos.add_asset(A)
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)


async def test_a_session_without_a_good_token_must_sign_in_again(
    at: AtGumnut, server: GumnutServer, phone: Phone, tmp_path: Path
) -> None:
    stranger = Phone(at.service, await at.service.sign_in("bob", A), tmp_path / "bob.db")
    server.expire(server.secrets[-1])
    for one in (stranger, phone):
        answer = await one.post("/api/sync/stream", {"types": ["AssetsV2"]})
        assert answer.status_code == 403
        assert "sign in again" in answer.json()["message"]


async def test_an_api_key_speaks_for_sessions_that_hold_no_token(
    store: Store, server: GumnutServer, tmp_path: Path
) -> None:
    async with at_gumnut(store, server, api_key=server.token()) as at:
        fill(server.photos, A)
        phone = Phone(at.service, await at.service.sign_in("ann", A), tmp_path / "phone.db")
        assert await phone.sync()
        assert phone.holds() == held_at(server.photos, A)


async def test_a_library_that_the_user_may_not_read_is_not_an_empty_one(
    at: AtGumnut, server: GumnutServer, phone: Phone, photos: Photos
) -> None:
    fill(photos, A)
    await phone.sync()
    server.libraries = server.libraries[1:]
    answer = await phone.post("/api/sync/stream", {"types": ["AssetsV2"]})
    assert answer.status_code == 403


async def test_a_stack_without_members_is_held_back_and_told(phone: Phone, photos: Photos) -> None:
    first, second = photos.add_asset(A), photos.add_asset(A)
    stack = photos.add_stack([first, second])
    photos.trash(first)
    photos.trash(second)
    assert await phone.sync()
    source = phone.service.services.source
    (held,) = await source.held_back(A)
    assert (held.entity_type, held.rows, held.reason, held.example_id) == ("StackV1", 1, "unfit", stack)
    photos.restore(second)
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)
    assert await source.held_back(A) == []


async def test_a_long_way_without_rows_is_carried_by_an_ack(
    phone: Phone, photos: Photos, server: GumnutServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "CARRIED", 5)
    server.api.max_events = 4
    album = photos.add_album(A)
    photos.link(album, photos.add_asset(A))
    for _ in range(10):
        photos.add_asset(A)
    assert await phone.sync()
    assert phone.lines["SyncAckV1"] > 0
    held = {ack["type"] for ack in (await phone.service.ask("GET", "/api/sync/ack", phone.device.token)).json}
    assert "AssetDeleteV1" in held
    assert "SyncAckV1" not in held
    photos.delete_asset(max(photos.assets))
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)


async def test_older_versions(phone: Phone, photos: Photos) -> None:
    phone.types = ("UsersV1", "AssetsV1", "AlbumsV1", "PeopleV1", "AssetFacesV1")
    fill(photos, A)
    sent = by_type(await phone.stream())
    assert {"AssetV1", "AlbumV1", "AssetFaceV1"} <= set(sent)
    assert await phone.sync()
    assert phone.holds()["album_user"] == held_at(photos, A)["album_user"]


async def test_how_much_is_ahead(phone: Phone, photos: Photos) -> None:
    fill(photos, A)
    await phone.sync()
    state = await phone.service.ledger.load("ann", phone.device.sid)
    source = phone.service.services.source.of_session("ann", phone.device.sid)
    before = await source.horizon(A)
    position = state.checkpoints["AssetV2"].position
    assert (await source.ahead(A, "AssetV2", position, before)).rows == 0
    photos.add_asset(A)
    fresh = phone.service.services.source.of_session("ann", phone.device.sid)
    ahead = await fresh.ahead(A, "AssetV2", position, await fresh.horizon(A))
    assert (ahead.rows, ahead.newest_us is not None) == (2, True)  # its own event and its metadata's
    assert (await fresh.ahead(A, "UserV1", None, before)).rows == 1
    assert (await fresh.ahead(A, "MemoryV1", None, before)).rows == 0


async def test_nothing_secret_is_logged_or_told(
    phone: Phone, server: GumnutServer, photos: Photos, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fill(photos, A)
    await phone.sync()
    server.instead["/api/events"] = [Answered(500, {"detail": server.secrets[-1]}, {"retry-after-ms": "1"})] * 3
    told = (await phone.post("/api/sync/stream", {"types": ["AssetsV2"]})).text
    source = phone.service.services.source
    shown = caplog.text + told + repr(source) + repr(vars(source))
    assert not [secret for secret in server.secrets if secret in shown]
