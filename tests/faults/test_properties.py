"""The invariants, whatever is written, cut off, repeated, reordered or reset meanwhile.

Devices sync from a source with ties and a lagging horizon, over the ledger and the real line generator. They crash at
any line, their acks are lost, answered too late, repeated and reordered, they are reset, cleared, and sign in anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoints.sync import stream_lines
from endpoints.sync.stream_lines import RESET_LINE, chunks
from ledger.acks import RESET_ACK, Ack, parse_ack
from ledger.chain import GENESIS, link
from ledger.commands import ClearCheckpoints, CreateSession, EndSession, OfferStream, RecordAcks, RequestReset
from ledger.entity_types import COMPLETE, RESET, mask_of
from ledger.errors import DeletesPurged, SessionEnded
from ledger.events import AckRefused, AcksRecorded, StoredAck
from ledger.evolve import fold
from ledger.log.reader import Entry, read_partition
from ledger.log.service import Ledger
from ledger.personal import plain
from projections.checking.verify import verify
from projections.entities.registry import entity_types_for
from tests.support.ledger.given import long_examples, stored
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.sources.memory_source import DELETES, REQUESTS, UPSERTS, Change, Form, MemorySource, link_id
from tests.support.stores.fake_store import FakeStore

LIBRARIES: Final = ("photos", "other")
ASSETS, ALBUMS = ("a1", "a2", "a3", "é"), ("b1", "b2")
TABLES: Final[dict[str, Form]] = {name: form for names in (UPSERTS, DELETES) for form, name in names.items()}
ROWS: Final = entity_types_for(REQUESTS)


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    """Send each page by itself, so that things happen between pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_lines, "CHUNK_BYTES", 1)
        yield


class Line(msgspec.Struct):
    """One line of a stream."""

    type: str
    data: dict[str, Any]
    ack: str


_decode: Final = msgspec.json.Decoder(Line)


class Crash(Exception):
    """The device stopped in the middle of a sync."""


class Device:
    """A device as the app is one: applies a line, acks each run of one type; its copy survives crashes."""

    def __init__(self, world: World, name: str, library: str, user: str) -> None:
        self.world, self.name, self.library, self.user = world, name, library, user
        self.copy: dict[tuple[Form, str], int] = {}
        self.rows = ROWS
        self.late: list[tuple[str, Ack]] = []
        """Acks still on their way: the session each was sent in, and the ack."""
        self.sessions = 0
        self.sid = ""

    async def sign_in(self) -> None:
        """Begin a new session with an empty copy."""
        self.sessions += 1
        self.copy = {}
        self.sid = sid_of(f"{self.name} {self.sessions}")
        await self.world.ledger.execute(self.user, self.sid, CreateSession(self.user, self.library))

    def forget(self, gone: Callable[[tuple[Form, str]], bool]) -> None:
        """Drop rows from the copy, and the links of those dropped."""
        kept = {key: version for key, version in self.copy.items() if not gone(key)}
        ids = {entity_id for _, entity_id in kept}
        self.copy = {key: v for key, v in kept.items() if key[0] != "link" or ids.issuperset(key[1].split("+"))}

    async def log_out(self) -> None:
        """End the session; nothing of it answers any more."""
        sid = self.sid
        await self.world.ledger.execute(self.user, sid, EndSession("logout", plain(self.user)))
        self.world.ended.append((self.user, sid))
        await self.sign_in()

    async def send(self, sid: str, ack: Ack) -> None:
        """Send an ack; what a device was given is never refused."""
        await self.world.ledger.execute(self.user, sid, RecordAcks((ack,)))
        if ack != RESET_ACK:
            self.world.answered.append((sid, stored(ack)))

    async def deliver(self, order: random.Random) -> None:
        """Let the acks still on their way arrive, in any order; those of an ended session are refused."""
        order.shuffle(self.late)
        late, self.late = self.late, []
        for sid, ack in late:
            try:
                await self.send(sid, ack)
            except SessionEnded:
                assert (self.user, sid) in self.world.ended
            else:
                assert sid == self.sid

    async def stream(self) -> AsyncIterator[bytes]:
        """Ask for a stream, as the endpoint does; yields chunks."""
        ledger, source = self.world.ledger, self.world.source
        snapshot_us, floor_us = await source.horizon(self.library), await source.tombstone_floor(self.library)
        types = mask_of([COMPLETE, *(row.name for row in self.rows)])
        state = await ledger.execute(self.user, self.sid, OfferStream(snapshot_us, types, floor_us))
        if state.reset_sent:
            yield RESET_LINE
            return
        async for chunk in chunks(source, state, self.rows, snapshot_us):
            yield chunk

    async def sync(self, script: Script) -> int:
        """Sync once, and after a reset once more; returns how many entities came. Raises Crash."""
        received = 0
        for _ in range(2):
            reset, lines = False, 0
            run: Line | None = None
            async for line in self._lines(script):
                if run is not None and line.type != run.type:
                    await self._ack(run, script)
                run = line
                if script.crashes():
                    raise Crash
                if line.type == RESET:
                    self.copy, reset = {}, True
                elif line.type != COMPLETE:
                    lines += 1
                    self._apply(line)
            assert run is not None
            assert run.type in (RESET, COMPLETE), "a clean end without its last line"
            await self._ack(run, script)
            received += lines
            if not reset:
                return received
        raise AssertionError("the answer to an acknowledged reset was a reset")

    async def _lines(self, script: Script) -> AsyncIterator[Line]:
        stream = self.stream()
        try:
            async for chunk in stream:
                for raw in chunk.splitlines():
                    yield _decode.decode(raw)
                self.world.write(script.writes_meanwhile())
        except DeletesPurged as error:
            raise Crash from error
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    async def _ack(self, line: Line, script: Script) -> None:
        ack, fate = parse_ack(line.ack), script.fate_of_ack()
        if fate == "late":
            self.late.append((self.sid, ack))
            raise Crash
        await self.send(self.sid, ack)
        if fate == "twice":
            await self.send(self.sid, ack)
        elif fate == "again":
            self.late.append((self.sid, ack))
        elif fate == "unanswered":
            raise Crash

    def _apply(self, line: Line) -> None:
        entity_id, version = line.data["id"], line.data["version"]
        assert line.data["library"] == self.library, "nothing of another library"
        form = TABLES[line.type]
        if line.type == DELETES[form]:
            self.forget(lambda key: key == (form, entity_id))
            return
        parents = {(name, line.data[name]) for name in UPSERTS if name in line.data}
        assert parents <= self.copy.keys(), "a child before its parent"
        assert self.copy.get((form, entity_id), 0) <= version, "an older version after a newer one"
        self.copy[form, entity_id] = version


class Script:
    """What goes wrong in one sync, drawn beforehand."""

    def __init__(self, crash_at: int | None, fates: list[str], writes: list[list[Change]]) -> None:
        self._lines_left = crash_at
        self._fates, self._writes = list(fates), list(writes)

    def crashes(self) -> bool:
        if self._lines_left is None:
            return False
        self._lines_left -= 1
        return self._lines_left < 0

    def fate_of_ack(self) -> str:
        return self._fates.pop() if self._fates else "sent"

    def writes_meanwhile(self) -> list[Change]:
        return self._writes.pop() if self._writes else []


NOTHING_WRONG: Final = Script(None, [], [])


class World:
    """A ledger, a source with two libraries, and devices."""

    def __init__(self, page_rows: int = 3) -> None:
        self.store = FakeStore()
        self.clock = Clock()
        self.ledger = Ledger(self.store, 2, self.clock)
        self.source = MemorySource(page_rows)
        self.devices = [
            Device(self, "phone", "photos", "ann"),
            Device(self, "tablet", "photos", "ann"),
            Device(self, "stranger", "other", "bob"),
        ]
        self.ended: list[tuple[str, str]] = []
        self.answered: list[tuple[str, StoredAck]] = []

    def write(self, changes: list[Change], *, close: bool = True) -> None:
        """Write changes to every library."""
        for library in LIBRARIES:
            self.source.write(library, changes)
            if close:
                self.source.close(library)

    async def run(self, step: tuple[Any, ...]) -> None:
        """Carry one step out."""
        self.clock.now_us += 1000
        match step:
            case ("write", changes, close):
                self.write(changes, close=close)
            case ("sync", number, crash_at, fates, writes):
                with contextlib.suppress(Crash):
                    await self.devices[number].sync(Script(crash_at, fates, writes))
            case ("together", crash_at, fates, writes):
                scripts = [Script(crash_at, fates, writes) for _ in self.devices]
                syncs = [device.sync(script) for device, script in zip(self.devices, scripts, strict=True)]
                for outcome in await asyncio.gather(*syncs, return_exceptions=True):
                    if isinstance(outcome, BaseException) and not isinstance(outcome, Crash):
                        raise outcome
            case ("deliver", number, seed):
                await self.devices[number].deliver(random.Random(seed))
            case ("reset", number, on):
                device = self.devices[number]
                await self.ledger.execute(device.user, device.sid, RequestReset(on, plain("owner")))
            case ("clear", number, types):
                device = self.devices[number]
                cleared: set[Form] = {"link", *(TABLES[name] for name in types)}
                await self.ledger.execute(
                    device.user, device.sid, ClearCheckpoints(mask_of(UPSERTS[form] for form in cleared), "deleted")
                )
                device.forget(lambda key: key[0] in cleared)
            case ("start over", number):
                device = self.devices[number]
                device.copy = {}
                command = ClearCheckpoints(None, "reset", reset=True)
                await self.ledger.execute(device.user, device.sid, command)
            case ("ask for", number, requests):
                self.devices[number].rows = entity_types_for(requests)
            case ("log out", number):
                await self.devices[number].log_out()
            case ("purge", before_us):
                for library in LIBRARIES:
                    self.source.purge(library, before_us)
            case _:
                raise AssertionError(step)

    async def live(self, steps: list[tuple[Any, ...]]) -> None:
        """Carry steps out, let all acks arrive, and see that every device ends as it must."""
        for device in self.devices:
            await device.sign_in()
        for step in steps:
            await self.run(step)
        for library in LIBRARIES:
            self.source.close(library)
        for device in self.devices:
            await device.deliver(random.Random(0))
            await device.sync(NOTHING_WRONG)
            await device.sync(NOTHING_WRONG)
            assert device.copy == self.source.living(device.library)
            length = await self.length()
            assert await device.sync(NOTHING_WRONG) == 0, "what was acknowledged does not come again"
            assert await self.length() == length, "an idle device appends nothing"
        await self.check()

    async def events(self) -> list[Entry]:
        pages = [page for partition in range(2) async for page in read_partition(self.store, partition)]
        return [entry for page in pages for entry in page]

    async def length(self) -> int:
        return len(await self.events())

    async def check(self) -> None:
        """Check the log: chains, projections, answered acks, ended sessions."""
        report = await verify(self.store, 2)
        assert report.differences == []
        assert report.ended == len(self.ended)
        by_session: dict[str, list[Entry]] = {}
        for entry in await self.events():
            by_session.setdefault(entry.recorded.sid, []).append(entry)
        recorded: set[tuple[str, StoredAck]] = set()
        stale: set[tuple[str, int]] = set()
        for sid, entries in by_session.items():
            events = [entry.recorded for entry in entries]
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert [entry.prev for entry in entries] == ["", *(entry.id for entry in entries[:-1])]
            previous = GENESIS
            for event in events:
                previous = link(previous, sid, event.seq, event.at_us, event.schema, event.raw)
                assert event.hash == previous
                assert not isinstance(event.event, AckRefused), "a device acks only what it was given"
                if isinstance(event.event, AcksRecorded):
                    recorded |= {(sid, ack) for ack in (*event.event.moved, *event.event.stale)}
                    stale |= {(sid, ack.code) for ack in event.event.stale}
            state = fold(None, events)
            assert state is not None
            if state.ended is None:
                assert await self.ledger.load(state.user, sid) == state
        # Of late acks one of a type is on record until that advances; the others changed nothing.
        assert {(sid, ack) for sid, ack in self.answered if (sid, ack.code) not in stale} <= recorded
        for user, sid in self.ended:
            with pytest.raises(SessionEnded):
                await self.ledger.load(user, sid)


# What can happen. Few ids, so that things meet.

forms: Final[st.SearchStrategy[tuple[Form, str]]] = st.one_of(
    st.tuples(st.just("asset"), st.sampled_from(ASSETS)),
    st.tuples(st.just("album"), st.sampled_from(ALBUMS)),
    st.tuples(st.just("link"), st.builds(link_id, st.sampled_from(ASSETS), st.sampled_from(ALBUMS))),
)
changes: Final = st.lists(
    st.tuples(forms, st.booleans(), st.integers(0, 2)).map(lambda drawn: Change(*drawn[0], drawn[1], drawn[2])),
    max_size=8,
)
full: Final = [
    *(Change("asset", each) for each in ASSETS),
    *(Change("album", each) for each in ALBUMS),
    *(Change("link", link_id(asset, album), later_us=1) for asset in ASSETS for album in ALBUMS),
]
devices: Final = st.integers(0, 2)
fates: Final = st.lists(st.sampled_from(("sent", "sent", "sent", "twice", "again", "late", "unanswered")), max_size=8)
crashes: Final = st.none() | st.integers(0, 12)
meanwhile: Final = st.lists(changes, max_size=3)
clearable: Final = st.sets(st.sampled_from(list(UPSERTS.values())), min_size=1)
steps: Final = st.lists(
    st.one_of(
        st.tuples(st.just("write"), changes | st.just(full), st.booleans()),
        st.tuples(st.just("sync"), devices, crashes, fates, meanwhile),
        st.tuples(st.just("sync"), devices, st.none(), st.just([]), st.just([])),
        st.tuples(st.just("together"), crashes, fates, meanwhile),
        st.tuples(st.just("deliver"), devices, st.integers(0, 9)),
        st.tuples(st.just("reset"), devices, st.booleans()),
        st.tuples(st.just("clear"), devices, clearable),
        st.tuples(st.just("start over"), devices),
        st.tuples(st.just("log out"), devices),
        st.tuples(st.just("purge"), st.sampled_from((3, 9, 99, 99))),
    ),
    min_size=8,
    max_size=30,
)


@long_examples
@given(steps, st.integers(1, 4))
def test_every_device_ends_with_exactly_what_lives(steps: list[tuple[Any, ...]], page_rows: int) -> None:
    asyncio.run(World(page_rows).live(steps))


# The hardest of it once more, one by one.

PHONE: Final = 0
WHOLE: Final[tuple[Any, ...]] = ("sync", PHONE, None, [], [])
SCENARIOS: Final[dict[str, list[tuple[Any, ...]]]] = {
    "a parent changes while its child is on its way": [
        ("write", full, True),
        ("sync", PHONE, None, [], [[Change("album", "b2")]] * 3),
    ],
    "a parent is held back itself, and so are its children": [
        ("write", [Change("asset", "a1"), Change("asset", "a2"), Change("album", "b1"), Change("album", "b2")], True),
        ("write", [Change("link", link_id("a2", "b1"))], True),
        ("write", [Change("asset", "a1", later_us=1)], False),
        WHOLE,
    ],
    "acks of a stream arrive after its types were cleared and the next stream has begun": [
        ("write", full, True),
        ("sync", PHONE, None, ["late"], []),
        ("clear", PHONE, {"AssetV2"}),
        ("sync", PHONE, 0, [], []),
        ("deliver", PHONE, 0),
    ],
    "acks of a stream arrive after a reset and the next stream has begun": [
        ("write", full, True),
        ("sync", PHONE, None, ["late", "again", "again"], []),
        ("reset", PHONE, True),
        ("sync", PHONE, None, ["late", "sent"], []),
        ("deliver", PHONE, 0),
    ],
    "a device was away while it missed a delete whose marker is gone": [
        ("write", full, True),
        WHOLE,
        ("write", [Change("asset", "a1", delete=True)], True),
        ("purge", 99),
    ],
    "a device that never finished missed a delete whose marker is gone": [
        ("write", full, True),
        ("sync", PHONE, 5, [], []),
        ("write", [Change("asset", "a1", delete=True)], True),
        ("purge", 99),
        ("write", [Change("asset", "a2")], True),
    ],
    "a device asked for fewer types while it missed a delete whose marker is gone": [
        ("write", full, True),
        WHOLE,
        ("write", [Change("album", "b1", delete=True)], True),
        ("ask for", PHONE, ("AssetsV2",)),
        WHOLE,
        ("purge", 99),
        ("write", [Change("asset", "a2")], True),
        WHOLE,
        ("ask for", PHONE, REQUESTS),
    ],
    "delete markers are purged while a device that needs them streams": [
        ("write", full, True),
        WHOLE,
        ("write", [Change("asset", "a1", delete=True)], True),
        ("sync", PHONE, 0, [], []),
        ("purge", 99),
        ("sync", PHONE, None, [], []),
    ],
    "a row is deleted and comes back": [
        ("write", full, True),
        WHOLE,
        ("write", [Change("asset", "a1", delete=True), Change("asset", "a1", later_us=1)], True),
        ("sync", PHONE, 1, [], []),
        ("write", [Change("link", link_id("a1", "b1"))], True),
    ],
}


@pytest.mark.parametrize("page_rows", [1, 100])
@pytest.mark.parametrize("steps", SCENARIOS.values(), ids=SCENARIOS)
async def test_a_device_ends_with_what_lives_although(steps: list[tuple[Any, ...]], page_rows: int) -> None:
    await World(page_rows).live(steps)


async def test_the_acks_of_a_reset_device_are_stale_and_skip_nothing() -> None:
    world = World()
    await world.live(SCENARIOS["acks of a stream arrive after a reset and the next stream has begun"])
    events = [e.recorded.event for e in await world.events() if e.recorded.sid == world.devices[PHONE].sid]
    late = [event for event in events if isinstance(event, AcksRecorded) and event.stale]
    assert late
    assert not any(event.moved for event in late)


@pytest.mark.parametrize("crash_every", [700, 1000, 1999])
async def test_thousands_of_entities_that_share_an_instant_are_each_sent_once(
    crash_every: int,
) -> None:
    """The device acks what it has at each crash, wherever that cuts the page, the chunk and the instant."""
    world = World(page_rows=1000)
    ids = [f"{number:05}" for number in range(4000)]
    for library in LIBRARIES:
        world.source.write(library, [Change("asset", each) for each in ids])
        world.source.close(library)
    device = world.devices[PHONE]
    await device.sign_in()
    received: list[str] = []
    for _ in range(len(ids) // crash_every + 1):
        lines = [_decode.decode(raw) async for chunk in device.stream() for raw in chunk.splitlines()][:crash_every]
        received += [line.data["id"] for line in lines if line.type != COMPLETE]
        await device.send(device.sid, parse_ack(lines[-1].ack))
    assert received == ids
    assert lines[-1].type == COMPLETE
