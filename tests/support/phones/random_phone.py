"""A phone that lives at random, and notes what it must hold; see tests/faults/test_device_lives.py."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from random import Random
from typing import Any, Final

import msgspec

from endpoints.sync.acks import forgotten
from endpoints.sync.stream import Waits, begin
from endpoints.sync.stream_lines import RESET_LINE, chunks
from ledger.acks import RESET_ACK, Ack, parse_ack
from ledger.chain import GENESIS, record
from ledger.commands import ClearCheckpoints, Command, CreateSession, RecordAcks, RequestReset
from ledger.decide import decide
from ledger.entity_types import COMPLETE, ENTITY_TYPES, RESET
from ledger.errors import DeletesPurged
from ledger.events import Recorded
from ledger.evolve import fold
from ledger.log.state_fields import checkpoint_fields, read_state, session_fields
from ledger.personal import plain
from ledger.positions import us_from_iso
from ledger.state import State
from projections.entities.registry import entity_types_for
from tests.support.ledger.given import NOW, SID
from tests.support.sources.memory_source import DELETES, REQUESTS, UPSERTS, Change, Form, MemorySource, link_id

LIBRARY: Final = "photos"
ASSETS, ALBUMS = ("a1", "a2", "a3"), ("b1", "b2")
FORM_OF: Final[dict[str, Form]] = {name: form for names in (UPSERTS, DELETES) for form, name in names.items()}
REQUEST_OF: Final[dict[Form, str]] = dict(zip(UPSERTS, REQUESTS, strict=True))
SUBSETS: Final = (("asset",), ("album",), ("asset", "album"), ("link",), ("album", "link"))
FULL: Final[tuple[Form, ...]] = tuple(UPSERTS)
KEEPS_US: Final = 40

Key = tuple[Form, str]


class Line(msgspec.Struct):
    """One line of a stream."""

    type: str
    data: dict[str, Any]
    ack: str
    ids: list[str] = []


_decode: Final = msgspec.json.Decoder(Line)


class Stopped(Exception):
    """The app was killed, or its connection lost."""


class Session:
    """One session's ledger in memory: the real rules and the real fold."""

    def __init__(self, first: CreateSession | None = None) -> None:
        self.events: list[Recorded] = []
        self.state: State
        self._append(first or CreateSession("ann", LIBRARY))

    async def act(self, command: Command) -> State:
        """Carry a command out; no command of a phone is ever refused."""
        await asyncio.sleep(0)
        self._append(command)
        return self.state

    def _append(self, command: Command) -> None:
        before = self.state if self.events else None
        seq, digest = (0, GENESIS) if before is None else (before.seq, before.hash)
        recorded = record(decide(before, command, NOW), SID, seq, NOW, digest)
        self.events += recorded
        if (state := fold(before, recorded)) is not None:
            self.state = state

    def check(self) -> None:
        """See that the state is the fold, and reads back from how it is stored."""
        assert fold(None, self.events) == self.state
        assert read_state(SID, session_fields(self.state), checkpoint_fields(self.state)) == self.state


class Library(MemorySource):
    """A library whose horizon stands at its last change, or follows a clock, which then decides what is purged."""

    def __init__(self, page_rows: int, *, steady: bool) -> None:
        super().__init__(page_rows)
        self.steady = steady
        self._floor_us = 0

    def tick(self, us: int) -> None:
        """Let time pass."""
        if not self.steady:
            self._library(LIBRARY).horizon_us += us

    def purge_old(self, keeps_us: int) -> None:
        """Purge markers older than that; by the clock, whether there are any or not."""
        before_us = self._library(LIBRARY).horizon_us - (keeps_us if self.steady else max(keeps_us, 1))
        self.purge(LIBRARY, before_us)
        if not self.steady:
            self._floor_us = max(self._floor_us, before_us)

    async def tombstone_floor(self, library: str) -> int:
        return max(self._floor_us, await super().tombstone_floor(library))


class Phone:
    """A phone: its copy, what it noted of its own syncs, and acks that are still on their way."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.library = Library(dice.randint(1, 3), steady=dice.random() < 0.5)
        self.session = Session()
        self.copy: dict[Key, int] = {}
        self.heard: dict[Form, int] = {}
        """Up to where it knows of deletes: the newest stream it completed, or where the first one began."""
        self.late: list[tuple[Ack, int, tuple[Form, ...]]] = []
        self.clears = 0
        """How often its completions were forgotten: one from before counts for nothing any more."""
        self.asked_for = self.told = False
        """Whether somebody wants a reset now; whether a reset line was sent that is not answered."""
        self.wild = True
        """Whether things go wrong."""
        self.writes = 0
        self.wipes = 0

    # What happens to the library

    def write(self) -> None:
        """Write a few things; half of the time the horizon stays below them."""
        for _ in range(self.dice.randint(1, 3)):
            form = self.dice.choice(FULL)
            entity_id = self.dice.choice(ASSETS if form == "asset" else ALBUMS)
            if form == "link":
                entity_id = link_id(self.dice.choice(ASSETS), self.dice.choice(ALBUMS))
            change = Change(form, entity_id, self.dice.random() < 0.4, self.dice.randint(0, 2))
            self.library.write(LIBRARY, [change])
        self.writes += 1
        if self.dice.random() < 0.8:
            self.library.close(LIBRARY)

    def meanwhile(self) -> None:
        """Let something happen between two chunks."""
        if self.wild and self.dice.random() < 0.15:
            self.write()
        if self.wild and self.dice.random() < 0.03:
            self.library.purge_old(self.dice.choice((0, KEEPS_US)))

    # Syncing

    async def sync(self, forms: tuple[Form, ...] = FULL) -> int:
        """Sync once, and behind a reset once more, as the app does; returns how many entities came."""
        for _ in range(2):
            received, reset = 0, False
            async with contextlib.aclosing(self._runs(forms)) as runs:
                async for run in runs:
                    received += len(run)
                    reset = reset or run[-1].type == RESET
                    await self._ack(run[-1], forms)
            if not reset:
                return received - 1
        assert self.asked_for or self.told, "a reset follows an acknowledged one"
        return 0

    async def overlap(self) -> None:
        """Sync while another stream is open, which then goes on if nothing was changed, or breaks off."""
        forms = self._some()
        async with contextlib.aclosing(self._runs(forms)) as first:
            for _ in range(self.dice.randint(0, 2)):
                if (run := await anext(first, None)) is None:
                    return
                await self._ack(run[-1], forms)
            before = self.writes, self.wipes, self.clears
            await self.sync(self._some())
            if before == (self.writes, self.wipes, self.clears):
                async for run in first:
                    await self._ack(run[-1], forms)

    async def fall_short(self) -> None:
        """Read a stream of everything in part, complete one of less behind it, and let the markers go."""
        if self.dice.random() < 0.4:
            await (self.deliver() if self.dice.random() < 0.5 else self.clear_all())
        living = sorted(self.library.living(LIBRARY))
        if living:
            form, entity_id = self.dice.choice(living)
            self.library.write(LIBRARY, [Change(form, entity_id, delete=True)])
            self.library.close(LIBRARY)
            self.writes += 1
        with contextlib.suppress(Stopped):
            async with contextlib.aclosing(self._runs(FULL)) as runs:
                for _ in range(self.dice.randint(0, 1)):
                    await anext(runs, None)
        self.library.tick(self.dice.choice((0, 1, 5)))
        await self.sync(self._some())
        self.library.purge_old(0)

    async def _runs(self, forms: tuple[Form, ...]) -> AsyncGenerator[list[Line]]:
        """Yield runs of one type, each applied; stops anywhere."""
        run: list[Line] = []
        async for line in self._lines(forms):
            if run and line.type != run[-1].type:
                yield run
                run = []
            if self.wild and self.dice.random() < 0.04:
                raise Stopped
            if line.type == RESET:
                self._wipe()
                if self.wild and self.dice.random() < 0.3:
                    raise Stopped  # emptied, and nobody was told
            elif line.type != COMPLETE:
                self._apply(line, forms)
            run.append(line)
        assert run
        assert run[-1].type in (RESET, COMPLETE), "a clean end without its last line"
        yield run

    async def _lines(self, forms: tuple[Form, ...]) -> AsyncGenerator[Line]:
        rows = entity_types_for([REQUEST_OF[form] for form in forms])
        if self.told:
            need = "it was told so before, and may have emptied itself"
        elif self.asked_for:
            need = "somebody asked"
        else:
            floor_us = await self.library.tombstone_floor(LIBRARY)
            missed = [form for form in forms if self.heard.get(form, floor_us + 1) <= floor_us]
            need = f"it may have missed deletes of {missed}" if missed else ""
        begun = await begin(self.session.act, self.library, self.session.state, rows, Waits(), time.monotonic())
        if begun is None:
            assert need, "emptied without need"
            self.told = True
            yield _decode.decode(RESET_LINE)
            return
        for form in forms:
            self.heard.setdefault(form, begun.snapshot_us)
        made = chunks(self.library, begun.state, begun.rows, begun.snapshot_us, None, begun.types)
        try:
            async for chunk in made:
                for raw in chunk.splitlines():
                    yield _decode.decode(raw)
                self.meanwhile()
        except DeletesPurged as error:
            raise Stopped from error
        finally:
            await made.aclose()

    def _apply(self, line: Line, forms: tuple[Form, ...]) -> None:
        form, entity_id, version = FORM_OF[line.type], line.data["id"], line.data["version"]
        if line.type == DELETES[form]:
            self._drop(lambda key: key == (form, entity_id))
            return
        parents = {(name, line.data[name]) for name in UPSERTS if name in line.data and name in forms}
        assert parents <= self.copy.keys(), "a child before its parent"
        assert self.copy.get((form, entity_id), 0) <= version, "an older version after a newer one"
        self.copy[form, entity_id] = version

    def _drop(self, gone: Any) -> None:
        """Drop rows, and links whose parents are dropped."""
        dropped = {key for key in self.copy if gone(key)}
        ids = {entity_id for _, entity_id in dropped}
        for key in list(self.copy):
            if key in dropped or (key[0] == "link" and not ids.isdisjoint(key[1].split("+"))):
                del self.copy[key]

    def _wipe(self) -> None:
        self.copy = {}
        self.wipes += 1

    # Acks

    async def _ack(self, line: Line, forms: tuple[Form, ...]) -> None:
        ack, fate = parse_ack(line.ack), self.dice.random() if self.wild else 1.0
        if line.type == COMPLETE:
            assert us_from_iso(line.ids[0]) == ack.position.at_us
        sent = (ack, self.clears, forms)
        if fate < 0.06 and ack != RESET_ACK:
            self.late.append(sent)
            raise Stopped
        if fate < 0.10:
            raise Stopped  # lost
        await self._send(*sent)
        if fate < 0.16:
            raise Stopped  # its answer was lost
        if fate < 0.24:
            await self._send(*sent)
        elif fate < (0.5 if ack == RESET_ACK else 0.32):
            self.late.append(sent)

    async def _send(self, ack: Ack, clears: int, forms: tuple[Form, ...]) -> None:
        await self.session.act(RecordAcks((ack,)))
        if ack == RESET_ACK:
            if self.told:
                self.heard = {}
            self.told = self.asked_for = False
            self.clears += 1
        elif ack.type == COMPLETE and clears == self.clears:
            for form in forms:
                self.heard[form] = max(self.heard[form], ack.position.at_us)

    async def deliver(self) -> None:
        """Let acks that are still on their way arrive, in any order."""
        self.dice.shuffle(self.late)
        late, self.late = self.late, []
        for sent in late:
            if sent[0] != RESET_ACK or not self.told:
                await self._send(*sent)

    # Everything else a device or its owner does

    async def ask_for_reset(self) -> None:
        """Ask for a reset, or take it back."""
        on = self.dice.random() < 0.5
        await self.session.act(RequestReset(on, plain("owner")))
        self.asked_for = on

    async def clear_by_list(self) -> None:
        """Clear some checkpoints or all there are, with what is held or without."""
        forms: set[Form] = {"link", *self.dice.sample(FULL, self.dice.randint(0, 2))}
        names = {UPSERTS[form] for form in forms} | {DELETES[form] for form in forms if self.dice.random() < 0.3}
        if self.dice.random() < 0.3:
            forms, names = set(FULL), set(ENTITY_TYPES)
        await self.session.act(ClearCheckpoints(forgotten(names), "deleted"))
        self.clears += COMPLETE in names
        if self.dice.random() < 0.5:
            self._drop(lambda key: key[0] in forms)

    async def clear_all(self) -> None:
        """Clear all checkpoints, and start over by itself or not."""
        if self.dice.random() < 0.5:
            await self.session.act(ClearCheckpoints(None, "deleted"))
            if self.dice.random() < 0.5:
                self._wipe()
        else:
            self._wipe()
            await self.session.act(ClearCheckpoints(None, "reset", reset=True))
            self.heard, self.asked_for = {}, False
        self.told = False
        self.clears += 1

    def _some(self) -> tuple[Form, ...]:
        return self.dice.choice(SUBSETS) if self.dice.random() < 0.5 else FULL

    # A life

    async def step(self) -> None:
        """Let one thing happen."""
        self.library.tick(self.dice.choice((0, 1, 5, 20)))
        match self.dice.choices(range(10), (5, 6, 4, 3, 2, 2.5, 1, 1, 1, 1.5))[0]:
            case 0:
                self.write()
            case 1:
                await self.sync(self._some())
            case 2:
                await self.sync()
            case 3:
                self.library.purge_old(self.dice.choice((0, 0, KEEPS_US)))
            case 4:
                await self.deliver()
            case 5:
                await self.ask_for_reset()
            case 6:
                await self.clear_by_list()
            case 7:
                await self.clear_all()
            case 8:
                await self.overlap()
            case 9:
                await self.fall_short()

    async def settle(self) -> None:
        """Let all that is under way end and sync to the end twice: then it holds exactly what lives."""
        self.library.close(LIBRARY)
        await self.deliver()
        self.wild = False
        await self.sync()
        await self.sync()
        assert self.copy == self.library.living(LIBRARY)
        length = len(self.session.events)
        assert await self.sync() == 0, "what was acknowledged does not come again"
        assert len(self.session.events) == length, "an idle device appends nothing"
        assert self.copy == self.library.living(LIBRARY)
        self.wild = True

    async def live(self) -> None:
        """Live a life."""
        for _ in range(self.dice.randint(1, 2)):
            for _ in range(self.dice.randint(6, 24)):
                with contextlib.suppress(Stopped):
                    await self.step()
            await self.settle()
        self.session.check()
