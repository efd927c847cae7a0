"""The demo library: complete, parents first, the same every time, and nothing that a device refuses."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from ops.demo_library import DEFAULT_ASSETS, DemoLibrary
from ops.simulate.copy import Copy
from ops.simulate.parse import Run, rows_of
from ops.simulate.tables import REQUESTS, TYPES_V2
from projections.entities.catalog.catalog import Catalog
from projections.entities.catalog.writer import Written
from projections.entities.entity import read_line
from projections.entities.registry import row
from tests.support.stores.fake_store import FakeStore

EVERY_TYPE = {name for request in TYPES_V2 for name in REQUESTS[request]}


@pytest.mark.parametrize("assets", [1, 2, 45, 300, DEFAULT_ASSETS])
def test_every_entity_fits_a_device_in_the_order_given(assets: int, tmp_path: Path) -> None:
    types: Counter[str] = Counter()
    with Copy(tmp_path / "device.db") as copy:
        for number, entity in enumerate(DemoLibrary(user="owner", name="Owner", assets=assets), 1):
            types[entity.type] += 1
            data = msgspec.Raw(msgspec.json.encode(entity.data))
            rows = rows_of(entity.type, [data], "entity {}", number)
            copy.apply(Run(entity.type, rows, [""], number))
        assert copy.counts()["asset"] == sum(types[name] for name in types if name.endswith("V2") and "Asset" in name
                                             and "Face" not in name)  # fmt: skip
        assert copy.db.execute("SELECT count(*) FROM asset WHERE ownerId = 'owner'").fetchone() == (assets,)
        assert copy.db.execute("PRAGMA foreign_key_check").fetchall() == []
    if assets >= 300:
        assert set(types) == EVERY_TYPE
    assert set(types) <= EVERY_TYPE


def test_the_server_takes_every_entity() -> None:
    for entity in DemoLibrary(user="owner", name="Owner", assets=400):
        msgspec.json.decode(msgspec.json.encode(entity.data), type=row(entity.type).payload)


async def test_nothing_waits_for_a_parent() -> None:
    catalog = Catalog(FakeStore())
    entities = [read_line(line) for line in DemoLibrary(user="owner", name="Owner", assets=300).lines()]
    assert await catalog.put("demo", entities) == Written(taken=len(entities))


def test_ids_names_and_references_hold_together() -> None:
    library = DemoLibrary(user="owner", name="Owner", assets=500)
    ids: Counter[tuple[str, str]] = Counter()
    assets, checksums, seconds = set(), set(), set()
    stacks, stack_of = set(), set()
    for entity in library:
        if entity.id is None:
            continue
        ids[entity.type, entity.id] += 1
        assert entity.id == entity.data.get("id", entity.data.get("assetId"))
        if "checksum" in entity.data:
            assets.add(entity.id)
            checksums.add(entity.data["checksum"])
            stack_of.add(entity.data["stackId"])
        if entity.type == "AssetV2":
            seconds.add(entity.data["fileCreatedAt"])
        if entity.type.endswith(("StackV1", "StackBackfillV1")):
            stacks.add(entity.id)
            assert entity.data["primaryAssetId"] in assets
    assert set(ids.values()) == {1}
    assert len(checksums) == len(assets)
    assert len(seconds) == 500
    assert stack_of - {None} <= stacks


def test_the_same_arguments_give_the_same_bytes() -> None:
    def digest(seed: str, assets: int) -> str:
        hashed = hashlib.sha256()
        for line in DemoLibrary(user="owner", name="Owner", assets=assets, seed=seed).lines():
            assert line.endswith(b"\n")
            hashed.update(line)
        return hashed.hexdigest()

    assert digest("a", 60) == digest("a", 60)
    assert digest("a", 60) != digest("b", 60)


@pytest.mark.parametrize("assets", [2_000, pytest.param(8_000, marks=pytest.mark.soak)])
def test_a_large_library_is_never_held(assets: int) -> None:
    tracemalloc.start()
    try:
        lines = sum(1 for _ in DemoLibrary(user="owner", name="Owner", assets=assets).lines())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lines > 2.5 * assets
    assert peak_bytes < 1_000_000


def test_no_assets_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        DemoLibrary(user="owner", name="Owner", assets=0)
