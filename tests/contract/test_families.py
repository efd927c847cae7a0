"""The sessions of a user: bounded in number and depth, ended in bounded scripts; none outlives whom it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from ledger import keys
from ledger.admission import Caller
from ledger.commands import CreateSession, EndSession
from ledger.errors import Refused, SessionEnded, TooManySessions
from ledger.events import SessionCreated
from ledger.log.ancestry import DEPTH, DEPTH_READ
from ledger.log.families import ENDED_TOGETHER
from ledger.log.service import Ledger
from ledger.log.user_sessions import Heard
from ledger.log.whole import mark_new
from ledger.store.interface import Arg, Script, Store
from projections.checking.verify import verify
from tests.support.ledger.given import NOW, SNAPSHOT, ack, acks, offer
from tests.support.ledger.ledgers import Clock, Log, section, sid_of

PARTITIONS = 4
SID = sid_of("first")
LOGOUT = EndSession("logout")
SECOND_US = 1_000_000


class Watched:
    """A store that notes what its scripts are given, and that dies after so many of those that append."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.sizes: list[int] = []
        self.sections: list[int] = []
        self.left: int | None = None
        self.listed = 0

    async def script(self, script: Script, names: Sequence[bytes], args: Sequence[Arg]) -> Any:
        if script.name == "append":
            if self.left == 0:
                raise KeyboardInterrupt
            self.left = None if self.left is None else self.left - 1
            self.sections.append(int(args[3]))
            self.sizes.append(sum(len(str(arg)) for arg in (*names, *args)))
        return await self._store.script(script, names, args)

    async def command(self, *args: Arg, key: bytes) -> Any:
        reply = await self._store.command(*args, key=key)
        self.listed += len(reply[1]) // 2 if args[0] == "HSCAN" else 0
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def caller(sid: str) -> Caller:
    return Caller("ann", sid, bytes.fromhex(sid))


async def sign_in(ledger: Ledger, name: str, parent: str | None = None, **fields: Any) -> str:
    await ledger.execute("ann", sid_of(name), CreateSession("ann", "photos", parent=parent, **fields))
    return sid_of(name)


async def family(ledger: Ledger, count: int) -> list[str]:
    """Sign a device in, with so many that belong to it, in all depths."""
    sids = [await sign_in(ledger, "first")]
    for number in range(1, count):
        sids.append(await sign_in(ledger, f"child {number}", sids[(number - 1) // 3]))
    return sids


async def assert_refused(ledger: Ledger, sid: str) -> None:
    """See that nothing that a device may ask is answered."""
    with pytest.raises(SessionEnded):
        await ledger.admit(caller(sid))
    for command in (acks(ack("AssetV1", SNAPSHOT - 9)), offer("AlbumV2"), acks()):
        with pytest.raises(SessionEnded):
            await ledger.act(caller(sid), command)
    with pytest.raises(SessionEnded):
        await ledger.execute("ann", sid_of("of " + sid), CreateSession("ann", "photos", parent=sid))


@pytest.fixture
async def watched(store: Store) -> Watched:
    await mark_new(store, PARTITIONS)
    return Watched(store)


@pytest.mark.each_store
async def test_from_the_first_script_of_an_end_on_nobody_below_is_admitted_by_any_worker(watched: Watched) -> None:
    ledger, other = Ledger(watched, PARTITIONS, Clock()), Ledger(watched, PARTITIONS, Clock())
    sids = await family(ledger, 40)
    for worker in (ledger, other):  # they remember what they saw
        for sid in sids:
            await worker.act(caller(sid), offer("AssetV1"))
    watched.left = 1
    with pytest.raises(KeyboardInterrupt):
        await ledger.execute("ann", SID, LOGOUT)
    watched.left = None
    fresh = Ledger(watched, PARTITIONS, Clock())
    for number, sid in enumerate((sids[-1], sids[20], sids[2], sids[0], sids[30])):
        await assert_refused((ledger, other, fresh)[number % 3], sid)
    living = {state.sid for state in await fresh.devices("ann")}
    assert living < set(sids)
    assert not living & {sids[-1], sids[20], sids[2]}, "who was heard of has ended, with all below"
    await fresh.families.finish(fresh.partition_of("ann"))
    assert await fresh.devices("ann") == []
    assert (await verify(watched, PARTITIONS)).differences == []


async def test_an_end_is_linear_and_its_scripts_are_bounded(valkey_store: Store) -> None:
    await mark_new(valkey_store, PARTITIONS)
    watched = Watched(valkey_store)
    ledger = Ledger(watched, PARTITIONS, Clock())
    sids = await family(ledger, 400)
    watched.sections.clear()
    watched.sizes.clear()
    watched.listed = 0
    await ledger.execute("ann", SID, LOGOUT)
    assert sum(watched.sections) == len(sids)
    assert max(watched.sections) <= ENDED_TOGETHER
    assert max(watched.sizes) < 64 * 1024
    assert watched.sections[0] == 1, "the parent's own tokens stop in the first"
    assert len(watched.sections) <= len(sids) / ENDED_TOGETHER + 8
    assert watched.listed <= len(sids)
    assert (await verify(valkey_store, PARTITIONS)).differences == []


async def test_a_chain_of_an_earlier_version_ends_and_its_depths_are_not_admitted(valkey_store: Store) -> None:
    await mark_new(valkey_store, PARTITIONS)
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    log = Log(valkey_store, ledger.partition_of("ann"))
    parent: str | None = None
    for number in range(DEPTH_READ + 5):
        made = section(None, SessionCreated("ann", "photos", parent), sid=sid_of(f"s{number}"))
        assert await log.try_append(made) is None
        parent = made.after.sid
    await ledger.admit(caller(sid_of(f"s{DEPTH_READ - 1}")))
    with pytest.raises(SessionEnded):
        await ledger.admit(caller(sid_of(f"s{DEPTH_READ + 1}")))
    await ledger.execute("ann", sid_of("s0"), LOGOUT)
    assert await ledger.devices("ann") == []


@pytest.mark.each_store
async def test_a_child_outlives_its_parents_expiry_no_moment(watched: Watched) -> None:
    clock = Clock()
    ledger = Ledger(watched, PARTITIONS, clock)
    await sign_in(ledger, "first", expires_at_us=NOW + 2 * SECOND_US)
    child = await sign_in(ledger, "child", SID)
    grandchild = await sign_in(ledger, "grandchild", child)
    state = await ledger.act(caller(grandchild), offer("AssetV1"))
    clock.now_us = NOW + 2 * SECOND_US - 1000
    assert await ledger.admissions.lives(state)
    clock.now_us = NOW + 2 * SECOND_US
    for worker in (ledger, Ledger(watched, PARTITIONS, clock)):
        for sid in (grandchild, child, SID):
            await assert_refused(worker, sid)
    assert not await ledger.admissions.lives(state)


@pytest.mark.each_store
async def test_a_user_has_so_many_sessions_and_no_more(watched: Watched) -> None:
    workers = [Ledger(watched, PARTITIONS, Clock(), most_sessions=5) for _ in range(2)]
    made = await asyncio.gather(
        *(sign_in(workers[number % 2], f"device {number}") for number in range(12)), return_exceptions=True
    )
    assert sum(isinstance(error, TooManySessions) for error in made) == 7
    assert len(await workers[0].devices("ann")) == 5
    await workers[1].execute("bob", sid_of("bob"), CreateSession("bob", "photos"))
    sid = next(sid for sid in made if isinstance(sid, str))
    await workers[0].execute("ann", sid, LOGOUT)
    await sign_in(workers[1], "instead")
    with pytest.raises(TooManySessions, match="LEDGER_MAX_SESSIONS"):
        await sign_in(workers[0], "one more")


async def test_sessions_lie_so_deep_and_no_deeper(watched: Watched) -> None:
    ledger = Ledger(watched, PARTITIONS, Clock())
    parent = await sign_in(ledger, "first")
    for depth in range(DEPTH):
        parent = await sign_in(ledger, f"depth {depth}", parent)
    with pytest.raises(Refused, match=f"At most {DEPTH} sessions"):
        await sign_in(ledger, "too deep", parent)


async def test_a_damaged_parent_ends_nobody(valkey_store: Store) -> None:
    """What is stored nowhere and has not ended is damage, for verify to tell of."""
    await mark_new(valkey_store, PARTITIONS)
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    await sign_in(ledger, "first")
    child = await sign_in(ledger, "child", SID)
    name = keys.session(ledger.partition_of("ann"), SID)
    await valkey_store.command("DEL", name, key=name)
    for worker in (ledger, Ledger(valkey_store, PARTITIONS, Clock())):
        assert (await worker.admit(caller(child))).sid == child


async def test_the_newest_are_listed_in_pages(watched: Watched) -> None:
    clock = Clock()
    ledger = Ledger(watched, PARTITIONS, clock)
    for number in range(7):
        clock.now_us = NOW + number // 2 * SECOND_US
        await sign_in(ledger, f"device {number}")
    found: list[Heard] = []
    after = None
    while True:
        (living, damaged), page = await ledger.sessions.newest("ann", 3, after)
        assert ({state.sid for state in living}, damaged) == ({heard.sid for heard in page}, {})
        found += page
        if len(page) < 3:
            break
        after = page[-1]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 7
