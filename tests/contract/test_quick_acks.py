"""Acks on their quick way and on the plain one: the same happens to both of two sessions that live the same life."""

from __future__ import annotations

from random import Random
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.acks import RESET_ACK, Ack, completion
from ledger.admission import Caller
from ledger.commands import ClearCheckpoints, CreateSession, EndSession, OfferStream, RequestReset
from ledger.entity_types import COMPLETE, mask_of
from ledger.errors import LedgerError, StoreFull, StoreReplyError
from ledger.errors import SessionEnded as SessionOver
from ledger.events import HistoryLost, SessionEnded, SyncResetRequested
from ledger.figures.of_log import ACKS, CONFLICTS, EVENTS, LogFigures
from ledger.log import quick_acks
from ledger.log.append import MARK_EVERY, append, place
from ledger.log.quick_acks import APPEND_ONE, WRITTEN, quick_ack
from ledger.log.reader import read_partition, walk
from ledger.log.service import Ledger
from ledger.log.whole import mark_new
from ledger.personal import plain
from ledger.positions import Position
from ledger.state import State
from ledger.store.interface import Store, TakesPacked, open_store
from projections.checking.verify import verify
from tests.support.ledger.given import CREATED, NOW, SNAPSHOT, cleared, moved, offered
from tests.support.ledger.ledgers import Clock, Log, section, sid_of
from tests.support.ledger.lost_tail import Tail
from tests.support.stores.losing_proxy import LosingProxy
from tests.support.stores.servers import RedisServer

PARTITIONS = 4
MINE = keys.partition_of(CREATED.user, PARTITIONS)
TYPES = ("AssetV1", "AlbumV2")
CREATE = CreateSession("ann", "photos")


class Plainly:
    """A store that takes no packed calls."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.command, self.script = store.command, store.script
        self.each_primary, self.close = store.each_primary, store.close


class Twin:
    """A session, the two workers that serve it, and what its acks were answered."""

    def __init__(self, name: str, workers: list[Ledger]) -> None:
        self.workers = workers
        self.sid = sid_of(name)
        self.caller = Caller("ann", self.sid, bytes.fromhex(self.sid))
        self.said: list[str] = []

    async def acts(self, worker: int, command: Any) -> None:
        """Carry a command out at one of the workers; RecordAcks are sent as an app does."""
        ledger = self.workers[worker]
        try:
            if isinstance(command, tuple):
                await ledger.acknowledge(self.caller, command)
            else:
                await ledger.execute(
                    "ann", self.sid, command, None if isinstance(command, RequestReset) else self.caller
                )
        except LedgerError as error:
            self.said.append(f"{type(error).__name__} {error}")
        else:
            self.said.append("")


def happens(dice: Random, number: int) -> Any:
    """Throw what happens next."""
    position = Position(NOW + dice.randrange(number * 3, number * 3 + 8), dice.choice(("", "a", "b")))
    ack = Ack(dice.choice(TYPES), position, dice.choice((1, 1, 1, 2, 3)))
    seldom = (
        OfferStream(NOW + 10 * number, mask_of([COMPLETE, *TYPES])),
        OfferStream(NOW + 10 * number, mask_of([COMPLETE, *TYPES])),
        ClearCheckpoints(mask_of(TYPES[:1]), "deleted"),
        RequestReset(dice.random() < 0.5, plain("admin")),
        (ack, replace_position(ack)),
        (completion(NOW + 5 * number, mask_of(TYPES), 1),),
        (RESET_ACK,),
        (),
    )
    return (ack,) if dice.random() < 0.7 else dice.choice(seldom)


def replace_position(ack: Ack) -> Ack:
    """Move an ack on by a bit."""
    return replace(ack, position=Position(ack.position.at_us + 1, ack.position.id))


def counted(figures: LogFigures) -> dict[Any, float]:
    """Tell what was counted of events, acks and conflicts."""
    families = (EVENTS.name, ACKS.name, CONFLICTS.name)
    return {(name, labels): figures.values[at] for name in families for labels, at in figures.places(name).items()}


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 40))])
async def test_both_ways_do_the_same(store: Store, seed: int) -> None:
    clock, dice = Clock(), Random(seed)
    figures = [LogFigures(), LogFigures()]
    stores: list[Any] = [store, Plainly(store)]
    twins = [
        Twin(name, [Ledger(each, PARTITIONS, clock, figures=tally) for _ in range(2)])
        for name, each, tally in zip(("quick", "plain"), stores, figures, strict=True)
    ]
    for twin in twins:
        await twin.workers[0].execute("ann", twin.sid, CREATE)
        for worker in (0, 1):
            await twin.acts(worker, OfferStream(NOW + 20, mask_of([COMPLETE, *TYPES])))
            await twin.workers[worker].admit(twin.caller)
    for number in range(1, 60):
        clock.now_us += 1000
        command, worker = happens(dice, number), dice.randrange(2)
        for twin in twins:
            await twin.acts(worker, command)
            if dice.random() < 0.05:
                await store.each_primary("SCRIPT", "FLUSH")
    for twin in twins:
        await twin.acts(0, EndSession("logout"))
        await twin.acts(1, (Ack(TYPES[0], Position(NOW + 1, "")),))
    assert twins[0].said == twins[1].said
    events = {twin.sid: list[Any]() for twin in twins}
    async for entries in read_partition(store, twins[0].workers[0].partition_of("ann")):
        for entry in entries:
            events[entry.recorded.sid].append((entry.recorded.seq, entry.recorded.at_us, entry.recorded.raw))
    quick, plainly = events.values()
    assert quick == plainly
    assert counted(figures[0]) == counted(figures[1])
    assert (await verify(store, PARTITIONS)).differences == []


async def test_almost_all_acks_of_an_app_take_the_quick_way(
    valkey_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    await ledger.execute("ann", sid_of("quick"), CREATE)
    twin, plainly = Twin("quick", [ledger]), list[Any]()
    act = ledger.act

    def noting(caller: Caller, command: Any) -> Any:
        plainly.append(command)
        return act(caller, command)

    await ledger.admit(twin.caller)
    await twin.acts(0, OfferStream(NOW + 20, mask_of([COMPLETE, *TYPES])))
    monkeypatch.setattr(ledger, "act", noting)
    await valkey_store.each_primary("SCRIPT", "FLUSH")
    for number in range(10):
        await twin.acts(0, (Ack(TYPES[number % 2], Position(NOW + number, "a")),))
    assert (len(plainly), twin.said) == (1, [""] * 11), "the first one, for which the server lacks the script"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_ack_whose_connection_was_lost_is_on_record_once(
    valkey_server: RedisServer, when: Literal["before", "after"]
) -> None:
    async with LosingProxy(valkey_server.port) as proxy:
        through, direct = await open_store(proxy.url), await open_store(valkey_server.url)
        await mark_new(direct, PARTITIONS)
        ledger = Ledger(through, PARTITIONS, Clock())
        await ledger.execute("ann", sid_of("quick"), CREATE)
        twin = Twin("quick", [ledger])
        await ledger.admit(twin.caller)
        await twin.acts(0, OfferStream(NOW + 20, mask_of([COMPLETE, *TYPES])))
        await twin.acts(0, (Ack(TYPES[0], Position(NOW + 1, "a")),))  # which loads the script
        proxy.lose(when, APPEND_ONE)
        await twin.acts(0, (Ack(TYPES[0], Position(NOW + 2, "a")),))
        assert (proxy.lost, twin.said) == (1, [""] * 3)
        state = await Ledger(direct, PARTITIONS, Clock()).load("ann", twin.sid)
        assert (state.seq, state.checkpoints[TYPES[0]].position) == (4, Position(NOW + 2, "a"))
        await through.close()
        await direct.close()


@pytest.mark.each_store
@pytest.mark.parametrize("left", ["the beginning", "nothing"])
async def test_an_ack_makes_good_what_the_store_lost_as_a_plain_one_does(store: Store, left: str) -> None:
    """Its device may be ahead of what is left: the hole is put on record, and it is asked to start over."""
    told: list[tuple[list[type], str, State]] = []
    for each in (store, Plainly(store)):
        name = "quick" if each is store else "plain"
        ledger, tail = Ledger(each, PARTITIONS, Clock()), Tail(store)
        twin = Twin(name, [ledger])
        if left == "nothing":
            await tail.note()
        await ledger.execute("ann", twin.sid, CREATE)
        await ledger.admit(twin.caller)
        await twin.acts(0, OfferStream(NOW + 20, mask_of([COMPLETE, *TYPES])))
        if left == "the beginning":
            await tail.note()
        for number in range(3):
            await twin.acts(0, (Ack(TYPES[0], Position(NOW + number, "a")),))
        await tail.lose()
        await twin.acts(0, (Ack(TYPES[0], Position(NOW + 5, "a")),))
        page = await walk(store, ledger.partition_of("ann"), twin.sid, count=9)
        assert page is not None
        events = [type(entry.recorded.event) for entry in page.entries][::-1]
        told.append((events, twin.said[-1], await Ledger(store, PARTITIONS, Clock()).load("ann", twin.sid)))
    quick, plainly = told
    assert (quick[0], quick[1]) == (plainly[0], plainly[1])
    for events, _, state in told:
        hole = events.index(HistoryLost)
        assert hole == (2 if left == "the beginning" else 0)
        assert SyncResetRequested in events[hole:]
        assert (state.pending_reset, state.seq >= 5) == (True, True)
    assert (await verify(store, PARTITIONS)).differences == []


async def test_an_ack_that_is_taken_note_of_behind_a_sign_out_lets_nobody_in_where_the_store_lost_both(
    real_store: Store,
) -> None:
    """A cluster's replies are heard of a turn later than a sign-out's, or one of the two on another connection."""
    ledger, tail, twin = Ledger(real_store, PARTITIONS, Clock()), Tail(real_store), Twin("quick", [])
    await ledger.execute("ann", twin.sid, CREATE)
    await ledger.admit(twin.caller)
    await ledger.execute("ann", twin.sid, OfferStream(NOW + 20, mask_of([COMPLETE, *TYPES])), twin.caller)
    await ledger.acknowledge(twin.caller, (Ack(TYPES[0], Position(NOW, "a")),))  # which loads the script
    await tail.note()
    begun = ledger.begin_ack(twin.caller, Ack(TYPES[0], Position(NOW + 1, "a")))
    assert begun is not None
    assert await begun.reply == WRITTEN
    await ledger.execute("ann", twin.sid, EndSession("logout"))
    assert ledger.took_ack(begun)
    await tail.lose()
    await ledger.losses.compare()
    with pytest.raises(SessionOver):
        await Ledger(real_store, PARTITIONS, Clock()).load("ann", twin.sid)
    assert (await verify(real_store, PARTITIONS)).differences == []


@pytest.fixture
async def begun(real_store: Store) -> State:
    """A session of which AssetV1 and AlbumV2 were offered, in the partition that its user has."""
    assert isinstance(real_store, TakesPacked)
    await real_store.load(APPEND_ONE, keys.stream(MINE))
    log = Log(real_store, MINE)
    return await log.append(await log.create(), offered(COMPLETE, *TYPES))


async def lies(store: Store, partition: int, sid: str) -> list[Any]:
    """Read all that an ack may change in a partition, with each stream id as the number of its event."""
    names = [keys.stream(partition), keys.session(partition, sid)]
    names += [keys.checkpoints(partition, sid), keys.marks(partition, sid), keys.activity(partition)]
    commands = (("XRANGE", "-", "+"), ("HGETALL",), ("HGETALL",), ("LRANGE", 0, -1), ("ZRANGE", 0, -1, "WITHSCORES"))
    found = [
        await store.command(command, name, *rest, key=name)
        for (command, *rest), name in zip(commands, names, strict=True)
    ]
    numbers = {row[0]: number for number, row in enumerate(found[0])}
    stream = [[numbers.get(value, value) for value in row[1]] for row in found[0]]
    return [stream, *([numbers.get(value, value) for value in flat] for flat in found[1:])]


async def test_both_scripts_leave_the_same(real_store: Store, begun: State) -> None:
    """As many acks as make two marks, of a session in its partition and of one like it in another."""
    other = Log(real_store, MINE + 1)
    same = await other.append(await other.create(), offered(COMPLETE, *TYPES))
    assert same == begun
    state = begun
    for number in range(70):
        of, now_us = Ack(TYPES[number % 2], Position(SNAPSHOT - 100 + number, "é")), NOW + number
        quick = quick_ack(state, of, PARTITIONS, now_us)
        assert quick is not None
        assert await real_store.packed(APPEND_ONE, quick.key, quick.call) == WRITTEN  # type: ignore[attr-defined]
        assert await append(real_store, MINE + 1, [place(state, state.sid, (quick.event,), now_us)], now_us) is None
        state = quick.after
    quickly, plainly = [await lies(real_store, partition, state.sid) for partition in (MINE, MINE + 1)]
    assert quickly == plainly
    assert len(quickly[3]) == 2, "marks"


@pytest.mark.parametrize("behind", ["another version", "another seq", "another event of that seq", "its end"])
async def test_behind_another_writer_nothing_is_written(real_store: Store, begun: State, behind: str) -> None:
    log, state = Log(real_store, MINE), begun
    if behind == "another version":
        await log.append(state, cleared())
    elif behind == "another seq":
        state = replace(state, seq=state.seq + 1)
    elif behind == "another event of that seq":
        state = replace(state, hash=bytes(32))
    else:
        await log.try_append(section(state, SessionEnded("logout")))
    before = await lies(real_store, MINE, state.sid)
    quick = quick_ack(state, Ack(TYPES[0], Position(SNAPSHOT - 1, "a")), PARTITIONS, NOW)
    assert quick is not None
    assert await real_store.packed(APPEND_ONE, quick.key, quick.call) != WRITTEN  # type: ignore[attr-defined]
    assert await lies(real_store, MINE, state.sid) == before


@pytest.mark.parametrize("damaged", ["stream", "session", "checkpoints", "marks"])
async def test_a_key_of_a_wrong_type_stops_it_before_its_first_write(
    real_store: Store, begun: State, damaged: str
) -> None:
    log, state = Log(real_store, MINE), begun
    while state.seq < MARK_EVERY - 1:
        state = await log.append(state, moved(Ack(TYPES[0], Position(SNAPSHOT - 100 + state.seq, "a"))))
    names = {"stream": keys.stream(MINE)}
    names |= {kind.__name__: kind(MINE, state.sid) for kind in (keys.session, keys.checkpoints, keys.marks)}
    wrong = names[damaged]
    await real_store.command("DEL", wrong, key=wrong)
    await real_store.command("SET", wrong, "x", key=wrong)
    before = [await real_store.command("DUMP", name, key=name) for name in names.values()]
    quick = quick_ack(state, Ack(TYPES[0], Position(SNAPSHOT - 1, "a")), PARTITIONS, NOW)
    assert quick is not None
    with pytest.raises(StoreReplyError, match="WRONGTYPE"):
        await real_store.packed(APPEND_ONE, quick.key, quick.call)  # type: ignore[attr-defined]
    assert [await real_store.command("DUMP", name, key=name) for name in names.values()] == before


async def test_at_the_memory_limit_an_ack_is_refused_and_taken_later(valkey_store: Store) -> None:
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    await ledger.execute("ann", sid_of("quick"), CREATE)
    twin = Twin("quick", [ledger])
    await ledger.admit(twin.caller)
    await twin.acts(0, OfferStream(NOW + 20, mask_of([COMPLETE, *TYPES])))
    await twin.acts(0, (Ack(TYPES[0], Position(NOW + 1, "a")),))
    await valkey_store.each_primary("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(StoreFull):
            await ledger.acknowledge(twin.caller, (Ack(TYPES[0], Position(NOW + 2, "a")),))
    finally:
        await valkey_store.each_primary("CONFIG", "SET", "maxmemory", 0)
    await twin.acts(0, (Ack(TYPES[0], Position(NOW + 3, "a")),))
    state = await ledger.load("ann", twin.sid)
    assert (state.seq, state.checkpoints[TYPES[0]].position) == (4, Position(NOW + 3, "a"))


def test_what_is_remembered_of_calls_is_bounded() -> None:
    assert quick_acks._begins.cache_parameters()["maxsize"] == quick_acks.REMEMBERED == 4096
