"""Users whose identity's claim names another user: kept until they agree, bounded, on every backend."""

from __future__ import annotations

import logging

import pytest

import projections.accounts.claim_conflicts
from ledger.store.interface import Store
from projections.accounts.claim_conflicts import ClaimConflicts
from projections.counters import Counters


@pytest.mark.each_store
async def test_a_conflict_is_told_until_the_claim_agrees(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    conflicts = ClaimConflicts(store)
    await conflicts.note("ann", None)
    await conflicts.note("ann", "ann")
    assert (await conflicts.all(), await conflicts.told()) == ({}, "")
    assert caplog.records == []
    await conflicts.note("ann", "bob")
    await conflicts.note("ann", "carl")
    await conflicts.note("dan", "bob")
    assert await conflicts.all() == {"ann": "carl", "dan": "bob"}
    assert "2 users" in await conflicts.told()
    assert "user ann signed in with an identity whose claim names user bob" in caplog.records[0].getMessage()
    assert caplog.records[0].levelno == logging.WARNING
    await conflicts.note("ann", "ann")
    await conflicts.note("dan", None)
    assert await conflicts.all() == {}
    counts = {count.name: count.value for count in await Counters(store).all()}
    assert counts["claim_conflicts"] == 3


@pytest.mark.each_store
async def test_as_many_are_kept_as_can_be_read_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections.accounts.claim_conflicts, "MOST", 3)
    conflicts = ClaimConflicts(store)
    for user in ("a", "b", "c", "d"):
        await conflicts.note(user, "x")
    await conflicts.note("a", "y")
    assert await conflicts.all() == {"a": "y", "b": "x", "c": "x"}
    assert "3 or more users" in await conflicts.told()
