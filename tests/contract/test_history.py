"""History over every store: pages from either end join to the whole, and a user's sessions to one story."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.acks import RESET_ACK
from ledger.commands import CreateSession, EndSession, OfferStream, RecordAcks, RequestReset
from ledger.entity_types import mask_of
from ledger.errors import CorruptLedger, NoSuchSession, Rebuilding
from ledger.log.reader import Entry, read_partition
from ledger.log.service import Ledger
from ledger.personal import plain
from ledger.store.interface import Store
from projections.history.event_pages import EventPages
from projections.history.session_history import HistoryEvent, Wanted, pages, readable
from projections.history.user_history import Place, sessions_of, user_pages
from tests.support.ledger.given import NOW, ack
from tests.support.ledger.ledgers import Clock, sid_of

PARTITIONS = 2
SECOND_US = 1_000_000


class Story:
    """Users whose devices come, act and go, by a clock that also runs back."""

    def __init__(self, store: Store, seed: int = 4) -> None:
        self.clock = Clock()
        self.ledger = Ledger(store, PARTITIONS, self.clock)
        self.dice = random.Random(seed)
        self.living: dict[str, list[str]] = {}
        self.sids: dict[str, list[str]] = {}

    async def sign_in(self, user: str) -> str:
        sid = sid_of(f"{user} {len(self.sids.get(user, ()))}")
        await self.ledger.execute(user, sid, CreateSession(user, "lib"))
        self.living.setdefault(user, []).append(sid)
        self.sids.setdefault(user, []).append(sid)
        return sid

    async def act(self, user: str, sid: str) -> None:
        choice, on = self.dice.random(), self.dice.random() < 0.5
        if choice < 0.1 and len(self.living[user]) > 1:
            self.living[user].remove(sid)
            await self.ledger.execute(user, sid, EndSession("logout", by=plain(user)))
        elif choice < 0.3:
            await self.ledger.execute(user, sid, RequestReset(on, by=plain(user)))
        elif choice < 0.6:
            offer = OfferStream(self.clock.now_us + 1, mask_of(["AssetV2", "AlbumV2"]))
            state = await self.ledger.execute(user, sid, offer)
            acked = RESET_ACK if state.reset_sent else ack("AssetV2", self.clock.now_us)
            await self.ledger.execute(user, sid, RecordAcks((acked,)))
        else:
            await self.ledger.execute(user, sid, OfferStream(self.clock.now_us, mask_of(["AlbumV2"])))

    async def tell(self, steps: int) -> None:
        for user in ("ann", "bob", "cat", "ann"):
            await self.sign_in(user)
        for _ in range(steps):
            self.clock.now_us += self.dice.choice((0, 0, 1, SECOND_US, -SECOND_US // 2))
            user = self.dice.choice(list(self.living))
            if self.dice.random() < 0.1:
                await self.sign_in(user)
            await self.act(user, self.dice.choice(self.living[user]))

    async def entries(self, user: str) -> list[Entry]:
        """All events of a user, by time, as they lie in the stream."""
        read = read_partition(self.ledger.store, self.ledger.partition_of(user))
        mine = [entry async for page in read for entry in page if entry.recorded.sid in self.sids[user]]
        return sorted(mine, key=Place.of)


@pytest.fixture
async def story(store: Store) -> Story:
    story = Story(store)
    for partition in range(PARTITIONS):
        await store.command("SET", keys.whole(partition), "1", key=keys.whole(partition))
    await story.tell(250)
    return story


async def session_events(story: Story, user: str, sid: str, wanted: Wanted, **how: Any) -> list[HistoryEvent]:
    partition = story.ledger.partition_of(user)
    return [
        event
        async for page in pages(EventPages(story.ledger.store), partition, sid, wanted, **how)
        for event in page.events
    ]


async def user_events(story: Story, user: str, wanted: Wanted, **how: Any) -> list[HistoryEvent]:
    partition = story.ledger.partition_of(user)
    read = user_pages(EventPages(story.ledger.store), partition, user, wanted, **how)
    return [event async for page in read for event in page.events]


def linked(entries: list[Entry]) -> list[HistoryEvent]:
    """Put all events of a session into words, each with the hash of the one before."""
    before = [b"", *(entry.recorded.hash for entry in entries)]
    return [readable(entry, None, previous) for entry, previous in zip(entries, before, strict=False)]


@pytest.mark.parametrize("size", [1, 3, 500])
async def test_a_session_reads_the_same_from_both_ends(story: Story, size: int) -> None:
    entries = await story.entries("ann")
    for sid in story.sids["ann"]:
        expected = linked([entry for entry in entries if entry.recorded.sid == sid])
        assert await session_events(story, "ann", sid, Wanted(), size=size, forward=True) == expected
        assert await session_events(story, "ann", sid, Wanted(), size=size) == expected[::-1]
        times = [entry.recorded.at_us for entry in entries if entry.recorded.sid == sid]
        for since_us, until_us in (
            (times[len(times) // 3], times[-1]),
            (0, times[len(times) // 2]),
            (times[-1] + 1, 0),
        ):
            span = [event for event, at in zip(expected, times, strict=True) if since_us <= at <= until_us]
            wanted = Wanted(since_us, until_us)
            assert await session_events(story, "ann", sid, wanted, size=size, forward=True) == span
            assert await session_events(story, "ann", sid, wanted, size=size) == span[::-1]


async def test_a_page_goes_on_where_the_one_before_ended(story: Story) -> None:
    sid = max(story.sids["ann"], key=lambda sid: sid in story.living["ann"])
    partition = story.ledger.partition_of("ann")
    for forward in (True, False):
        whole = await session_events(story, "ann", sid, Wanted(), forward=forward)
        beyond, found = None, []
        while True:
            reading = pages(EventPages(story.ledger.store), partition, sid, Wanted(), beyond, 2, forward=forward)
            page = await anext(reading)
            found += page.events
            assert len(page.events) == page.looked_at <= 2
            beyond = page.next_seq
            if beyond is None:
                break
        assert found == whole


@pytest.mark.parametrize("size", [1, 3, 500])
async def test_what_came_after_damage_is_told_of_and_then_the_damage(story: Story, size: int) -> None:
    entries = await story.entries("ann")
    sid = max(story.sids["ann"], key=lambda sid: sum(entry.recorded.sid == sid for entry in entries))
    mine = [entry for entry in entries if entry.recorded.sid == sid]
    partition, lost = story.ledger.partition_of("ann"), mine[len(mine) // 2]
    name = keys.stream(partition)
    await story.ledger.store.command("XDEL", name, lost.id, key=name)

    async def told(*, forward: bool) -> list[HistoryEvent]:
        """Read until the damage is told of."""
        events: list[HistoryEvent] = []
        reading = pages(EventPages(story.ledger.store), partition, sid, Wanted(), size=size, forward=forward)
        damage = ""
        while not damage:
            try:
                events += (await anext(reading)).events
            except CorruptLedger as error:
                damage = str(error)
        assert f"event {lost.id} is missing" in damage
        return events

    *behind, first_behind = linked(mine)[: len(mine) // 2 : -1]
    behind.append(replace(first_behind, previous_hash=None))  # what it links to is lost
    assert await told(forward=False) == behind
    assert behind
    before = await told(forward=True)
    assert before == linked(mine)[: len(before)], "none is left out in silence"
    assert len(before) <= len(mine) // 2


async def test_forwards_it_ends_with_the_newest_of_the_beginning(story: Story) -> None:
    sid, partition = story.living["ann"][0], story.ledger.partition_of("ann")
    reading = EventPages(story.ledger.store).runs(partition, sid, forward=True, size=1)
    first = await anext(reading)
    known = len(await session_events(story, "ann", sid, Wanted()))
    await story.ledger.execute("ann", sid, EndSession("logout"))
    assert [entry.recorded.seq for run in [first] for entry in run.entries] + [
        entry.recorded.seq async for run in reading for entry in run.entries
    ] == list(range(1, known + 1))


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_users_sessions_are_merged_by_time(story: Story, size: int, forward: bool) -> None:
    for user in story.sids:
        expected = [(entry.recorded.sid, readable(entry)) for entry in await story.entries(user)]
        found = await user_events(story, user, Wanted(), size=size, forward=forward)
        told = [(event.session, event.seq, event.hash, event.stream_id) for event in found]
        ordered = expected if forward else expected[::-1]
        assert told == [(sid, event.seq, event.hash, event.stream_id) for sid, event in ordered]
        assert [event.at for event in found] == sorted((event.at for event in found), reverse=not forward)


@pytest.mark.parametrize("forward", [True, False])
async def test_a_users_page_goes_on_from_its_place(story: Story, forward: bool) -> None:
    partition = story.ledger.partition_of("ann")
    whole = await user_events(story, "ann", Wanted(), forward=forward)
    beyond: Place | None = None
    found: list[HistoryEvent] = []
    while True:
        reading = user_pages(EventPages(story.ledger.store), partition, "ann", Wanted(), beyond, 3, forward=forward)
        page = await anext(reading)
        found += page.events
        if page.next_place is None:
            break
        beyond = Place.parse(page.next_place.text)
    assert found == whole
    hashes = {
        (entry.recorded.sid, entry.recorded.seq): entry.recorded.hash.hex() for entry in await story.entries("ann")
    }
    links = [hashes.get((event.session, event.seq - 1), "") for event in found]
    assert [event.previous_hash for event in found] == links


@pytest.mark.parametrize("forward", [True, False])
async def test_a_damaged_session_is_named_beside_the_users_others(story: Story, forward: bool) -> None:
    entries = await story.entries("ann")
    sid = max(story.sids["ann"], key=lambda sid: sum(entry.recorded.sid == sid for entry in entries))
    mine = [entry for entry in entries if entry.recorded.sid == sid]
    partition, lost = story.ledger.partition_of("ann"), mine[len(mine) // 2]
    await story.ledger.store.command("XDEL", name := keys.stream(partition), lost.id, key=name)
    read = user_pages(EventPages(story.ledger.store), partition, "ann", Wanted(), None, 3, forward=forward)
    pages = [page async for page in read]
    assert list(pages[-1].broken) == [sid]
    assert f"event {lost.id} is missing" in pages[-1].broken[sid]
    told = [event.hash for page in pages for event in page.events]
    others = [entry.recorded.hash.hex() for entry in entries if entry.recorded.sid != sid]
    assert sorted(set(told) - {entry.recorded.hash.hex() for entry in mine}) == sorted(others)
    its = [digest for digest in told if digest not in others]
    ahead = [entry.recorded.hash.hex() for entry in (mine if forward else mine[::-1])]
    assert its == ahead[: len(its)]
    assert len(its) <= len(mine) // 2


async def test_a_users_events_are_filtered(story: Story) -> None:
    entries = await story.entries("ann")
    since_us, until_us = entries[len(entries) // 4].recorded.at_us, entries[len(entries) // 2].recorded.at_us
    span = [readable(entry) for entry in entries if since_us <= entry.recorded.at_us <= until_us]
    wanted = Wanted(since_us, until_us)
    assert [event.hash for event in await user_events(story, "ann", wanted, forward=True)] == [e.hash for e in span]
    ended = [readable(entry).hash for entry in entries if readable(entry).event == "session_ended"]
    assert ended
    found = await user_events(story, "ann", Wanted(tag="session_ended"), forward=True)
    assert [event.hash for event in found] == ended
    words = [readable(entry) for entry in entries]
    about = [each.hash for each in words if "AssetV2" in str(each.data) or each.data.get("types", ()) is None]
    found = await user_events(story, "ann", Wanted(entity_type="AssetV2"), forward=True)
    assert [event.hash for event in found] == about


@pytest.mark.each_store
async def test_sessions_of_a_user_are_all_and_nobody_elses(story: Story, store: Store) -> None:
    for user in story.sids:
        assert await sessions_of(store, story.ledger.partition_of(user), user) == set(story.sids[user])
    # One whose name ends as another's does lies in the same partition.
    longer = next(f"{n}ann" for n in range(100) if keys.partition_of(f"{n}ann", 2) == keys.partition_of("ann", 2))
    sid = await story.sign_in(longer)
    await story.ledger.execute(longer, sid, EndSession("logout"))
    assert await sessions_of(store, story.ledger.partition_of("ann"), "ann") == set(story.sids["ann"])
    assert await sessions_of(store, story.ledger.partition_of(longer), longer) == {sid}


async def test_nobody_has_an_empty_page(store: Store) -> None:
    story = Story(store)
    await store.command("SET", keys.whole(0), "1", key=keys.whole(0))
    await store.command("SET", keys.whole(1), "1", key=keys.whole(1))
    assert await user_events(story, "nobody", Wanted()) == []
    with pytest.raises(NoSuchSession):
        await session_events(story, "nobody", "0" * 64, Wanted())


async def test_while_projections_are_lost_no_part_is_given_for_the_whole(story: Story, store: Store) -> None:
    name = keys.whole(story.ledger.partition_of("ann"))
    await store.command("DEL", name, key=name)
    with pytest.raises(Rebuilding):
        await user_events(story, "ann", Wanted())


@pytest.mark.parametrize("text", ["", "1", "1.2", "1.2-", "-1.2-3", "1.2-3x", f"1.{10**19}-1", "१.२-३"])
def test_a_place_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="next"):
        Place.parse(text)


def test_a_place_reads_back() -> None:
    place = Place(NOW, NOW // 1000, 7)
    assert Place.parse(place.text) == place
