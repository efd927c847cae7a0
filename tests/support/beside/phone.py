"""A phone that syncs with Immich, with this service on the same tables, and back, broken off anywhere."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from random import Random
from typing import Final

import msgspec

from endpoints.sync.stream import Waits, begin
from endpoints.sync.stream_lines import RESET_LINE, chunks
from ledger.acks import parse_ack
from ledger.commands import CreateSession, RecordAcks, RequestReset
from ledger.personal import plain
from ledger.state import State
from projections.entities.registry import entity_types_for
from projections.immich.adoption import Adoption, CheckpointRow, Look, Shares, adopt, gone, moved_on
from projections.immich.wishes import follows
from tests.support.beside.immich import CLEARINGS, RESET, Immich, Line
from tests.support.beside.source import Source
from tests.support.beside.tables import ME, START_MS, Key, Tables
from tests.support.phones.random_phone import Session

REQUESTS: Final = (
    "UsersV1", "PartnersV1", "AssetsV2", "PartnerAssetsV2", "AlbumAssetsV2", "AlbumsV2", "AlbumUsersV1",
    "AlbumToAssetsV1", "AssetExifsV1", "AlbumAssetExifsV1", "PartnerAssetExifsV1",
)  # fmt: skip
TYPES: Final = entity_types_for(REQUESTS)
SYNCED: Final = ("user", "partner", "album", "member", "link")
"""Tables of which a phone holds nothing that is gone; assets of others it keeps."""

Rule = Callable[[list[CheckpointRow], Shares, int, int, int, State | None], Adoption | None]
"""A rule of adoption, as `adopt` is called."""

Lines = Callable[[], AsyncIterator[Line]]


class Data(msgspec.Struct):
    """The data of a line of ours."""

    table: str = ""
    key: Key = ()
    version: str | None = None


class OurLine(msgspec.Struct):
    """A line of ours."""

    type: str
    data: Data
    ack: str


_decode: Final = msgspec.json.Decoder(OurLine)


class Stopped(Exception):
    """The app was killed, or its connection lost."""


class Phone:
    """A phone, and who it syncs with. `again` counts lines of ours that told it what it held, since the last switch."""

    def __init__(self, dice: Random, rule: Rule = adopt) -> None:
        self.dice, self.rule = dice, rule
        self.tables = Tables(dice)
        self.immich = Immich(self.tables)
        self.source = Source(self.tables)
        self.session: Session | None = None
        self.rows: dict[tuple[str, Key], str] = {}
        self.again: Counter[str] = Counter()
        self.visible = True
        """Whether Immich has heard of it since it came there: only then can it be known here that it was there."""
        self.asked = ""
        """By which mark of a wish there it was asked here to start over."""
        self.wipes = 0
        self.breaks = dice.choice((0.01, 0.05, 0.2))
        """How often it breaks off before a run, and how often behind one whose ack is lost."""

    # Immich

    async def at_immich(self, steps: int, *, wild: bool = True) -> None:
        """Be with Immich for a while."""
        self.visible = not self.immich.checkpoints
        for _ in range(steps):
            self.tables.write()
            with contextlib.suppress(Stopped):
                chance = self.dice.random()
                if chance < 0.6 or not wild:
                    await self._sync(self._of_immich, self._ack_immich, wild=wild)
                elif chance < 0.66:
                    self.immich.clear(self.dice.choice(CLEARINGS))
                elif chance < 0.69 and self.visible:
                    self.immich.press()
        if not self.immich.checkpoints and not self._is_known_there():
            # Emptied there, with nothing to show for it: neither a checkpoint nor one that is gone.
            await self._sync(self._of_immich, self._ack_immich, wild=False)

    def _is_known_there(self) -> bool:
        """Tell whether this service has ever seen a checkpoint of Immich's that is not gone since."""
        if self.session is None:
            return True
        return self.session.state.adopted is not None and self.session.state.adopted.mask != 0

    async def _of_immich(self) -> AsyncIterator[Line]:
        for line in self.immich.stream():
            yield line

    async def _ack_immich(self, text: str) -> None:
        self.immich.ack(text)
        self.visible = True

    # Here

    async def here(self, steps: int, *, wild: bool = True) -> None:
        """Be here for a while."""
        self.visible = True
        self.again.clear()
        for _ in range(steps):
            if wild:
                self.tables.write()
            if wild and self.dice.random() < 0.1:
                self.immich.clear(self.dice.choice(CLEARINGS))  # an update of Immich
            with contextlib.suppress(Stopped):
                if self.dice.random() < 0.8 or not wild:
                    await self._sync(self._of_ours, self._ack_ours, wild=wild)

    async def look(self) -> Session:
        """See what happened at Immich, as each sync here begins."""
        rows = self.immich.rows()
        look = Look(max((row.updated_at_us for row in rows), default=0), frozenset(row.type for row in rows))
        if self.session is None or moved_on(self.session.state, look):
            albums = tuple(create_id for create_id, _ in self._memberships())
            partners = tuple(share.create_id for share in self.tables.partners.values())
            horizon_us = await self.source.horizon(ME)
            state = None if self.session is None else self.session.state
            adoption = self.rule(rows, Shares(partners, albums), START_MS * 1000, horizon_us, 0, state)
            if self.session is None:
                adopted = None if adoption is None else adoption.command
                self.session = Session(CreateSession(ME, ME, adopted=adopted))
            elif adoption is not None:
                await self.session.act(adoption.command)
        elif (command := gone(self.session.state, look)) is not None:
            await self.session.act(command)
        await self._take_up_a_wish(self.session)
        return self.session

    async def _take_up_a_wish(self, session: Session) -> None:
        if not self.immich.pending_reset:
            self.asked = ""
            return
        next_step = follows(session.state, self.asked, self.immich.mark) if self.asked else "ask"
        self.asked = self.immich.mark
        if next_step == "ask":
            await session.act(RequestReset(on=True, by=plain("immich")))
        elif next_step == "take_back":
            self.immich.pending_reset, self.asked = False, ""

    async def _of_ours(self) -> AsyncIterator[Line]:
        session = await self.look()
        begun = await begin(session.act, self.source, session.state, TYPES, Waits(), 0.0)
        made = None
        if begun is None and self.immich.checkpoints and not self.immich.pending_reset:
            self.immich.press()
            self.asked = self.immich.mark
        if begun is not None:
            made = chunks(self.source, begun.state, begun.rows, begun.snapshot_us, None, begun.types, begun.offered)
        try:
            async for chunk in _once(RESET_LINE) if made is None else made:
                for raw in chunk.splitlines():
                    line = _decode.decode(raw)
                    if self.rows.get((line.data.table, line.data.key)) == line.data.version is not None:
                        self.again[line.type] += 1
                    yield Line(line.type, line.ack, line.data.table, line.data.key, line.data.version)
        finally:
            if made is not None:
                await made.aclose()

    async def _ack_ours(self, text: str) -> None:
        assert self.session is not None
        await self.session.act(RecordAcks((parse_ack(text),)))

    # A sync, with whomever

    async def _sync(self, lines: Lines, ack: Callable[[str], Awaitable[None]], *, wild: bool) -> None:
        """Sync; after a reset once more."""
        for _ in range(2):
            last = ""
            async with contextlib.aclosing(self._runs(lines(), wild=wild)) as runs:
                async for run in runs:
                    if wild and self.dice.random() < self.breaks:
                        raise Stopped
                    for line in run:
                        self._apply(line)
                    if wild and self.visible and self.dice.random() < self.breaks:
                        raise Stopped  # it has them, and nobody knows
                    await ack(run[-1].ack)
                    last = run[-1].type
                    if wild and self.dice.random() < 0.1:
                        self.tables.write()
            if last != RESET:
                return

    async def _runs(self, lines: AsyncIterator[Line], *, wild: bool) -> AsyncGenerator[list[Line]]:
        """Yield runs of one type, which the app stores and acknowledges at once; some are cut by its buffer."""
        run: list[Line] = []
        async for line in lines:
            if run and (line.type != run[-1].type or (wild and self.dice.random() < 0.15)):
                yield run
                run = []
            run.append(line)
        yield run

    def _apply(self, line: Line) -> None:
        if line.type == RESET:
            self.rows.clear()
            self.wipes += 1
        elif line.version is not None:
            self.rows[line.table, line.key] = line.version
        elif line.table:
            self.rows.pop((line.table, line.key), None)
            if line.table in ("asset", "album"):
                at = 1 if line.table == "asset" else 0
                for table, key in list(self.rows):
                    hangs = table == "link" and key[at] == line.key[0]
                    if hangs or (table == "member" and at == 0 and key[0] == line.key[0]):
                        del self.rows[table, key]
                if at:
                    self.rows.pop(("exif", line.key), None)

    def _memberships(self) -> Iterator[tuple[str, str]]:
        return ((share.create_id, album) for (album, user), share in self.tables.members.items() if user == ME)

    # A life

    def check(self) -> None:
        """See that the phone holds what it must, and nothing of what is gone."""
        expected = self.tables.expected()
        missing = {key: version for key, version in expected.items() if self.rows.get(key) != version}
        assert not missing, f"rows are missing: {missing}"
        ghosts = [key for key in self.rows if key[0] in SYNCED and key not in expected]
        ghosts += [key for key in self.rows if key[0] == "asset" and key not in expected and self._was_mine(key[1])]
        assert not ghosts, f"rows are gone that it holds: {ghosts}"

    def _was_mine(self, key: Key) -> bool:
        return any(marker.key == key and marker.owner == ME for marker in self.tables.deleted["asset"])

    async def settle(self) -> None:
        """Sync to the end here, when the horizon is past all that was written."""
        self.tables.tick(3000)
        await self.here(2, wild=False)
        self.check()

    async def live(self) -> None:
        """Live a life: with Immich, here, and back, some times over."""
        for _ in range(self.dice.randrange(6)):
            self.tables.write()
        for _ in range(self.dice.choice((1, 1, 2, 3))):
            await self.at_immich(self.dice.randint(1, 8))
            await self.here(self.dice.randint(0, 4))
        await self.settle()
        if self.dice.random() < 0.3:
            await self.at_immich(2, wild=False)
            self.tables.tick(3)
            await self.at_immich_again()

    async def switch(self) -> None:
        """Be with Immich, sync to the end there, and come here when the horizon is past all that."""
        for _ in range(4):
            await self.at_immich(3)
        self.tables.tick(2000)
        await self.at_immich_as_it_is()
        self.tables.tick(2000)
        await self.here(1, wild=False)
        self.check()

    async def at_immich_as_it_is(self) -> None:
        """Sync to the end with Immich, where nothing is written any more."""
        for _ in range(2):
            await self._sync(self._of_immich, self._ack_immich, wild=False)

    async def at_immich_again(self) -> None:
        """Sync to the end with Immich, and here behind that."""
        await self.at_immich_as_it_is()
        self.check()
        await self.settle()


async def _once(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk
