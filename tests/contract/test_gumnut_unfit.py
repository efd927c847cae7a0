"""What does not fit at Gumnut: it and all that hangs on it wait, whoever serves, and come once it is mended."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ledger.store.interface import Store, open_store
from projections.entities.gumnut import held_back
from projections.entities.source import HeldBack
from tests.support.gumnut.api import PATHS
from tests.support.gumnut.phone import COMPLETE, A, AtGumnut, Phone, another_process, at_gumnut, by_type, held_at
from tests.support.gumnut.server import GumnutServer

FAR: Final = "12024-06-01T10:00:00+00:00"
ODD: Final[dict[str, Any]] = {
    "nothing": None,
    "a time to come": FAR,
    "a huge number": 2**70,
    "a negative one": -1,
    "no number": float("nan"),
    "an object": {"new": [1]},
    "a broken text": "a|b\n\ud800",
}


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
async def phone(at: AtGumnut, server: GumnutServer, tmp_path: Path) -> Phone:
    return await Phone.sign_in(at, server, tmp_path / "phone.db")


class Oddities:
    """A row of every kind for each field of Gumnut's answers and each odd value, with rows that hang on it."""

    def __init__(self, server: GumnutServer, values: list[Any]) -> None:
        self.photos, self.api = server.photos, server.api
        self.good = self.photos.add_asset(A)
        self.album, self.person = self.photos.add_album(A), self.photos.add_person(A)
        transaction = self.photos.begin()
        with self.photos.writing(transaction):
            for of in PATHS.values():
                for path in self._paths(of):
                    for value in values:
                        self.api.odd[self._add(of)] = (path, value)
            for _ in range(3):
                self.photos.link(self.album, self.photos.add_asset(A))
        transaction.ended = True

    def _paths(self, of: str) -> list[tuple[str, ...]]:
        """List the fields of a kind's answers, as they are sent."""
        row_id = self._add(of)
        asked = {"library_id": A, "ids": [row_id], "include": ["metadata", "file_data", "asset_ids"], "state": "all"}
        path = next(path for path, found in PATHS.items() if found == of)
        (item,) = self.api.rows(path, asked)["data"]
        outer: list[tuple[str, ...]] = [(name,) for name in item if name != "id"]
        return outer + [(name, part) for name, value in item.items() if isinstance(value, dict) for part in value]

    def _add(self, of: str) -> str:
        match of:
            case "assets":
                row_id = self.photos.add_asset(A)
                self.hang_on(row_id)
                self.photos.add_stack([row_id], row_id)
            case "albums":
                row_id = self.photos.add_album(A)
                self.photos.link(row_id, self.good)
            case "people":
                row_id = self.photos.add_person(A, "Somebody")
                self.photos.add_face(self.good, row_id)
            case "links":
                row_id = self.photos.link(self.album, self.photos.add_asset(A))
            case "faces":
                row_id = self.photos.add_face(self.good, self.person)
            case _:
                row_id = self.photos.add_stack([self.photos.add_asset(A), self.photos.add_asset(A)])
        return row_id

    def hang_on(self, asset: str) -> None:
        """Add what refers to an asset."""
        self.photos.link(self.photos.add_album(A), asset)
        self.photos.add_face(asset, self.photos.add_person(A))

    def mend(self) -> None:
        """Put everything right, as Gumnut would tell."""
        odd = list(self.api.odd)
        self.api.odd.clear()
        transaction = self.photos.begin()
        with self.photos.writing(transaction):
            for row_id in odd:
                self._mend(row_id)
        transaction.ended = True

    def _mend(self, row_id: str) -> None:
        match row_id.rpartition("_")[0]:
            case "asset":
                self.photos.update_asset(row_id)
            case "album":
                self.photos.update_album(row_id, name="Mended")
            case "person":
                self.photos.update_person(row_id, name="Mended")
            case "face":
                self.photos.update_face(row_id, self.person)
            case "album_asset":
                self.photos.unlink(row_id)
            case _:
                self.photos.touch_stack(row_id)


@pytest.mark.parametrize(
    "values",
    [[FAR], pytest.param(list(ODD.values()), marks=pytest.mark.soak)],
    ids=["some values", "all values"],
)
async def test_every_field_of_every_kind_unfit_in_turn(
    values: list[Any], at: AtGumnut, phone: Phone, server: GumnutServer, store: Store, tmp_path: Path
) -> None:
    """Foreign keys are enforced, and each sync is served by a process that has seen nothing before."""
    photos = server.photos
    away = await Phone.sign_in(at, server, tmp_path / "away.db")
    odd = Oddities(server, values)
    assert await phone.sync()
    assert await away.sync()
    assets = {asset for (asset,) in phone.rows("SELECT id FROM asset")}
    held = {row_id for row_id in server.api.odd if row_id in photos.assets} - assets
    assert {row_id for row_id in photos.assets if row_id not in server.api.odd} <= assets, "all that fit are sent"
    assert held
    for row_id in set(photos.assets) - held:
        path, value = server.api.odd.get(row_id, (("",), None))
        column = {"created_at": "createdAt", "local_datetime": "localDateTime"}.get(path[0])
        if column and value == FAR:
            assert phone.rows(f"SELECT \"{column}\" FROM asset WHERE id = '{row_id}'") == [(None,)]

    for row_id in held:
        odd.hang_on(row_id)
    async with another_process(at, server, store, phone) as second:
        assert await phone.sync()
        assert {asset for (asset,) in phone.rows("SELECT id FROM asset")} == assets
        told = await second.source.held_back(A)
        assert sum(each.rows for each in told if (each.entity_type, each.reason) == ("AssetV2", "unfit")) == len(held)
        assert 0 < waiting(told, "AssetExifV1") <= len(held), "some do not fit themselves"
        assert 0 < waiting(told, "AssetFaceV2") <= waiting(told, "AlbumToAssetV1 asset") == 2 * len(held)
        assert not [each for each in told if each.parent == "a field"]

    odd.mend()
    async with another_process(at, server, store, phone, away) as third:
        for one in (phone, away):
            assert await one.sync()
            assert one.holds() == held_at(photos, A)
        assert await phone.sync()
        assert await third.source.of_session("ann", phone.device.sid).held_back(A) == []
        for _ in range(3):
            await phone.sync()
        assert set(by_type(await phone.stream())) == {COMPLETE}


def waiting(told: Any, what: str) -> int:
    """Count the rows of a kind that wait for a parent (of a table)."""
    entity_type, _, table = what.partition(" ")
    found: list[HeldBack] = [
        each for each in told if (each.entity_type, each.reason) == (entity_type, "missing_parent")
    ]
    return sum(each.rows for each in found if each.parent.startswith(f"{table}|" if table else ""))


NAMELESS: Final = (("original_file_name",), None)


async def test_a_mend_whose_event_is_not_ready_sends_nothing_yet(
    at: AtGumnut, phone: Phone, server: GumnutServer, store: Store
) -> None:
    """What hangs on it is read as it is now, and the device never had it."""
    photos = server.photos
    asset, album = photos.add_asset(A), photos.add_album(A)
    server.api.odd[asset] = NAMELESS
    photos.add_asset(A)  # with it the device is past the other
    assert await phone.sync()
    linking, open_one = photos.begin(), photos.begin()
    server.api.odd.clear()
    photos.update_asset(asset)
    linking.do(photos.link, album, asset)
    linking.commit()
    async with another_process(at, server, store, phone):
        assert await phone.sync()
        assert phone.rows('SELECT "assetId" FROM album_asset') == []
    open_one.commit()
    async with another_process(at, server, store, phone):
        assert await phone.sync()
        assert await phone.sync()
        assert phone.holds() == held_at(photos, A)


async def test_more_than_can_be_noted_end_the_runs(
    at: AtGumnut, phone: Phone, server: GumnutServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_back, "MAX_NOTES", 2)
    photos, person = server.photos, server.photos.add_person(A)
    assets = [photos.add_asset(A) for _ in range(5)]
    for asset in assets:
        photos.add_face(asset, person)
    server.api.odd |= dict.fromkeys(assets[1:4], NAMELESS)
    for _ in range(2):
        async with another_process(at, server, store, phone) as other:
            assert await phone.sync()
            assert phone.rows("SELECT id FROM asset") == [(assets[0],)]
            assert len(phone.rows("SELECT id FROM face")) == 1
            told = await other.source.held_back(A)
            assert sum(each.rows for each in told if each.reason == "unfit") == 2
    server.api.odd.clear()
    for asset in assets[1:4]:
        photos.update_asset(asset)
    async with another_process(at, server, store, phone):
        assert await phone.sync()
        assert await phone.sync()
        assert phone.holds() == held_at(photos, A)


async def test_a_device_that_was_away_for_longer_than_marks_are_kept_starts_over(
    at: AtGumnut, phone: Phone, server: GumnutServer, tmp_path: Path
) -> None:
    photos, away = server.photos, await Phone.sign_in(at, server, tmp_path / "away.db")
    asset = photos.add_asset(A)
    photos.add_face(asset, photos.add_person(A))
    server.api.odd[asset] = NAMELESS
    assert await phone.sync()
    assert await away.sync()
    server.api.odd.clear()
    photos.update_asset(asset)
    assert await phone.sync()
    assert phone.holds() == held_at(photos, A)
    photos.tick(31 * 86_400)
    assert await phone.sync()
    other = photos.add_asset(A)
    server.api.odd[other] = NAMELESS
    assert await phone.sync()
    server.api.odd.clear()
    photos.update_asset(other)
    for one, resets in ((phone, 0), (away, 1)):
        assert await one.sync()
        assert one.holds() == held_at(photos, A)
        assert one.lines.get("SyncResetV1", 0) == resets


@pytest.mark.parametrize("odd", ["a|b", "a,b", "a\nb", "x" * 300])
async def test_an_id_that_nothing_could_be_called_costs_only_its_own_row(
    odd: str, phone: Phone, server: GumnutServer
) -> None:
    photos = server.photos
    photos.name(odd, A)
    good = photos.add_asset(A)
    assert await phone.sync()
    assert phone.rows("SELECT id FROM asset") == [(good,)]
    told = await phone.service.services.source.held_back(A)
    assert {(each.entity_type, each.rows, each.reason, each.parent) for each in told} == {
        ("AssetV2", 1, "unfit", "id"),
        ("AssetExifV1", 1, "unfit", "id"),
    }


async def test_explain_names_what_another_process_left_out(
    at: AtGumnut, phone: Phone, server: GumnutServer, store: Store
) -> None:
    asset = server.photos.add_asset(A)
    server.api.odd[asset] = NAMELESS
    assert await phone.sync()
    async with another_process(at, server, store, phone) as other:
        path = f"/ledger/sessions/{phone.device.sid}/explain"
        told = (await other.service.ask("GET", path, phone.device.token)).json
        assert [(each["type"], each["reason"], each["example"], each["needs"]) for each in told["heldBack"]] == [
            ("AssetV2", "unfit", asset, "originalFileName"),
            ("AssetExifV1", "missing_parent", asset, f"asset|{asset}"),
        ]
        assert await other.source.held_back_everywhere() == {A: await at.source.held_back(A)}
    counts = {(each.name, each.label_value): each.value for each in await at.service.counters.all()}
    assert counts["rows_held_back", "AssetV2"] == 1


async def test_what_is_held_back_everywhere_is_looked_for_within_bounds(at: AtGumnut, store: Store) -> None:
    notes = held_back.HeldBackNotes(store, lambda: 1)
    for library in range(12):
        of_library = await notes.of(f"library-{library}")
        for row in range(5):
            of_library.unfit("AssetV2", f"row-{row}", "fileName")
        await of_library.keep()
    told = at.source.held_back_everywhere
    assert {sum(one.rows for one in rows) for rows in (await told()).values()} == {5}
    assert len(await told()) == 12
    assert len(await told(most_libraries=7)) == 7
    assert len(await told(most_notes=11)) == 3, "no further one once so many were read"


@pytest.mark.parametrize("minutes", [6, 90])
async def test_children_of_mended_assets_find_other_parents_of_a_long_transaction(
    minutes: int, at: AtGumnut, phone: Phone, server: GumnutServer, store: Store
) -> None:
    """Events tell when their transaction began, and parents when they were made, which may be long after that."""
    photos = server.photos
    transaction = photos.begin()
    with photos.writing(transaction):
        assets = [photos.add_asset(A) for _ in range(6)]
        photos.tick(minutes * 60)
        for asset in assets:
            photos.link(photos.add_album(A), asset)
            photos.add_face(asset, photos.add_person(A))
    transaction.ended = True
    server.api.odd |= dict.fromkeys(assets[1:5], NAMELESS)
    assert await phone.sync()
    assert phone.rows("SELECT id FROM asset") == [(assets[0],), (assets[5],)]
    server.api.odd.clear()
    for asset in assets[1:5]:
        photos.update_asset(asset)
    async with another_process(at, server, store, phone) as other:
        assert await phone.sync()
        assert phone.holds() == held_at(photos, A)
        assert await other.source.held_back(A) == []
    assert phone.lines["AlbumToAssetV1"] == phone.lines["AssetFaceV2"] == len(assets)


async def test_a_link_to_what_no_album_could_be_called_tells_of_no_album(phone: Phone, server: GumnutServer) -> None:
    photos = server.photos
    link = photos.link(photos.add_album(A), photos.add_asset(A))
    server.api.odd[link] = (("album_id",), "a|b")
    assert await phone.sync()
    told = phone.service.services.source.held_back
    assert [(each.entity_type, each.parent) for each in await told(A)] == [("AlbumToAssetV1", "albumId")]
    server.api.odd.clear()
    photos.unlink(link)
    assert await phone.sync()
    source = phone.service.services.source.of_session("ann", phone.device.sid)
    assert await source.held_back(A) == []


ODD_FIELDS: Final = {
    "asset": "original_file_name",
    "album": "name",
    "person": "created_at",
    "face": "bounding_box",
    "asset_stack": "created_at",
}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(6))
async def test_rows_of_every_kind_mended_in_any_order_between_syncs_that_are_cut(
    seed: int, at: AtGumnut, phone: Phone, server: GumnutServer, store: Store, tmp_path: Path
) -> None:
    """Children before and after their parents, all at once or in parts, written by one transaction that may be long."""
    photos, chance = server.photos, random.Random(seed)
    away = await Phone.sign_in(at, server, tmp_path / "away.db")
    server.api.max_events = chance.choice([7, 200])
    transaction = photos.begin()
    with photos.writing(transaction):
        assets = [photos.add_asset(A) for _ in range(60)]
        photos.tick(chance.choice([0, 400, 4000, 8000]))
        people, albums = [photos.add_person(A) for _ in range(15)], [photos.add_album(A) for _ in range(15)]
        for asset in assets:
            photos.link(chance.choice(albums), asset)
            photos.add_face(asset, chance.choice(people))
        stacks = [photos.add_stack(assets[first : first + 2]) for first in range(0, 60, 12)]
    transaction.ended = True
    odd = chance.sample(assets, 48) + chance.sample([*people, *albums, *photos.faces, *stacks], 40)
    for row_id in odd:
        server.api.odd[row_id] = ((ODD_FIELDS[row_id.rpartition("_")[0]],), {"new": 1})
    await phone.sync()
    await away.sync(chance)
    chance.shuffle(odd)
    children_first = chance.choice([None, True, False])
    if children_first is not None:
        odd.sort(key=lambda row_id: row_id.startswith(("asset_0", "album", "person")) == children_first)
    parts = chance.choice([1, 3])
    for part in (odd[first::parts] for first in range(parts)):
        mend(server, part, chance.choice(people))
        for _ in range(chance.randrange(4)):
            async with another_process(at, server, store, phone, away):
                await chance.choice([phone, away]).sync(chance)
    async with another_process(at, server, store, phone, away) as last:
        for one in (phone, away):
            for _ in range(3):
                assert await one.sync()
            assert one.holds() == held_at(photos, A)
        assert await last.source.of_session("ann", phone.device.sid).held_back(A) == []


def mend(server: GumnutServer, rows: list[str], person: str) -> None:
    """Put some rows right in one transaction."""
    photos = server.photos
    transaction = photos.begin()
    with photos.writing(transaction):
        for row_id in rows:
            del server.api.odd[row_id]
            match row_id.rpartition("_")[0]:
                case "asset":
                    photos.update_asset(row_id)
                case "album":
                    photos.update_album(row_id)
                case "person":
                    photos.update_person(row_id)
                case "face":
                    photos.update_face(row_id, person)
                case _:
                    photos.touch_stack(row_id)
    transaction.ended = True
