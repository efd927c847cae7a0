"""What is kept of types that apps ask for in vain, on every backend."""

from __future__ import annotations

import pytest

from ledger.store.interface import Store
from projections.unknown_types import AGAIN_S, KEPT_US, MOST, UnknownTypes
from tests.support.phones.http import START_US


@pytest.mark.each_store
async def test_names_are_bounded_in_number_and_time(store: Store) -> None:
    clock_s = 0.0
    unknown = UnknownTypes(store, lambda: clock_s)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for first in letters:
        await unknown.note([f"{first}{second}V1" for second in letters.lower()], START_US)
    found = await unknown.all(START_US)
    assert len(found) == MOST
    assert len(unknown._noted_s) <= MOST
    kept = found[0].name
    await unknown.note([kept], START_US + 5)
    assert (await unknown.all(START_US))[0].last_us == START_US, "at most hourly"
    clock_s += AGAIN_S
    await unknown.note([kept], START_US + 5)
    assert (await unknown.all(START_US))[0].last_us == START_US + 5
    assert await unknown.all(START_US + KEPT_US + 6) == []
    clock_s += AGAIN_S
    await unknown.note(["MoodsV1"], START_US + KEPT_US + 6)
    assert [one.name for one in await unknown.all(START_US + KEPT_US + 6)] == ["MoodsV1"], "old ones make room"
