"""Two versions on one ledger: nothing newer is written than all who run can read."""

from __future__ import annotations

import pytest

from ledger import keys
from ledger.errors import LayoutError
from ledger.log.formats import FORMAT, LEASE_US, OLDEST, Formats
from ledger.log.store_check import check_format, open_layout
from ledger.store.interface import Store
from tests.support.ledger.given import NOW

NEWER = FORMAT + 1


@pytest.fixture
async def ledger(real_store: Store) -> Store:
    await open_layout(real_store, 4, NOW)
    return real_store


async def test_a_newer_format_is_written_once_nobody_who_runs_is_too_old(ledger: Store) -> None:
    old, new = Formats(ledger, FORMAT), Formats(ledger, NEWER)
    await old.note("old", "1.0", NOW)
    for after_us in (0, 60_000_000, LEASE_US - 1):
        await new.note("new", "2.0", NOW + after_us)
        assert new.current == FORMAT
    runs = await new.note("new", "2.0", NOW + LEASE_US)
    assert new.current == NEWER
    assert [(each.name, each.newest, each.version) for each in runs] == [("new", NEWER, "2.0")]
    await old.running(NOW + LEASE_US)
    assert old.current == NEWER, "who still runs learns of it"


async def test_a_renewed_note_holds_the_format(ledger: Store) -> None:
    old, new = Formats(ledger, FORMAT), Formats(ledger, NEWER)
    for minute in range(20):
        now_us = NOW + minute * 60_000_000
        await old.note("old", "1.0", now_us)
        await new.note("new", "2.0", now_us)
    assert new.current == FORMAT
    assert {each.name for each in await new.running(now_us)} == {"old", "new"}
    assert [each.name for each in await new.finish(now_us)] == ["old"]
    assert new.current == FORMAT
    await new.finish(now_us, whoever_runs=True)
    assert new.current == NEWER


async def test_a_version_alone_writes_what_it_knows_and_never_goes_back(ledger: Store) -> None:
    new, old = Formats(ledger, NEWER), Formats(ledger, FORMAT)
    await new.note("new", "2.0", NOW)
    assert new.current == NEWER
    await old.note("old", "1.0", NOW + 1)
    assert old.current == NEWER
    await new.note("new", "2.0", NOW + 2)
    assert new.current == NEWER


async def test_an_older_version_refuses_with_words_and_so_does_one_that_is_too_new(ledger: Store) -> None:
    await Formats(ledger, NEWER).finish(NOW)
    with pytest.raises(LayoutError, match=f"format {NEWER}.*upgrade the service"):
        await open_layout(ledger, 4, NOW)
    with pytest.raises(LayoutError, match="a version in between"):
        check_format(OLDEST - 1)


async def test_the_note_of_a_clock_that_was_wrong_holds_nobody_up_for_good(ledger: Store) -> None:
    old, new = Formats(ledger, FORMAT), Formats(ledger, NEWER)
    await old.note("old", "1.0", NOW + 365 * 86_400_000_000)
    await new.note("new", "2.0", NOW)
    assert new.current == NEWER


async def test_notes_do_not_gather(ledger: Store) -> None:
    for number in range(50):
        await Formats(ledger).note(f"worker {number}", "1.0", NOW + number * LEASE_US)
    held = await ledger.command("HKEYS", keys.meta(), key=keys.meta())
    assert len([field for field in held if field.startswith(b"runs:")]) == 1
