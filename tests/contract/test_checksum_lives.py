"""Assets take over one another's checksum while a device syncs, cut off anywhere: it can store whatever it is sent.

The device is the simulated one, whose copy has the app's rule: one asset of each owner and checksum.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from endpoints.sync.stream_lines import chunks
from ledger import keys
from ledger.store.interface import Store
from ops.simulate.api import Server
from ops.simulate.check import check
from ops.simulate.copy import Copy
from ops.simulate.tables import TYPES_V1, TYPES_V2
from projections.entities.catalog.catalog import Catalog
from projections.entities.entity import Entity, read_line
from projections.entities.registry import entity_types_for
from tests.support.sources.samples import sample
from tests.support.stores.fake_store import FakeStore
from tests.unit.test_catalog_property import LIBRARY, Listing, Phone, Sink

PARTNER_TYPES = ("PartnerAssetV2", "PartnerAssetBackfillV2", "AlbumAssetUpdateV2")
CHECKSUMS = tuple(f"{number}" * 27 + "=" for number in range(4))


def read(entity_type: str, **changes: Any) -> Entity:
    return read_line(json.dumps({"type": entity_type, "data": sample(entity_type, **changes)}).encode())


class Files:
    """Assets of two owners, no two of one with the same checksum whenever a write is done."""

    def __init__(self, dice: random.Random, sink: Sink) -> None:
        self._dice = dice
        self._sink = sink
        self._checksums: dict[str, str] = {}
        self._types: dict[str, str] = {}

    async def begin(self) -> None:
        """Write the owners."""
        await self._put([read("UserV1", id=user) for user in ("u1", "u2")])

    async def act(self) -> None:
        """Do one thing: what it changes is one write, in any order."""
        owner = self._dice.choice(("u1", "u2"))
        ids = [f"{owner}-a{number}" for number in range(4)]
        here = [asset for asset in ids if asset in self._checksums]
        match self._dice.choice(("make", "make", "change", "swap", "swap", "rotate", "touch", "touch", "delete")):
            case "make":
                free = [asset for asset in ids if asset not in here]
                if free and (checksums := self._free(here)):
                    await self._write([(self._dice.choice(free), self._dice.choice(checksums))])
            case "change" if here and (checksums := self._free(here)):
                await self._write([(self._dice.choice(here), self._dice.choice(checksums))])
            case "swap" | "rotate" if len(here) > 1:
                moved = self._dice.sample(here, self._dice.randint(2, len(here)))
                taken = [self._checksums[asset] for asset in moved]
                await self._write(list(zip(moved, taken[1:] + taken[:1], strict=True)))
            case "touch" if here:
                asset = self._dice.choice(here)
                await self._write([(asset, self._checksums[asset])])
            case "delete" if here:
                asset = self._dice.choice(here)
                del self._checksums[asset]
                kind = "AssetDeleteV1" if owner == "u1" else "PartnerAssetDeleteV1"
                await self._put([read(kind, assetId=asset)])

    def _free(self, here: list[str]) -> list[str]:
        return [checksum for checksum in CHECKSUMS if checksum not in {self._checksums[asset] for asset in here}]

    async def _write(self, changes: list[tuple[str, str]]) -> None:
        self._dice.shuffle(changes)
        entities = []
        for asset, checksum in changes:
            self._checksums[asset] = checksum
            entity_type = "AssetV2" if asset.startswith("u1") else self._types.get(asset, "")
            if not entity_type or (entity_type.startswith("Partner") and self._dice.random() < 0.3):
                entity_type = self._types[asset] = self._dice.choice(PARTNER_TYPES[: 3 if not entity_type else 2])
            name = f"{self._dice.random()}.jpg"
            entities.append(
                read(entity_type, id=asset, ownerId=asset[:2], checksum=checksum, originalFileName=name, libraryId=None)
            )
        await self._put(entities)

    async def _put(self, entities: list[Entity]) -> None:
        written = await self._sink.catalog.put(LIBRARY, entities)
        assert not written.refused, written.refused


async def live(seed: int, store: Store, folder: Path, types: tuple[str, ...]) -> None:
    dice = random.Random(seed)
    sink = Sink()
    sink.store, sink.catalog = store, Catalog(store)  # type: ignore[assignment]
    files = Files(dice, sink)
    await files.begin()
    with Copy(folder / f"{seed}.sqlite") as copy:
        phone = Phone(sink, copy, types)
        for _ in range(20):
            for _ in range(dice.randrange(6)):
                await files.act()
            await phone.sync(dice.choice((None, 1, 3, 5, 8)))
            if dice.random() < 0.1:
                await sink.catalog.purge_tombstones(LIBRARY, await sink.catalog.horizon(LIBRARY))
        await phone.sync()
        lines = await sink.listed(waiting=False)
        result = check(copy, cast(Server, Listing(lines)), LIBRARY, types)
        assert result.equal, [str(difference) for difference in result.differences]


@pytest.mark.parametrize("seed", [0, 5])
async def test_a_device_can_store_what_it_is_sent(seed: int, tmp_path: Path) -> None:
    await live(seed, FakeStore(), tmp_path, TYPES_V1 if seed % 3 == 2 else TYPES_V2)


async def test_a_device_can_store_what_it_is_sent_from_a_real_server(valkey_store: Store, tmp_path: Path) -> None:
    for seed in range(100, 104):
        await live(seed, valkey_store, tmp_path, TYPES_V2)
        for names in await valkey_store.each_primary("KEYS", f"{{l{LIBRARY}}}*"):
            for name in names:
                await valkey_store.command("DEL", name, key=name)


async def sent(phone: Phone, catalog: Catalog) -> Counter[str]:
    """Count the lines of each asset that a stream has for a phone."""
    snapshot = await catalog.horizon(LIBRARY)
    rows = entity_types_for(("AssetsV2",))
    body = b"".join([chunk async for chunk in chunks(catalog, phone._state, rows, snapshot)])
    return Counter(json.loads(line)["data"].get("id") for line in body.splitlines()[:-1])


async def test_only_a_row_whose_checksum_changed_is_sent_twice(valkey_store: Store, tmp_path: Path) -> None:
    sink = Sink()
    sink.store, sink.catalog = valkey_store, Catalog(valkey_store)  # type: ignore[assignment]
    catalog = sink.catalog
    assets = [read("AssetV2", id=f"a{n}", ownerId="u", checksum=f"{n:027}=") for n in range(200)]
    await catalog.put(LIBRARY, [read("UserV1", id="u"), *assets])
    with Copy(tmp_path / "copy.sqlite") as copy:
        phone, other = Phone(sink, copy, ("AuthUsersV1", "UsersV1", "AssetsV2")), Phone(sink, copy, ("AssetsV2",))
        await phone.sync()
        for n in range(200):
            changes = {"isFavorite": True, "checksum": f"{n ^ 1 if n < 70 else n:027}="}
            await catalog.put(LIBRARY, [read("AssetV2", id=f"a{n}", ownerId="u", **changes)])
        counted = await sent(phone, catalog)
        assert counted == {f"a{n}": 2 if n < 70 else 1 for n in range(200)}
        assert set((await sent(other, catalog)).values()) == {1}  # a device that has nothing needs no room
        await phone.sync()
        await phone.sync()
        await catalog.purge_tombstones(LIBRARY, await catalog.horizon(LIBRARY))
        assert await catalog.tombstone_floor(LIBRARY) > 0
        checksums = keys.catalog_checksums(LIBRARY)
        assert await valkey_store.command("EXISTS", checksums, key=checksums) == 0
        await catalog.put(LIBRARY, [read("AssetV2", id="a0", ownerId="u", checksum=f"{1:027}=")])
        assert await sent(phone, catalog) == {"a0": 1}
