"""API keys: shown once, kept as a hash, good for their scopes until revoked."""

from __future__ import annotations

import pytest

from ledger import keys
from ledger.errors import InvalidInput
from projections.api_keys import PREFIX, SCOPES, ApiKeys
from tests.fake_store import FakeStore


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


@pytest.mark.parametrize("name", ["x" * 101, "a\nb"])
async def test_a_name_is_short_and_printable(name: str) -> None:
    with pytest.raises(InvalidInput):
        await ApiKeys(FakeStore()).create(SCOPES, name=name, now_us=1)
