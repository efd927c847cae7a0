"""API keys: shown once, kept as a hash, good for their scopes until revoked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ledger import keys
from ledger.errors import InvalidInput
from ledger.store.scripts import Arg
from projections.accounts.api_keys import NOTED_FOR_US, PREFIX, SCOPES, ApiKeys
from tests.support.ledger.ledgers import Clock
from tests.support.stores.fake_store import FakeStore


async def test_a_key_is_found_by_its_text_only() -> None:
    api_keys = ApiKeys(FakeStore())
    text, made = await api_keys.create(["entities.write", "audit.read", "audit.read"], name="ci", now_us=5)
    assert text.startswith(PREFIX)
    assert made.scopes == ("entities.write", "audit.read")
    assert await api_keys.find(text) == made
    for other in ("", text[:-1], text + "x", made.id, made.hash, "é" * 40, "\ud800", "x" * 100_000):
        assert await api_keys.find(other) is None


async def test_the_key_itself_is_nowhere_in_the_store() -> None:
    store = FakeStore()
    text, _ = await ApiKeys(store).create(["audit.read"], name="ci", now_us=5)
    stored = await store.command("HGETALL", keys.api_keys(), key=keys.api_keys())
    assert text.removeprefix(PREFIX).encode() not in b"".join(stored)


async def test_keys_are_listed_oldest_first_and_revoked_by_id() -> None:
    api_keys = ApiKeys(FakeStore())
    assert await api_keys.all() == []
    later_text, later = await api_keys.create(["audit.read"], name="b", now_us=2)
    _, earlier = await api_keys.create(["audit.read"], name="a", now_us=1)
    assert await api_keys.all() == [earlier, later]
    assert await api_keys.revoke(later.id) is True
    assert await api_keys.revoke(later.id) is False
    assert await api_keys.find(later_text) is None
    assert await api_keys.all() == [earlier]


@pytest.mark.parametrize("scopes", [[], ["everything"], ["audit.read", ""]])
async def test_a_key_needs_known_scopes(scopes: list[str]) -> None:
    with pytest.raises(InvalidInput):
        await ApiKeys(FakeStore()).create(scopes, name="", now_us=1)


@pytest.mark.parametrize("scopes", [["metrics.read"], ["entities.read", "audit.read"]])
async def test_what_is_of_no_library_is_not_bound_to_one(scopes: list[str]) -> None:
    with pytest.raises(InvalidInput, match="Validation") as caught:
        await ApiKeys(FakeStore()).create(scopes, name="", now_us=1, library="photos")
    assert f"{scopes[-1]} cannot be bound to a library" in caught.value.problems[0][1]
    with pytest.raises(InvalidInput):
        await ApiKeys(FakeStore()).create(["entities.read"], name="", now_us=1, library="a b")


async def test_an_earlier_version_finds_a_bound_key_without_scopes() -> None:
    """It reads the fields it knows; `scopes` is the one that it admits by."""
    store = FakeStore()
    await ApiKeys(store).create(["entities.read"], name="", now_us=1, library="photos")
    (_, raw) = await store.command("HGETALL", keys.api_keys(), key=keys.api_keys())
    assert json.loads(raw)["scopes"] == []


@pytest.mark.parametrize("name", ["x" * 101, "a\nb"])
async def test_a_name_is_short_and_printable(name: str) -> None:
    with pytest.raises(InvalidInput):
        await ApiKeys(FakeStore()).create(SCOPES, name=name, now_us=1)


class CountingStore(FakeStore):
    """A store that counts the notes of use, and waits with them until they may be written."""

    def __init__(self) -> None:
        super().__init__()
        self.notes = 0
        self.may_write = asyncio.Event()
        self.may_write.set()

    async def command(self, *args: Arg, key: bytes) -> Any:
        if args[0] == "HSET" and key == keys.api_keys_used():
            self.notes += 1
            await self.may_write.wait()
        return await super().command(*args, key=key)


async def noted(api_keys: ApiKeys) -> dict[str, int]:
    """Let notes on their way arrive, and read them."""
    for _ in range(20):
        await asyncio.sleep(0)
    return await api_keys.used_ms()


async def test_the_last_use_of_a_key_is_noted_once_a_minute() -> None:
    store, clock = CountingStore(), Clock()
    api_keys = ApiKeys(store, clock)
    text, made = await api_keys.create(["audit.read"], name="", now_us=1)
    other, _ = await api_keys.create(["audit.read"], name="", now_us=1)
    assert await noted(api_keys) == {}
    began_us = clock.now_us
    for _ in range(50):
        await api_keys.find(text)
        clock.now_us += NOTED_FOR_US // 50
    assert await noted(api_keys) == {made.id: began_us // 1000}
    assert store.notes == 1
    await api_keys.find(text)
    assert await noted(api_keys) == {made.id: (began_us + NOTED_FOR_US) // 1000}
    assert store.notes == 2
    assert await api_keys.find(f"{other}x") is None
    assert len(await noted(api_keys)) == 1


async def test_nobody_waits_for_the_note() -> None:
    store = CountingStore()
    api_keys = ApiKeys(store)
    text, made = await api_keys.create(["audit.read"], name="", now_us=1)
    store.may_write.clear()
    assert await asyncio.wait_for(api_keys.find(text), 5) == made
    assert await noted(api_keys) == {}
    store.may_write.set()
    assert set(await noted(api_keys)) == {made.id}


async def test_a_note_that_failed_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    store = CountingStore()
    api_keys = ApiKeys(store)
    text, made = await api_keys.create(["audit.read"], name="", now_us=1)
    name = keys.api_keys_used()
    await store.command("SET", name, "of another type", key=name)
    assert await api_keys.find(text) == made
    await asyncio.sleep(0.01)
    assert "could not be noted" in caplog.text
    assert text not in caplog.text
    await store.command("DEL", name, key=name)
    assert await api_keys.find(text) == made
    assert set(await noted(api_keys)) == {made.id}


async def test_a_revoked_key_leaves_no_note_also_if_one_comes_late() -> None:
    store = CountingStore()
    api_keys = ApiKeys(store)
    text, made = await api_keys.create(["audit.read"], name="", now_us=1)
    kept_text, kept = await api_keys.create(["audit.read"], name="", now_us=1)
    await api_keys.find(kept_text)
    store.may_write.clear()
    await api_keys.find(text)
    assert await api_keys.revoke(made.id) is True
    store.may_write.set()
    assert set(await noted(api_keys)) == {made.id, kept.id}
    assert await api_keys.revoke(made.id) is False
    assert set(await noted(api_keys)) == {kept.id}


async def test_a_key_that_cannot_be_read_keeps_none_of_the_others() -> None:
    store = FakeStore()
    api_keys = ApiKeys(store)
    _, good = await api_keys.create(["audit.read"], name="", now_us=1)
    await store.command("HSET", keys.api_keys(), "bad", "x", key=keys.api_keys())
    assert await api_keys.all_with_damaged() == ([good], ["bad"])
    assert await api_keys.all() == [good]
