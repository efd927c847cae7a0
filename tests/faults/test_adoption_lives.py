"""Random lives of a phone that syncs with Immich, then here, and back, some times over.

Immich's rules are written from its own source, ours are the real ones: what it leaves is adopted, `decide` and the fold
keep the session, and the real stream reads Immich's tables as the preset does. Syncs break off anywhere: before a run,
behind one whose ack is lost, in the middle of one that the app cut. Meanwhile everything is written to, shared and
taken back, by transactions that end late too; Immich's updates clear checkpoints, and it asks for resets.

In the end a phone holds every row as it is, and nothing that is gone: here, and with Immich behind that.

Left out is what nothing tells, so that no server can know it: a phone that Immich sent something and of which it never
heard again before the phone came here, and one that it emptied and never heard of again, where no checkpoint of it was
seen here before. And rows that Immich itself skips, of which it has its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest

from projections.immich.adoption import adopt
from tests.support.beside.phone import Phone, Rule
from tests.support.beside.tables import ME, Asset, Share
from tests.support.beside.weaker_rules import ABOVE_THE_HORIZON, MAINS_AS_THEY_ARE, WEAKER


def live(lives: range, rule: Rule = adopt) -> None:
    """Live lives; the first in which a row is missing, or held that is gone, is named."""

    async def all_of_them() -> None:
        for number in lives:
            try:
                await Phone(Random(number), rule).live()
            except AssertionError as error:
                error.add_note(f"in life {number}")
                raise

    asyncio.run(all_of_them())


def test_no_row_is_missing_whatever_a_phone_went_through() -> None:
    live(range(300))


@pytest.mark.soak
@pytest.mark.parametrize("part", range(30))
def test_no_row_is_missing_in_a_hundred_and_fifty_thousand_lives(part: int) -> None:
    live(range(5000 * part, 5000 * (part + 1)))


@pytest.mark.parametrize("rule", ["each type by itself", "backfill where it is"])
def test_a_rule_for_each_type_by_itself_would_lose_rows(rule: str) -> None:
    with pytest.raises(AssertionError, match="rows are missing"):
        live(range(100, 300), WEAKER[rule])


@pytest.mark.soak
@pytest.mark.parametrize("rule", WEAKER)
def test_whatever_is_left_out_of_the_rule_would_lose_rows(rule: str) -> None:
    with pytest.raises(AssertionError, match="rows are missing"):
        live(range(50_000), WEAKER[rule])


@pytest.mark.parametrize(
    ("before", "rule", "loses"),
    [
        (True, adopt, False),
        (False, adopt, False),
        (True, MAINS_AS_THEY_ARE, True),
        (False, ABOVE_THE_HORIZON, True),
    ],
)
def test_a_share_whose_transaction_ends_late_finds_the_device_in_front_of_it(
    before: bool, rule: Rule, loses: bool
) -> None:
    """An album is joined by a transaction that ends behind a phone's last sync with Immich.

    Immich would send what is in it as backfill, up to its newest ack E, though the share is older than E. Here rows
    behind the share stand as themselves, below E. `before`: it ends before the phone comes here, which a look at the
    shares tells; else right after, which only the horizon foresees.
    """
    phone = Phone(Random(1), rule)
    tables = phone.tables
    for owner, asset, album in ((ME, "known", "mine"), ("eve", "hidden", "theirs")):
        tables.assets[asset] = Asset("eve", tables.uuid7(), tables.uuid7())
        tables.albums[album] = tables.uuid7()
        tables.members[album, owner] = Share(tables.uuid7(), tables.uuid7())
    tables.tick(10)
    share = Share(tables.uuid7(), tables.uuid7())
    for link in (("theirs", "hidden"), ("mine", "known")):
        tables.tick(10)
        tables.links[link] = tables.uuid7()
    tables.tick(10)

    def end_late() -> None:
        tables.members["theirs", ME] = share
        tables.albums["theirs"] = tables.uuid7()

    async def switch() -> None:
        await phone.at_immich_as_it_is()
        tables.tick(2000 if before else 10)
        if before:
            end_late()
        await phone.look()
        if not before:
            end_late()
        await phone.settle()

    if loses:
        with pytest.raises(AssertionError, match="rows are missing"):
            asyncio.run(switch())
    else:
        asyncio.run(switch())


def test_what_is_sent_again_after_a_switch_is_bounded() -> None:
    """What Immich has sent to the end, and is older than the horizon, is not sent again, but for these kinds.

    Users of the second before the newest one that it has; an album that was joined in the millisecond of its last
    change. And of what is shared: rows of shares behind the first that is newer than the newest row of its kind, and
    changes in albums that are newer than the newest link there.
    """
    again: Counter[str] = Counter()
    held = 0
    for number in range(150):
        phone = Phone(Random(number))
        asyncio.run(phone.switch())
        users = sum(table == "user" for table, _ in phone.rows)
        assert phone.again["UserV1"] <= 2 * users, f"in life {number}"  # each stands in two places at most
        again += phone.again
        held += len(phone.rows)
    backfill, updates = ({name for name in again if part in name} for part in ("Backfill", "Update"))
    assert again.keys() <= {"UserV1", "AlbumV2"} | backfill | updates
    assert again.total() - again["UserV1"] <= held / 20, f"of {held} rows came again: {dict(again)}"
