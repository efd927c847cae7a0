"""The state of a session at milestones: written by who comes by, believed only on its chain, checked, made anew."""

from __future__ import annotations

import asyncio
from unittest.mock import ANY

import msgspec
import pytest

from ledger import keys
from ledger.commands import CreateSession, EndSession, RequestReset
from ledger.log import milestones
from ledger.log.formats import FORMAT
from ledger.log.service import Ledger
from ledger.log.state_fields import session_fields
from ledger.log.stored_sessions import find_strays
from ledger.log.whole import mark_new
from ledger.personal import plain
from ledger.state import State
from ledger.store.interface import Store
from projections.checking.rebuild import Rebuild
from projections.checking.verify import verify
from projections.history.event_pages import EventPages
from projections.history.state_at import fold_at
from tests.support.ledger.given import NOW
from tests.support.ledger.ledgers import Clock, sid_of

EVERY = 16
EVENTS = 100
PHONE, TABLET = map(sid_of, ("phone", "tablet"))


class Told:
    """A ledger of one partition with two long sessions, and what each was at each of its events."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = Clock()
        self.ledger = Ledger(store, 1, self.clock)
        self.past = EventPages(store)
        self.then: dict[str, list[State]] = {PHONE: [], TABLET: []}

    async def fill(self, events: int = EVENTS) -> None:
        await mark_new(self.store, 1)
        for sid in self.then:
            self.then[sid].append(await self.ledger.execute("ann", sid, CreateSession("ann", "photos")))
        for number in range(1, events):
            self.clock.now_us += 1000
            for sid in self.then:
                state = await self.ledger.execute("ann", sid, RequestReset(number % 2 == 1, plain("ann")))
                self.then[sid].append(state)

    async def fields(self, fewest: int) -> dict[bytes, bytes]:
        """Read the milestones once there are so many: they are written behind what they are of."""
        async with asyncio.timeout(20):
            while True:
                flat = await self.store.command("HGETALL", keys.milestones(0), key=keys.milestones(0))
                if len(flat) // 2 >= fewest:
                    return dict(zip(flat[::2], flat[1::2], strict=True))
                await asyncio.sleep(0.01)

    async def begun_at(self, sid: str, seq: int) -> int:
        """Tell from which event on the state at another one is folded; 0: from the first."""
        (entry,) = (await self.past.page(0, sid, top_seq=seq, count=1)).entries
        state = (await self.past.state_before(0, sid, entry)).state
        return 0 if state is None else state.seq

    async def put(self, sid: str, number: int, value: bytes) -> None:
        await self.store.command("HSET", keys.milestones(0), f"{sid}:{number}", value, key=keys.milestones(0))


@pytest.fixture
async def told(valkey_store: Store, monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(milestones, "EVERY", EVERY)
    told = Told(valkey_store)
    await told.fill()
    return told


def kept(state: State) -> bytes:
    return msgspec.msgpack.encode((FORMAT, session_fields(state), {}))


async def test_every_instant_is_folded_from_the_milestone_before_it(told: Told) -> None:
    assert len(await told.fields(2 * (EVENTS // EVERY))) == 2 * (EVENTS // EVERY)
    for seq in (1, EVERY - 1, EVERY, EVERY + 1, EVENTS - 1, EVENTS):
        moment = await fold_at(told.past, 0, PHONE, NOW + (seq - 1) * 1000)
        assert moment.state == told.then[PHONE][seq - 1]
        assert moment.last.recorded.seq == seq
        assert await told.begun_at(PHONE, seq) == seq // EVERY * EVERY


async def test_who_folds_past_milestones_that_are_not_there_writes_them(told: Told) -> None:
    await told.fields(2 * (EVENTS // EVERY))
    await milestones.remove(told.store, 0)
    moment = await fold_at(told.past, 0, PHONE, NOW + EVENTS * 1000)
    assert moment.state == told.then[PHONE][-1]
    assert len(await told.fields(1)) == EVENTS // EVERY
    assert await told.begun_at(PHONE, EVENTS) == EVENTS // EVERY * EVERY


async def test_what_is_not_on_the_chain_or_cannot_be_read_is_not_believed(told: Told) -> None:
    newest = EVENTS // EVERY
    await told.fields(2 * newest)
    state = told.then[PHONE][newest * EVERY - 1]
    for value in (
        kept(msgspec.structs.replace(state, hash=bytes(32))),
        kept(msgspec.structs.replace(state, seq=EVENTS + 1)),
        msgspec.msgpack.encode((FORMAT + 1, {}, {})),
        b"",
        b"\xff",
    ):
        await told.put(PHONE, newest, value)
        assert await told.begun_at(PHONE, EVENTS) == (newest - 1) * EVERY
        assert (await fold_at(told.past, 0, PHONE, NOW + EVENTS * 1000)).state == told.then[PHONE][-1]


async def test_verify_names_those_that_differ_and_rebuild_makes_them_anew(told: Told) -> None:
    before = await told.fields(2 * (EVENTS // EVERY))
    assert (await verify(told.store, 1)).different == 0
    wrong = msgspec.structs.replace(told.then[PHONE][EVERY - 1], library="another")
    await told.put(PHONE, 1, kept(wrong))
    await told.put(TABLET, 2, b"\xff")
    await told.put(TABLET, 3, msgspec.msgpack.encode((FORMAT + 1, {}, {})))  # a newer version's
    found = await verify(told.store, 1)
    assert [(one.session, one.what) for one in found.differences] == [
        (PHONE, "its milestone 16 is not what its events say"),
        (TABLET, "its milestone 32 is not what its events say"),
    ]
    assert found.repairable == 2
    await Rebuild(told.store, "again").session(0, PHONE)
    assert [one.session for one in (await verify(told.store, 1)).differences] == [TABLET]
    await Rebuild(told.store, "again").repair(0, await find_strays(told.store, 1))
    assert (await verify(told.store, 1)).different == 0
    assert (await told.fields(0)).keys() == before.keys()


async def test_a_session_that_has_ended_keeps_its_own(told: Told) -> None:
    before = await told.fields(2 * (EVENTS // EVERY))
    told.clock.now_us += 1000
    await told.ledger.execute("ann", PHONE, EndSession("logout", plain("ann")))
    assert (await verify(told.store, 1)).different == 0
    await Rebuild(told.store, "again").repair(0, await find_strays(told.store, 1))
    assert (await told.fields(0)).keys() == before.keys()
    assert (await fold_at(told.past, 0, PHONE, told.clock.now_us)).state.ended == "logout"
    assert await told.begun_at(PHONE, EVENTS + 1) == EVENTS // EVERY * EVERY, "its page is folded from there"


async def test_of_each_session_so_many_are_kept_and_none_of_what_is_archived(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    await told.fields(2 * (EVENTS // EVERY))
    await milestones.remove(told.store, 0, before_us=told.then[PHONE][3 * EVERY - 1].at_us)
    assert sorted(int(field.partition(b":")[2]) for field in await told.fields(0)) == [4, 4, 5, 5, 6, 6]
    monkeypatch.setattr(milestones, "MOST", 2)
    await milestones.write(told.store, 0, [told.then[PHONE][7 * EVERY - EVERY - 1], told.then[TABLET][6 * EVERY - 1]])
    assert sorted(int(field.partition(b":")[2]) for field in await told.fields(0)) == [5, 5, 6, 6]


async def test_no_instant_that_is_looked_at_makes_them_more(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    await told.fields(2 * (EVENTS // EVERY))
    await milestones.remove(told.store, 0)
    monkeypatch.setattr(milestones, "MOST", 2)
    for seq in (2 * EVERY, 3 * EVERY, EVENTS):
        moment = await fold_at(told.past, 0, PHONE, NOW + (seq - 1) * 1000)
        assert moment.state == told.then[PHONE][seq - 1]
    newest = EVENTS // EVERY
    assert await told.fields(0) == {f"{PHONE}:{n}".encode(): ANY for n in (newest - 1, newest)}


async def test_those_that_are_too_old_go_though_some_were_never_written(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    await told.fields(2 * (EVENTS // EVERY))
    monkeypatch.setattr(milestones, "MOST", 2)
    newest = EVENTS // EVERY
    await milestones.write(told.store, 0, [told.then[PHONE][newest * EVERY - 1]])
    ours = [field for field in await told.fields(0) if field.startswith(PHONE.encode())]
    assert sorted(ours) == [f"{PHONE}:{n}".encode() for n in (newest - 1, newest)]


async def test_what_cannot_be_written_keeps_nobody_from_an_answer(told: Told) -> None:
    name = keys.milestones(0)
    await told.fields(2 * (EVENTS // EVERY))
    await told.store.command("DEL", name, key=name)
    await told.store.command("SET", name, "no hash", key=name)
    await milestones.write(told.store, 0, [told.then[PHONE][EVERY - 1]])
    state = await told.ledger.execute("ann", PHONE, RequestReset(False, plain("ann")))
    assert state.seq == EVENTS + 1
    assert (await fold_at(told.past, 0, PHONE, told.clock.now_us)).state == state
    assert [one.repairable for one in (await verify(told.store, 1)).differences] == [False]
    await Rebuild(told.store, "again").session(0, PHONE)
    assert (await verify(told.store, 1)).different == 0
