"""A session at any instant is what it was when it was that instant."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from contextlib import suppress
from typing import Any, Final

import pytest
from hypothesis import given as forall
from hypothesis import settings
from hypothesis import strategies as st

from ledger import keys
from ledger.commands import Command, CreateSession, EndSession, RequestReset
from ledger.errors import CorruptLedger, LayoutError, NoSuchSession, Refused, SessionEnded
from ledger.events import SyncResetRequested, encode_event
from ledger.keys import partition_of
from ledger.log.append import load
from ledger.log.service import Ledger
from ledger.log.whole import mark_new
from ledger.personal import plain
from ledger.positions import iso_from_us
from ledger.state import State
from ledger.store.interface import Store, open_store
from projections.history.event_pages import EventPages, Page
from projections.history.state_at import StateThen, describe, fold_at
from tests.support.ledger.given import CREATED, NOW, SID, acks, clear, commands, endings, offer
from tests.support.ledger.given import ack as ack_of
from tests.support.ledger.ledgers import Clock, Log, sid_of
from tests.support.stores.servers import RedisServer

INSTANTS: Final = 30
SECOND_US: Final = 1_000_000
HOUR_US: Final = 3600 * SECOND_US
PARTITIONS: Final = 2

checked: list[int] = []

steps: Final = st.lists(
    st.tuples(st.sampled_from((SID, sid_of("second"))), commands, st.sampled_from((1, 1, 40, 1_000_000, HOUR_US))),
    min_size=5,
    max_size=30,
)


class Witness:
    """Carries out commands and notes, at each instant, what the hashes hold."""

    def __init__(self, store: Store) -> None:
        self.clock = Clock()
        self.ledger = Ledger(store, PARTITIONS, self.clock)
        self.past = EventPages(store)
        self.noted: dict[str, list[tuple[int, State | None]]] = {}

    @property
    def partition(self) -> int:
        return self.ledger.partition_of(CREATED.user)

    async def execute(self, sid: str, command: Command, pass_us: int = 1) -> None:
        with suppress(Refused, SessionEnded):  # what is on record of a refusal changes the state too
            await self.ledger.execute(CREATED.user, sid, command)
        for known in self.noted:
            state = await load(self.ledger.store, self.partition, known, NOW, seen=False)
            self.noted[known].append((self.clock.now_us, state))
        self.clock.now_us += pass_us

    async def sign_in(self, sid: str) -> None:
        self.noted[sid] = []
        await self.execute(
            sid, CreateSession("ann", "photos", device_type=plain("iPhone"), expires_at_us=NOW + 9 * HOUR_US)
        )

    def at(self, sid: str, at_us: int) -> State | None:
        """Tell what was noted at an instant or last before it; None before the beginning and after the end."""
        index = bisect_right(self.noted[sid], at_us, key=lambda pair: pair[0])
        return self.noted[sid][index - 1][1] if index else None


async def check(url: str, story: list[tuple[str, Command, int]], ending: Command, dice: random.Random) -> None:
    store = await open_store(url)
    await mark_new(store, PARTITIONS)
    witness = Witness(store)
    for sid in (SID, sid_of("second")):
        await witness.sign_in(sid)
    for sid, command, pass_us in story:
        await witness.execute(sid, command, pass_us)
    ended_us = witness.clock.now_us
    await witness.execute(SID, ending, 1000)
    for _ in range(INSTANTS):
        sid = dice.choice(list(witness.noted))
        at_us = dice.choice((dice.choice(witness.noted[sid])[0], dice.randint(NOW - 2, witness.clock.now_us)))
        if at_us < witness.noted[sid][0][0]:
            with pytest.raises(NoSuchSession, match=f"created at {iso_from_us(witness.noted[sid][0][0])}"):
                await fold_at(witness.past, witness.partition, sid, at_us)
        else:
            moment = await fold_at(witness.past, witness.partition, sid, at_us)
            told = describe(moment, at_us)
            then = witness.at(sid, at_us)
            if then is None:
                assert (sid, at_us >= ended_us) == (SID, True)
                assert told.ended is not None
                assert (told.status, told.ended.at) == ("ended", iso_from_us(ended_us))
                assert told.ended.reason == moment.state.ended == getattr(ending, "reason", None)
            else:
                assert moment.state == then
                assert told.status == ("living" if then.lives_at(at_us) else "expired")
                assert told.event.hash == then.hash.hex()
        checked.append(at_us)
    await store.close()


@pytest.mark.parametrize(("examples", "instants"), [(10, 200), pytest.param(45, 1000, marks=pytest.mark.soak)])
def test_at_many_instants_the_fold_is_what_lived_then(shared_valkey: RedisServer, examples: int, instants: int) -> None:
    checked.clear()

    @settings(max_examples=examples)
    @forall(steps, endings, st.randoms(use_true_random=False))
    def at_random_instants(story: list[tuple[str, Command, int]], ending: Command, dice: random.Random) -> None:
        shared_valkey.flush()
        asyncio.run(check(shared_valkey.url, story, ending, dice))

    at_random_instants()
    assert len(checked) >= instants


@pytest.fixture
async def witness(store: Store) -> Witness:
    """A session that synced, was asked to start over, did so, and was signed out: an event a second."""
    witness = Witness(store)
    await witness.sign_in(SID)
    for command in (
        offer("AssetV2", snapshot_us=NOW),
        acks(ack_of("AssetV2", NOW - 5, "a1")),
        RequestReset(on=True, by=plain("ann")),
        clear(cause="reset_acked", reset=True),
        EndSession("revoked", by=plain("bob")),
    ):
        witness.clock.now_us = NOW + len(witness.noted[SID]) * SECOND_US
        await witness.execute(SID, command)
    return witness


async def then(witness: Witness, seconds: float) -> StateThen:
    at_us = NOW + int(seconds * SECOND_US)
    return describe(await fold_at(witness.past, witness.partition, SID, at_us), at_us)


async def test_it_is_told_in_words(witness: Witness) -> None:
    told = {seconds: await then(witness, seconds) for seconds in (0, 1.5, 2, 3, 4, 5, 500)}
    seqs = {
        seconds: (state.event.seq, state.status, state.pending_reset, state.epoch) for seconds, state in told.items()
    }
    assert seqs == {
        0: (1, "living", False, 1), 1.5: (2, "living", False, 1), 2: (3, "living", False, 1),
        3: (4, "living", True, 1), 4: (5, "living", False, 2), 5: (6, "ended", False, 2), 500: (6, "ended", False, 2),
    }  # fmt: skip
    assert told[0].checkpoints == told[4].checkpoints == {}
    held = told[3].checkpoints["AssetV2"]
    assert (held.ack, held.acknowledged_at) == (f"AssetV2|{iso_from_us(NOW - 5)}|a1", iso_from_us(NOW + 2 * SECOND_US))
    assert [(offer.snapshot, offer.types) for offer in told[3].offered] == [
        (iso_from_us(NOW), ("AssetV2", "SyncCompleteV1"))
    ]
    assert told[4].offered == []
    ended = told[500].ended
    assert ended is not None
    assert (ended.reason, ended.by, ended.at) == ("revoked", "bob", iso_from_us(NOW + 5 * SECOND_US))
    assert (told[0].device_type, told[0].user, told[0].library) == ("iPhone", "ann", "photos")


async def test_over_without_an_event_that_says_so(store: Store) -> None:
    witness = Witness(store)
    await witness.sign_in(SID)
    hour = HOUR_US // SECOND_US
    assert [(await then(witness, hours * hour)).status for hours in (8.9, 9.1)] == ["living", "expired"]


async def test_it_looks_at_no_projection(witness: Witness, store: Store) -> None:
    sid = sid_of("second")
    witness.clock.now_us = NOW
    await witness.sign_in(sid)
    await witness.execute(sid, offer("AssetV2", snapshot_us=NOW))
    expected = await fold_at(witness.past, witness.partition, sid, NOW + HOUR_US)
    name = keys.session(witness.partition, sid)
    await store.command("HSET", name, "library", "other", "epoch", "7", key=name)
    await store.command("HSET", keys.checkpoints(witness.partition, sid), "AssetV2", "1|x|1", key=name)
    assert await fold_at(witness.past, witness.partition, sid, NOW + HOUR_US) == expected


async def test_a_chain_that_was_changed_is_not_believed(witness: Witness, store: Store) -> None:
    name = keys.stream(witness.partition)
    rows = await store.command("XRANGE", name, "-", "+", key=name)
    await store.command("DEL", name, key=name)
    for stream_id, flat in rows:
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        if fields[b"seq"] == b"4":
            fields[b"event"] = encode_event(SyncResetRequested(True, plain("eve")))
        flat = [part for pair in fields.items() for part in pair]
        await store.command("XADD", name, stream_id, *flat, key=name)
    assert (await then(witness, 2)).event.seq == 3
    with pytest.raises(CorruptLedger, match="hash") as caught:
        await then(witness, 5)
    assert caught.value.details["seq"] == 4


class Cut(EventPages):
    """A past whose oldest events lie in an archive that nobody reads."""

    async def page(self, *args: Any, **options: Any) -> Page:
        walk = await super().page(*args, **options)
        kept = [entry for entry in walk.entries if entry.recorded.seq >= 3]
        return walk._replace(entries=kept, below_floor=len(kept) < len(walk.entries))


async def test_without_the_archive_nothing_is_folded_from_the_middle(witness: Witness) -> None:
    for at_us in (NOW - 5, NOW, NOW + HOUR_US):
        with pytest.raises(LayoutError, match="LEDGER_ARCHIVE"):
            await fold_at(Cut(witness.ledger.store), witness.partition, SID, at_us)


async def test_a_session_that_never_was(store: Store) -> None:
    witness = Witness(store)
    await witness.sign_in(SID)
    with pytest.raises(NoSuchSession):
        await fold_at(witness.past, witness.partition, "0" * 64, NOW)


async def test_a_long_history(store: Store) -> None:
    log = Log(store, partition=partition_of("ann", PARTITIONS))
    state = await log.create(SID)
    for second in range(1, 1101):
        state = await log.append(
            state, SyncResetRequested(second % 2 == 1, plain("ann")), at_us=NOW + second * SECOND_US
        )
    for seq in (1, 2, 499, 500, 501, 1000, 1001, 1100, 1101):
        moment = await fold_at(EventPages(store), log.partition, state.sid, NOW + (seq - 1) * SECOND_US)
        assert (moment.state.seq, moment.state.pending_reset) == (seq, seq % 2 == 0)
