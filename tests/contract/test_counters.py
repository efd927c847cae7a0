"""Counters on every kind of store: added up for all workers, over a bounded set of names."""

from __future__ import annotations

import asyncio

import pytest

from ledger import keys
from ledger.store.interface import Store
from projections.counters import COUNTERS, OTHER, Count, Counters

pytestmark = pytest.mark.each_store


async def test_nothing_was_counted(store: Store) -> None:
    counts = await Counters(store).all()
    assert {each.name for each in counts} == set(COUNTERS)
    assert {each.value for each in counts} == {0}
    assert Count("limited", "bad_token", 0) in counts
    assert Count("bad_tokens", "", 0) in counts


async def test_counts_of_all_workers_add_up(store: Store) -> None:
    one, other = Counters(store), Counters(store)
    await asyncio.gather(*(each.add("bad_tokens") for each in (one, other) for _ in range(50)))
    await one.add("limited", what="sign_in")
    found = {(each.name, each.label_value): each.value for each in await other.all()}
    assert found["bad_tokens", ""] == 100
    assert found["limited", "sign_in"] == 1
    assert sum(found.values()) == 101


async def test_the_hash_is_bounded_whatever_is_counted(store: Store) -> None:
    counters = Counters(store)
    for n in range(50):
        await counters.add("sign_in_refused", reason=f"made up {n}")
    assert await store.command("HLEN", keys.counters(), key=keys.counters()) == 1
    assert Count("sign_in_refused", OTHER, 50) in await counters.all()


async def test_a_counter_nobody_knows_is_a_mistake(store: Store) -> None:
    counters = Counters(store)
    for name, labels in (("no_such", {}), ("bad_tokens", {"reason": "x"}), ("limited", {}), ("limited", {"why": "x"})):
        with pytest.raises(KeyError):
            await counters.add(name, **labels)
    assert await store.command("EXISTS", keys.counters(), key=keys.counters()) == 0


async def test_fields_of_another_version_are_left_out(store: Store) -> None:
    await store.command("HSET", keys.counters(), "later_counter{x=y}", 5, key=keys.counters())
    assert all(each.value == 0 for each in await Counters(store).all())
