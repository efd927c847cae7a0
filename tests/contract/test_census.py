"""The census of a ledger: exact where it is small, else within its bounds, and taken whatever cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from ledger import keys
from ledger.commands import CreateSession
from ledger.log.service import Ledger
from ledger.store.interface import Store
from projections.census import held_back, record, taking
from projections.census.taking import Census
from projections.entities.catalog.catalog import Catalog
from tests.support.ledger.given import NOW
from tests.support.ledger.ledgers import sid_of

PARTITIONS = 4
SIXTEEN = 16
"""How many the store's fixture marks as whole."""


class Scene:
    """A ledger with devices, and a census that knows how much it asked."""

    def __init__(self, store: Store, partitions: int = PARTITIONS) -> None:
        self.ledger = Ledger(store, partitions, lambda: NOW)
        self.horizons: Counter[str] = Counter()
        self.census = Census(store, partitions, lambda: NOW, self._horizon, self._held_back)

    async def sign_in(self, user: str, count: int, library: str = "lib") -> None:
        """Give a user so many devices."""
        for number in range(count):
            await self.ledger.execute(user, sid_of(f"{user} {library} {number}"), CreateSession(user, library))

    async def take(self) -> Mapping[str, Mapping[tuple[str, ...], float]]:
        """Take it once; tells all figures by name and labels."""
        await self.census.take()
        return {
            family.name: dict(zip(family.values, numbers, strict=True))
            for family, numbers in await record.Kept(self.ledger.store).read()
        }

    async def _horizon(self, library: str) -> int:
        self.horizons[library] += 1
        return NOW

    async def _held_back(self) -> Mapping[str, int]:
        return {"unfit": 0, "missing_parent": 0}


def devices(figures: Mapping[str, Any]) -> float:
    """How many devices it says were looked at."""
    return float(sum(figures[record.BEHIND.name].values()))


async def test_every_device_is_in_one_class_of_each(valkey_store: Store) -> None:
    scene = Scene(valkey_store)
    for number in range(9):
        await scene.sign_in(f"user-{number}", 2)
    figures = await scene.take()
    assert figures[record.SESSIONS.name] == {(): 18}
    for family in (record.BEHIND, record.COMPLETED, record.SEEN):
        assert sum(figures[family.name].values()) == 18, family.name
    assert figures[record.COMPLETED.name][record.NEVER,] == 18
    assert figures[record.PARTITIONS.name] == {("whole",): PARTITIONS, ("not_whole",): 0, ("unread",): 0}


async def test_a_run_looks_at_so_many_devices_and_the_next_goes_on(
    valkey_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "DEVICES_A_RUN", 10)
    scene = Scene(valkey_store, SIXTEEN)
    for number in range(30):
        await scene.sign_in(f"user-{number}", 2)
    found = [devices(await scene.take()) for _ in range(8)]
    steps = [after - before for before, after in zip([0.0, *found], found, strict=False)]
    assert max(steps) <= 10 + 20, "a run ends behind the partition with which it has looked at so many"
    assert steps[0] < 60, "not all at once"
    assert found[-1] == 60


async def test_of_a_large_partition_some_devices_stand_for_all(
    valkey_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "DEVICES_A_PARTITION", 100)
    scene = Scene(valkey_store)
    await scene.sign_in("ann", 1000)
    scripts, script = list[int](), valkey_store.script

    async def counted(which: Any, names: Any, args: Any) -> Any:
        scripts.append(len(names) // 2 if which is taking._DEVICES else 0)
        return await script(which, names, args)

    monkeypatch.setattr(valkey_store, "script", counted)
    figures = await scene.take()
    assert 100 <= sum(scripts) < 100 + 512, "a page of the index behind which it has looked at so many"
    assert max(scripts) <= 100, "all else waits for each"
    assert devices(figures) == pytest.approx(1000)
    assert figures[record.SESSIONS.name] == {(): 1000}


async def test_horizons_are_asked_of_so_many_libraries(valkey_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "LIBRARIES", 3)
    scene = Scene(valkey_store)
    for number in range(8):
        await scene.sign_in("ann", 1, f"library-{number}")
    assert devices(await scene.take()) == 8
    assert set(scene.horizons.values()) == {1}
    assert len(scene.horizons) == 3


async def test_what_cannot_be_read_is_counted_and_named_and_all_else_goes_on(
    valkey_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(valkey_store)
    for number in range(12):
        await scene.sign_in(f"user-{number}", 1)
    partition = keys.partition_of("user-0", PARTITIONS)
    name = keys.activity(partition)
    there = int(await valkey_store.command("ZCARD", name, key=name))
    await valkey_store.command("DEL", name, key=name)
    await valkey_store.command("SET", name, "no set", key=name)
    figures = await scene.take()
    assert figures[record.PARTITIONS.name] == {("whole",): PARTITIONS - 1, ("not_whole",): 0, ("unread",): 1}
    assert figures[record.SESSIONS.name] == {(): 12 - there}
    assert devices(figures) == 12 - there
    assert f"partition {partition} is left out of the census" in caplog.text


async def test_rows_that_wait_are_counted_of_so_many_libraries(
    valkey_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        waiting, index = keys.catalog_waiting(f"library-{number}"), keys.catalog_libraries()
        await valkey_store.command("HSET", waiting, "row", "what it waits for", key=waiting)
        await valkey_store.command("SADD", index, f"library-{number}", key=index)
    source = Catalog(valkey_store)
    assert (await held_back.held_back_rows(source, valkey_store))["missing_parent"] == 9
    monkeypatch.setattr(held_back, "LIBRARIES", 4)
    assert (await held_back.held_back_rows(source, valkey_store))["missing_parent"] == 4
