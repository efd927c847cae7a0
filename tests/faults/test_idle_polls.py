"""Polls that find nothing are answered from what a worker remembers: always just as the plain path answers them.

Two workers serve one ledger. One answers as the service does; the other loads everything anew, and has no memory to
answer from. Whatever happened before, both give the same status and bytes, put the same on record and count the same.
What happens is thrown by dice: phones sync, acknowledge in part, sign out and in; rows are written, deleted and purged;
somebody resets, describes, erases; the store loses its newest writes, an index or all it holds, and gets it back.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from random import Random
from typing import Any, Final, NamedTuple, cast

import httpx
import pytest

from endpoints.figures.of_streams import BYTES, ENDED, FIRST, OPEN, ROWS, SECONDS, TURNS, StreamFigures
from endpoints.sync import idle_polls
from endpoints.sync.idle_polls import Foreseen, IdlePolls
from ledger import keys
from ledger.commands import EndSession, RequestReset, Resend, RotateToken
from ledger.entity_types import COMPLETE, mask_of
from ledger.errors import LedgerError
from ledger.log import append
from ledger.log.service import Ledger
from ledger.log.stored_sessions import find_strays
from ledger.personal import plain
from ledger.state import State
from ledger.store.interface import Store, open_store
from ledger.store.scripts import Script
from projections.accounts.erasure import unlink_user
from projections.accounts.tokens import Issued, digest
from projections.checking.rebuild import Rebuild
from projections.entities.catalog import catalog, library_summary
from projections.entities.catalog.catalog import Catalog
from projections.entities.entity import read_line
from projections.entities.registry import entity_types_for
from projections.entities.source import Library, Outlook
from tests.support.ledger.lives import delete_projections
from tests.support.phones.http import PARTITIONS, SECOND_US, Service
from tests.support.sources.samples import sample

LIBRARIES: Final = ("photos", "other")
HOUR_US: Final = 3600 * SECOND_US
WANTED: Final = (
    ("AuthUsersV1", "UsersV1", "AssetsV2", "AlbumsV2"),
    ("AssetsV2",),
    ("AlbumsV2", "AssetsV2", "AssetsV2"),
    (),
)
STEPS: Final = 40
SOAKED: Final = 40


class Forgetful(Catalog):
    """A catalog that remembers no library: each poll of its takes the plain path."""

    def outlook(self, library: str, user: str) -> Outlook | None:
        return None


class Reading(Ledger):
    """A ledger that reads whole what it admits, whatever it remembers."""

    async def load(self, user: str, sid: str, known: State | None = None) -> State:
        return await super().load(user, sid)


class Phone:
    """A session and what its app asks for."""

    def __init__(self, issued: Issued, user: str, wanted: tuple[str, ...]) -> None:
        self.sid, self.token, self.user, self.wanted = issued.sid, issued.token, user, wanted


class Reply(NamedTuple):
    """What a poll was answered."""

    status: int
    body: bytes

    @property
    def acks(self) -> list[str]:
        """The last ack of each type, as an app sends them."""
        lines = [json.loads(line) for line in self.body.splitlines()] if self.status == 200 else []
        return list({line["type"]: line["ack"] for line in lines}.values())

    @property
    def is_idle(self) -> bool:
        """Whether there was nothing to send."""
        return self.body.startswith(f'{{"type":"{COMPLETE}"'.encode())


class World:
    """Phones of two users and two libraries, before two workers of one ledger."""

    def __init__(self, store: Store, quick: Service, plainly: Service, dice: Random) -> None:
        self.store, self.quick, self.plainly, self.dice = store, quick, plainly, dice
        self.clients = [
            httpx.AsyncClient(transport=httpx.ASGITransport(cast(Any, each.app)), base_url="http://test")
            for each in (quick, plainly)
        ]
        self.phones: list[Phone] = []
        self.saved: dict[bytes, bytes] = {}
        self.happened: list[str] = []
        self.orders = [(0, 1), (1, 0)]
        self.written = self.polls = self.from_memory = 0

    @property
    def either(self) -> Service:
        """One of the workers."""
        return self.dice.choice((self.quick, self.plainly))

    async def poll(self, phone: Phone) -> Reply:
        """Poll at both workers, in any order; raises AssertionError where anything differs."""
        self.polls += 1
        wanted = {"types": phone.wanted}
        first, second = self.dice.choice(self.orders)
        headers = {"authorization": f"Bearer {phone.token}"}
        before = [counted(each.services.figures.streams) for each in (self.quick, self.plainly)]
        replies, appended = list[Reply](), [await self.events()]
        for number in (first, second):
            answer = await self.clients[number].post("/api/sync/stream", json=wanted, headers=headers)
            replies.append(Reply(answer.status_code, answer.content))
            appended.append(await self.events())
            self.from_memory += number == 0 and "transfer-encoding" not in answer.headers and replies[-1].is_idle
        assert replies[0] == replies[1], f"behind {self.happened}: worker {first} and {second}"
        assert appended[2] == appended[1], f"behind {self.happened}: only worker {second} put something on record"
        quick, plainly = (counted(each.services.figures.streams) for each in (self.quick, self.plainly))
        assert {name: count - before[0][name] for name, count in quick.items()} == {
            name: count - before[1][name] for name, count in plainly.items()
        }, f"behind {self.happened}"
        return replies[0]

    async def events(self) -> int:
        """Count all that is on record."""
        names = [keys.stream(partition) for partition in range(PARTITIONS)]
        return sum([await self.store.command("XLEN", name, key=name) for name in names])

    async def sync(self, phone: Phone) -> None:
        """Sync to the end, as an app does, and poll once more."""
        for _ in range(5):
            reply = await self.poll(phone)
            if reply.status != 200 or not await self.acknowledge(phone, reply.acks) or reply.is_idle:
                break
        await self.poll(phone)

    async def acknowledge(self, phone: Phone, acks: list[str]) -> bool:
        """Send acks to one of the workers; tells whether they were taken."""
        client, headers = self.dice.choice(self.clients), {"authorization": f"Bearer {phone.token}"}
        return (await client.post("/api/sync/ack", json={"acks": acks}, headers=headers)).status_code == 204

    # What happens

    async def sign_in(self, phone: Phone | None = None) -> None:
        """Sign in, at times as a session that belongs to another one."""
        user, library = (phone.user, LIBRARIES[0]) if phone else (self.dice.choice(("ann", "bob")), LIBRARIES[0])
        parent = phone.sid if phone and self.dice.random() < 0.5 else None
        expires = self.quick.clock() + 30 * HOUR_US if self.dice.random() < 0.2 else None
        with suppress(LedgerError):
            issued = await self.quick.sign_in(user, library, parent=parent, expires_at_us=expires)
            self.phones.append(Phone(issued, user, self.dice.choice(WANTED[:3])))

    async def acks_in_part(self, phone: Phone) -> None:
        acks = (await self.poll(phone)).acks
        await self.acknowledge(phone, self.dice.sample(acks, min(1, len(acks))))

    async def write(self, phone: Phone) -> None:
        await self.write_one(self.dice.choice(("AssetV2", "AlbumV2", "PersonV1")))

    async def write_one(self, kind: str) -> None:
        """Write a row of a type anew."""
        self.written += 1
        fields: dict[str, dict[str, Any]] = {"AssetV2": {"width": self.written}, "AlbumV2": {"name": f"{self.written}"}}
        changes = fields.get(kind, {})
        await self._put(kind, sample(kind, **changes))

    async def delete(self, phone: Phone) -> None:
        kind = self.dice.choice(("AssetDeleteV1", "AlbumDeleteV1"))
        await self._put(kind, sample(kind))

    async def _put(self, kind: str, data: dict[str, Any]) -> None:
        line = read_line(json.dumps({"type": kind, "data": data}).encode())
        owner = read_line(json.dumps({"type": "UserV1", "data": sample("UserV1")}).encode())
        await self.either.catalog.put(LIBRARIES[0], [owner, line])

    async def purge(self, phone: Phone) -> None:
        """Forget a delete that a phone heard of, but perhaps not that it was all; others ask first, or nobody."""
        if self.dice.random() < 0.5:
            await self.delete(phone)
            await self.poll(phone)
        await self.purge_all()
        if self.dice.random() < 0.5:
            await self.poll(self.dice.choice(self.phones))

    async def purge_all(self) -> None:
        """Forget all deletes."""
        held = self.either.catalog
        await held.purge_tombstones(LIBRARIES[0], await held.horizon(LIBRARIES[0]))

    async def asked_to_reset(self, phone: Phone) -> None:
        with suppress(LedgerError):
            on = self.dice.random() < 0.7
            await self.either.ledger.execute(phone.user, phone.sid, RequestReset(on, plain("admin")))

    async def resets(self, phone: Phone) -> None:
        """Forget all by a stream of one worker; each such stream opens an epoch."""
        client, headers = self.dice.choice(self.clients), {"authorization": f"Bearer {phone.token}"}
        await client.post("/api/sync/stream", json={"types": phone.wanted, "reset": True}, headers=headers)

    async def forgets(self, phone: Phone) -> None:
        types = self.dice.choice((None, ["AssetV2"], ["AlbumDeleteV1"], [COMPLETE]))
        await self.forget(self.dice.choice(self.clients), phone, {"types": types} if types else {})

    async def forget(self, client: httpx.AsyncClient, phone: Phone, what: dict[str, Any]) -> None:
        """Clear checkpoints by one of the workers."""
        headers = {"authorization": f"Bearer {phone.token}"}
        await client.request("DELETE", "/api/sync/ack", json=what, headers=headers)

    async def ends(self, phone: Phone) -> None:
        with suppress(LedgerError):
            await self.either.ledger.execute(phone.user, phone.sid, EndSession("logout"))
        await self.poll(phone)
        await self.sign_in()

    async def parent_dies_alone(self, phone: Phone) -> None:
        """Have whoever ends a session die before what belongs to it ends too."""
        with suppress(LedgerError):
            child = Phone(await self.quick.sign_in(phone.user, LIBRARIES[0], parent=phone.sid), phone.user, WANTED[1])
            await self.sync(child)
            await self.either.ledger.families._end_first(phone.user, [phone.sid], EndSession("logout"))
            await self.poll(child)
        await self.sign_in()

    async def erased(self, phone: Phone) -> None:
        with suppress(LedgerError):
            await unlink_user(self.either.ledger, self.either.identities, phone.user, plain("admin"))
        await self.poll(phone)
        await self.sign_in()

    async def refreshes(self, phone: Phone) -> None:
        """Get a new token; at times the old one comes again, before its grace is over or behind that."""
        ledger, old = self.quick.ledger, phone.token
        with suppress(LedgerError):
            state = await ledger.load(phone.user, phone.sid)
            issued = self.quick.tokens.renew(state, self.quick.clock(), 50 * HOUR_US)
            rotate = RotateToken(state.token_in_use, digest(issued.token), state.token_number + 1, issued.expires_at_us)
            await self.either.ledger.execute(phone.user, phone.sid, rotate)
            phone.token = issued.token
            await self.poll(phone)
            if self.dice.random() < 0.5:
                self.advance(self.dice.choice((SECOND_US, 70 * SECOND_US)))
                phone.token = old
                await self.poll(phone)
                phone.token = issued.token
                await self.sign_in()  # it may have been signed out as one whose token was copied

    async def time_passes(self, phone: Phone) -> None:
        self.advance(self.dice.choice((SECOND_US, 2 * HOUR_US, 20 * HOUR_US)))

    def advance(self, us: int) -> None:
        self.quick.clock.now_us += us

    async def asks_for_other_types(self, phone: Phone) -> None:
        phone.wanted = self.dice.choice(WANTED)

    async def source_sends_otherwise(self, phone: Phone) -> None:
        revision = len(self.quick.catalog.resends) + 1
        resends = (*self.quick.catalog.resends, Resend(revision, mask_of(["AssetV2"])))
        self.quick.catalog.resends = self.plainly.catalog.resends = resends

    async def projections_are_lost(self, phone: Phone) -> None:
        await delete_projections(self.store, PARTITIONS)
        await self.poll(phone)
        made = Rebuild(self.store, "one")
        await made.partitions(range(PARTITIONS), await find_strays(self.store, PARTITIONS))

    async def session_is_lost(self, phone: Phone) -> None:
        """Lose a session's hash, in a partition that is whole or is not; perhaps it is known to be broken."""
        partition = self.quick.ledger.partition_of(phone.user)
        name, whole = keys.session(partition, phone.sid), keys.whole(partition)
        await self.store.command("DEL", name, key=name)
        where = self.dice.choice((None, keys.broken(partition), whole))
        if where == whole:
            await self.store.command("SET", whole, "rebuilding x", key=whole)
        elif where is not None:
            await self.store.command("HSET", where, phone.sid, "1-1", key=where)
        await self.poll(phone)
        for lost in (keys.broken(partition), whole):
            await self.store.command("DEL", lost, key=lost)
        await self.store.command("SET", whole, "1", key=whole)
        made = Rebuild(self.store, "one")
        await made.partitions(range(PARTITIONS), await find_strays(self.store, PARTITIONS))

    async def checkpoints_are_lost(self, phone: Phone) -> None:
        name = keys.checkpoints(self.quick.ledger.partition_of(phone.user), phone.sid)
        await self.store.command("DEL", name, key=name)

    async def library_is_lost(self, phone: Phone) -> None:
        name = keys.catalog_meta(LIBRARIES[0])
        await self.store.command("DEL", name, key=name)

    async def saves(self, phone: Phone) -> None:
        names = [name for found in await self.store.each_primary("KEYS", "*") for name in found]
        self.saved = {name: await self.store.command("DUMP", name, key=name) for name in names}

    async def store_goes_back(self, phone: Phone) -> None:
        """Lose all that was written since something; for a moment the store holds nothing."""
        if not self.saved:
            return
        await self.store.each_primary("FLUSHALL")
        await self.poll(phone)
        await self.store.each_primary("FLUSHALL")
        for name, held in self.saved.items():
            await self.store.command("RESTORE", name, 0, held, key=name)
        for each in (self.quick, self.plainly):  # what only one of them saw end, the other one hears of by this
            await each.ledger.losses.compare()

    async def live(self) -> None:
        """Let it all happen, and poll behind each step: that is what everything is for."""
        often: tuple[Callable[[Phone], Awaitable[None]], ...] = (self.write, self.acks_in_part, self.time_passes)
        seldom = (
            self.sign_in, self.delete, self.purge, self.asked_to_reset, self.resets, self.forgets, self.ends,
            self.parent_dies_alone, self.erased, self.refreshes, self.asks_for_other_types, self.source_sends_otherwise,
            self.projections_are_lost, self.session_is_lost, self.checkpoints_are_lost, self.library_is_lost,
            self.saves, self.saves, self.store_goes_back, self.store_goes_back,
        )  # fmt: skip
        await self.sign_in()
        for _ in range(STEPS):
            phone = self.dice.choice(self.phones[-4:])
            await self.sync(phone)
            happens = self.dice.choice(seldom if self.dice.random() < 0.7 else often)
            self.happened.append(happens.__name__)
            await happens(phone)
            await self.poll(phone)
            if self.dice.random() < 0.3:
                await self.poll(self.dice.choice(self.phones))


@asynccontextmanager
async def world(url: str, seed: int) -> AsyncIterator[World]:
    """Begin a ledger in an empty store and serve it twice."""
    stores = [await open_store(url) for _ in range(3)]
    quick = Service(stores[0])
    plainly = Service(stores[1], beside=quick, ledger=Reading, catalog=Forgetful)
    await stores[2].each_primary("FLUSHALL")
    try:
        for each in (quick, plainly):
            await each.open()
        yield World(stores[2], quick, plainly, Random(seed))
    finally:
        for store in stores:
            await store.close()


def counted(figures: StreamFigures) -> dict[str, float]:
    """Tell what was counted of streams, but how long they took."""
    ended = {how: figures.values[place] for (how,), place in figures.places(ENDED.name).items()}
    more = {name: figures.values[figures.place(name)] for name in (OPEN.name, ROWS.name, BYTES.name, TURNS.name)}
    buckets = {name: figures.place(name) for name in (FIRST.name, SECONDS.name)}
    widths = {family.name: family.width for family in figures.families}
    times = {name: sum(figures.values[at : at + widths[name] - 1]) for name, at in buckets.items()}
    return ended | more | times


def on_time(seeds: int) -> list[Any]:
    """Give the seeds of `make test`, and those that only `make soak` takes."""
    return [*range(seeds), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(seeds, SOAKED))]


@pytest.mark.parametrize("seed", on_time(2))
async def test_a_poll_is_answered_alike_from_memory_and_from_the_store(valkey_url: str, seed: int) -> None:
    async with world(valkey_url, seed) as found:
        await found.live()
    assert found.from_memory > found.polls // 8, "most of what phones do is to ask in vain"


# Each check that is left out shows

Sabotage = Callable[[pytest.MonkeyPatch, World], None]
Story = Callable[[World, Phone, Phone], Awaitable[None]]


class Hiding:
    """A library that tells something else than what is so."""

    def __init__(self, library: Library, **told: Any) -> None:
        self._library = library
        self.__dict__ |= told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)


def hides(**told: Any) -> Sabotage:
    """Have the quick worker's answers follow from a library that tells something else."""

    def sabotage(patch: pytest.MonkeyPatch, found: World) -> None:
        outlook = found.quick.catalog.outlook

        def hidden(library: str, user: str) -> Outlook | None:
            known = outlook(library, user)
            return known and Outlook(cast(Library, Hiding(known.library, **told)), known.origin)

        patch.setattr(found.quick.catalog, "outlook", hidden)

    return sabotage


def script_without(check: str, instead: str) -> Sabotage:
    """Leave a check out of the script that tells whether a session is as it is known."""

    def sabotage(patch: pytest.MonkeyPatch, found: World) -> None:
        assert check in append._LOAD.text
        patch.setattr(append, "_LOAD", Script("load", append._LOAD.text.replace(check, instead), allow_oom=True))

    return sabotage


def always(target: object, name: str, value: Any) -> Sabotage:
    """Have a function give the same, whatever it is asked."""

    def sabotage(patch: pytest.MonkeyPatch, found: World) -> None:
        patch.setattr(target, name, lambda *_: value)

    return sabotage


def purges_unseen(patch: pytest.MonkeyPatch, found: World) -> None:
    """Have a library count as it was whatever was purged of it."""
    for module in (catalog, library_summary):
        patch.setattr(module, "MARKS", ("last", "born"))


def still(patch: pytest.MonkeyPatch, found: World) -> None:
    """Have libraries stay as they were."""

    async def is_still(library: str, outlook: Outlook) -> bool:
        return True

    patch.setattr(found.quick.catalog, "is_still", is_still)


async def written(found: World, phone: Phone, other: Phone) -> None:
    await found.write_one("AssetV2")


async def written_and_read(found: World, phone: Phone, other: Phone) -> None:
    await found.write_one("AssetV2")
    await found.poll(phone)


async def other_type_written(found: World, phone: Phone, other: Phone) -> None:
    await found.write_one("PersonV1")
    await found.poll(other)


async def forgotten_elsewhere(found: World, phone: Phone, other: Phone) -> None:
    await found.forget(found.clients[1], phone, {})


async def reset_wanted(found: World, phone: Phone, other: Phone) -> None:
    await found.plainly.ledger.execute(phone.user, phone.sid, RequestReset(True, plain("admin")))


async def reset_sent(found: World, phone: Phone, other: Phone) -> None:
    await reset_wanted(found, phone, other)
    await found.poll(phone)


async def purged(found: World, phone: Phone, other: Phone) -> None:
    """Delete what the phone does not ask for, which it is told of, though it does not say that it heard it."""
    await found.write_one("AlbumV2")
    await found.sync(phone)
    await found._put("AlbumDeleteV1", sample("AlbumDeleteV1"))
    await found.poll(phone)
    await found.purge_all()


async def purged_and_others_know(found: World, phone: Phone, other: Phone) -> None:
    await purged(found, phone, other)
    await found.poll(other)


async def without_checkpoints(found: World, phone: Phone, other: Phone) -> None:
    await found.checkpoints_are_lost(phone)


async def without_parent(found: World, phone: Phone, other: Phone) -> None:
    await found.plainly.ledger.families._end_first("ann", [other.sid], EndSession("logout"))


SABOTAGES: Final[dict[str, tuple[Sabotage, Story]]] = {
    "whether the library is still so": (still, written),
    "whether the session is still so": (always(Foreseen, "is_of", True), forgotten_elsewhere),
    "whether a reset is due": (always(idle_polls, "reset_due", False), reset_sent),
    "whether there is something to send": (hides(has_after=lambda *_: False), written_and_read),
    "whether something is to be put on record": (always(idle_polls, "decide", ()), other_type_written),
    "what was purged": (hides(floor_us=0), purged_and_others_know),
    "what was purged since": (purges_unseen, purged),
    "the version": (script_without("seq == ARGV[4] and hash == ARGV[5]", "seq"), reset_wanted),
    "the checkpoints": (
        script_without("redis.call('HLEN', KEYS[2]) == tonumber(ARGV[6])", "true"),
        without_checkpoints,
    ),
    "the parents": (script_without("if over then", "if over and not same then"), without_parent),
}


@pytest.mark.parametrize("left_out", SABOTAGES)
async def test_a_check_that_is_left_out_is_noticed(
    valkey_url: str, left_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage, story = SABOTAGES[left_out]
    for broken in (False, True):
        async with world(valkey_url, 0) as found:
            found.orders = [(0, 1)]
            other = Phone(await found.quick.sign_in("ann", LIBRARIES[0]), "ann", WANTED[0])
            phone = Phone(await found.quick.sign_in("ann", LIBRARIES[0], parent=other.sid), "ann", WANTED[1])
            await found.write_one("AssetV2")
            for one in (other, phone):
                await found.sync(one)
            assert found.from_memory
            if broken:
                sabotage(monkeypatch, found)
            with pytest.raises(AssertionError) if broken else nullcontext():
                await story(found, phone, other)
                await found.poll(phone)
            monkeypatch.undo()


async def test_what_is_remembered_of_polls_is_bounded(valkey_url: str) -> None:
    async with world(valkey_url, 0) as found:
        polls = IdlePolls(found.quick.ledger, found.quick.catalog, most=3)
        rows = entity_types_for(WANTED[1])
        for _ in range(5):
            await found.sign_in()
        for phone in found.phones:
            await found.sync(phone)
            foreseen = polls.foresee_of(await found.quick.ledger.load(phone.user, phone.sid), rows)
            assert foreseen is not None
            assert await foreseen.line() is not None
        assert len(polls) == 3
    assert idle_polls.MOST == 4096
