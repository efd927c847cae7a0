"""What the source is and was, on record for all workers: what it goes on from, and when it is another one."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.commands import EVER, Origin
from ledger.store.interface import Store
from projections.entities.origins import KEPT, Found, Origins, SourceExchanged

SETTLE_S = 0.05
TABLES = {"asset": 16384, "album": 16390}
HOME = Found("postgres", "7001", 5, TABLES, keyed=("album", "asset"), timeline=1, written=1000)
RESTORED = replace(HOME, tables={"asset": 20001, "album": 20007}, written=2000)


def worker(store: Store) -> Origins:
    """Make what one process knows."""
    return Origins(store, settle_s=SETTLE_S)


async def taken(origins: Origins, found: Found) -> Origin:
    """Look until what was found is taken."""
    until = time.monotonic() + 10
    while True:
        try:
            return await origins.of(found)
        except SourceExchanged:
            assert time.monotonic() < until
            await asyncio.sleep(SETTLE_S / 5)


async def test_the_first_one_is_taken_at_once_and_known_to_all(store: Store) -> None:
    first = Origin(1, 1000, first=True)
    assert await asyncio.gather(*(worker(store).of(HOME) for _ in range(4))) == [first] * 4
    assert await worker(store).of(replace(HOME, written=1001)) == first._replace(written=1001)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"system": "7002"}, "another server's data"),
        ({"database": 6}, "another database of the server"),
        ({"tables": {**TABLES, "asset": 9}}, "the table asset was made anew"),
        ({"kind": "gumnut"}, "it was postgres, and is gumnut"),
        ({"timeline": 2}, "another server took over from it"),
        ({"timeline": 2, "replayed": 0}, "what that had is not known"),
        ({"timeline": 3, "replayed": 5000}, "another server took over from it"),
        ({"written": 999}, "a backup or snapshot of it was brought back"),
    ],
)
async def test_another_one_is_taken_once_it_has_settled(store: Store, change: dict[str, object], says: str) -> None:
    one, other = worker(store), worker(store)
    await one.of(HOME)
    other_one = replace(HOME, **{"written": 5000, **change})
    with pytest.raises(SourceExchanged, match=says) as raised:
        await other.of(other_one)
    assert "start over" in str(raised.value)
    assert (await taken(other, other_one)).number == 2
    assert await one.of(other_one) == Origin(2, other_one.written)
    assert says in one.told(time.time_ns() // 1000)
    assert one.told(time.time_ns() // 1000 + 8 * 86_400_000_000) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"written": 1000},
        {"tables": {**TABLES, "memory": 3}},  # an upgrade adds one
        {"tables": {"asset": 16384, "album": 16390}, "keyed": ()},
        {"system": "", "written": 0, "timeline": 0},  # not told any more
        {"loading": ("asset",)},  # while rows are copied into it
    ],
)
async def test_what_says_nothing_of_another_one(store: Store, change: dict[str, object]) -> None:
    origins = worker(store)
    await origins.of(HOME)
    assert (await origins.of(replace(HOME, **change))).number == 1
    assert (await worker(store).of(replace(HOME, **{**change, "written": 3000}))).number == 1


async def test_a_table_that_was_added_is_missed_and_noticed_when_made_anew(store: Store) -> None:
    origins = worker(store)
    await origins.of(HOME)
    await origins.of(replace(HOME, tables={**TABLES, "memory": 3}))
    with pytest.raises(SourceExchanged, match="the table memory was there before and is missing"):
        await worker(store).of(HOME)
    with pytest.raises(SourceExchanged, match="the table memory was made anew"):
        await worker(store).of(replace(HOME, tables={**TABLES, "memory": 4}))


async def test_put_back_in_time_nothing_has_happened(store: Store) -> None:
    origins = worker(store)
    await origins.of(HOME)
    with pytest.raises(SourceExchanged):
        await origins.of(RESTORED)
    assert (await origins.of(HOME)).number == 1
    await asyncio.sleep(2 * SETTLE_S)
    with pytest.raises(SourceExchanged):
        await origins.of(RESTORED)  # it has to settle anew


async def test_one_that_comes_back_is_the_one_it_was(store: Store) -> None:
    origins = worker(store)
    await origins.of(HOME)
    assert (await taken(origins, RESTORED)).number == 2
    assert (await taken(origins, replace(HOME, written=1500))).number == 1
    assert (await taken(worker(store), replace(RESTORED, written=2500))).number == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tables": {"asset": 20001}}, "the table album was there before and is missing"),
        ({"tables": {}}, "is missing"),
        ({"keyed": ("asset",)}, "the table album had a primary key before and has none"),
        ({"loading": ("asset",)}, "the table asset is being filled"),
    ],
)
async def test_what_is_being_restored_is_not_taken_however_long_it_takes(
    store: Store, change: dict[str, object], says: str
) -> None:
    origins, half = worker(store), replace(RESTORED, **change)
    await origins.of(HOME)
    for _ in range(3):
        with pytest.raises(SourceExchanged, match=says):
            await origins.of(half)
        await asyncio.sleep(SETTLE_S)
    with pytest.raises(SourceExchanged, match="is another one"):  # from now on it has to settle
        await origins.of(RESTORED)
    assert (await taken(origins, RESTORED)).number == 2


@pytest.mark.parametrize("found", [HOME, RESTORED], ids=["an upgrade", "an older dump"])
async def test_what_stays_away_is_not_missed_for_ever(store: Store, found: Found) -> None:
    origins = Origins(store, settle_s=SETTLE_S, give_up_s=3600 if found is HOME else SETTLE_S)
    await origins.of(HOME)
    without = replace(found, tables={"asset": found.tables["asset"]}, keyed=("asset",))
    with pytest.raises(SourceExchanged, match="the table album was there before"):
        await origins.of(without)
    number = (await taken(origins, without)).number
    assert number == (1 if found is HOME else 2)
    if found is HOME:
        back = replace(HOME, written=3000)
        assert (await taken(origins, back)).number == 2, "what was in it, nobody knows"


async def test_a_promoted_server_goes_on_from_where_it_had_followed_to(store: Store) -> None:
    one, other = worker(store), worker(store)
    await one.of(HOME)
    promoted = replace(HOME, timeline=2, replayed=990, written=1010)
    assert await one.of(promoted) == Origin(2, 1010, ((1, 990),)), "at once"
    assert await other.of(promoted) == Origin(2, 1010, ((1, 990),))
    assert one.told(time.time_ns() // 1000) == ""
    again = replace(promoted, timeline=3, replayed=1005, written=1020)
    assert await other.of(again) == Origin(3, 1020, ((2, 1005), (1, 990)))
    lossy = replace(again, timeline=4, replayed=980, written=1100)
    assert await other.of(lossy) == Origin(4, 1100, ((3, 980), (2, 980), (1, 980)))


async def test_a_worker_that_looked_earlier_than_others_noted_looks_again(store: Store) -> None:
    one, other = worker(store), worker(store)
    await one.of(HOME)
    await other.of(replace(HOME, written=1200))

    async def again() -> Found:
        return replace(HOME, written=1300)

    assert await one.of(replace(HOME, written=1100), again) == Origin(1, 1300, first=True)

    async def gone_back() -> Found:
        return replace(HOME, written=1250)

    with pytest.raises(SourceExchanged, match="brought back"):
        await one.of(replace(HOME, written=1240), gone_back)


async def test_what_was_brought_back_stays_so_while_it_is_written_on(store: Store) -> None:
    """It grows past what was noted of it before it is taken."""
    one, other = worker(store), worker(store)
    await one.of(HOME)
    with pytest.raises(SourceExchanged, match="brought back"):
        await one.of(replace(HOME, written=500))
    with pytest.raises(SourceExchanged, match="brought back"):
        await other.of(replace(HOME, written=5000))
    assert await taken(other, replace(HOME, written=6000)) == Origin(2, 6000)
    assert await one.of(replace(HOME, written=6001)) == Origin(2, 6001)


@pytest.mark.each_store
async def test_workers_that_see_it_at_once_agree(store: Store) -> None:
    await worker(store).of(HOME)
    found = await asyncio.gather(*(taken(worker(store), RESTORED) for _ in range(6)))
    assert {origin.number for origin in found} == {2}


async def test_what_is_on_record_has_a_bound(store: Store) -> None:
    origins = Origins(store, settle_s=0)
    for number in range(KEPT + 5):
        await origins.of(replace(HOME, database=100 + number))
    fields = await store.command("HKEYS", keys.origins(), key=keys.origins())
    assert len(fields) <= 3 * KEPT + 2
    assert (await Origins(store, settle_s=0).of(replace(HOME, database=100))).number == KEPT + 6, "it is a new one"


async def test_a_source_of_which_only_the_kind_counts(store: Store) -> None:
    origins = worker(store)
    assert await origins.of_kind("catalog") == Origin(1, first=True)
    assert await worker(store).of_kind("catalog") == Origin(1, first=True)
    with pytest.raises(SourceExchanged, match="it was catalog, and is gumnut"):
        await worker(store).of_kind("gumnut")


async def test_an_operator_knows_better(store: Store) -> None:
    """After pg_upgrade everything is where it was, and only its name is new."""
    service, command = worker(store), worker(store)
    await service.of(HOME)
    upgraded = replace(HOME, system="7002", written=1100)
    assert await command.accept(upgraded, same=True) == (2, True)
    assert await service.of(upgraded) == Origin(2, 1100, ((1, EVER),), first=True)
    assert service.told(time.time_ns() // 1000) == ""
    assert await command.accept(upgraded, same=True) == (2, False)
    again = replace(upgraded, system="7003")
    assert await command.accept(again, same=True) == (3, True)
    assert await service.of(again) == Origin(3, 1100, ((2, EVER), (1, EVER)), first=True)
    promoted = replace(again, timeline=2, replayed=1050, loading=("asset",))
    assert await service.of(promoted) == Origin(4, 1100, ((3, 1050), (2, EVER), (1, EVER)), first=True)


async def test_one_that_was_taken_already_can_still_be_the_same(store: Store) -> None:
    service, command = worker(store), worker(store)
    await service.of(HOME)
    assert await command.accept(RESTORED, same=False) == (2, True)
    assert await service.of(RESTORED) == Origin(2, RESTORED.written)
    assert await command.accept(RESTORED, same=False) == (2, False)
    assert await command.accept(RESTORED, same=True) == (2, True)
    assert (await worker(store).of(RESTORED)).follows == ((1, EVER),)
    assert await worker(store).accept(HOME, same=True) == (1, False), "there is none before it"
