"""POST /sync/stream: what changed since the device's checkpoints."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, Protocol

import falcon
import falcon.asgi
import msgspec

from endpoints.figures.of_streams import RESET
from endpoints.http import bodies
from endpoints.http.compression import compressed
from endpoints.http.operations import Operation, Route, Text
from endpoints.http.request import Request
from endpoints.http.sending import guarded, with_first_made
from endpoints.services import Services
from endpoints.sync.idle_polls import Foreseen, IdlePolls
from endpoints.sync.stream_account import StreamAccount
from endpoints.sync.stream_lines import RESET_LINE, Passed, chunks, complete_line
from endpoints.sync.stream_over import StreamOver
from endpoints.sync.turns import Going, Turn, Turns
from ledger.admission import Caller
from ledger.commands import ClearCheckpoints, Command, OfferStream, RequestReset
from ledger.entity_types import COMPLETE, mask_of, types_in
from ledger.errors import InvalidInput, StoreUnavailable, Unavailable
from ledger.personal import plain
from ledger.positions import Position, iso_from_us
from ledger.session_ids import short_id
from ledger.starting_over import reset_due
from ledger.state import State
from projections.entities.registry import REQUEST_TYPES, EntityTypeRow, entity_types_for
from projections.entities.source import MOST_BEHIND_S, EntitySource, PositionLost, SourceUnavailable
from projections.unknown_types import is_well_formed

JSON_LINES: Final = "application/jsonlines+json"
RequestTypeName = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(REQUEST_TYPES)})]
MAX_TYPES: Final = 1000
_EXAMPLE: Final = (
    '{"type":"AlbumToAssetDeleteV1","data":{"albumId":"a1","assetId":"p1"},'
    '"ack":"AlbumToAssetDeleteV1|2025-01-20T10:30:45.123456Z|a1-p1"}\n'
    '{"type":"SyncCompleteV1","data":{},"ids":["2025-01-20T10:31:00.000000Z"],'
    '"ack":"SyncCompleteV1|2025-01-20T10:31:00.000000Z|"}\n'
)
WAITING: Final = 1000
"""How many streams of a worker wait at once; they hold a connection to a client and no other."""
DAY_US: Final = 86_400_000_000


class SyncStreamDto(msgspec.Struct, frozen=True):
    """Which types to stream; `reset` forgets all checkpoints first."""

    types: Annotated[list[RequestTypeName], msgspec.Meta(max_length=MAX_TYPES)]
    reset: bool = False


_decode: Final = msgspec.json.Decoder(SyncStreamDto)


class Begun(NamedTuple):
    """A stream on record: what it is of (`types`, a mask), those of it that may have anything, and up to where.

    `offered` tells up to where each entity type was offered before; `horizon_us` and `floor_us` how the source was.
    """

    state: State
    rows: Sequence[EntityTypeRow]
    snapshot_us: int
    types: int
    offered: Mapping[str, int]
    horizon_us: int
    floor_us: int


class SyncStream:
    """The stream of one session: offered first, then sent."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ledger = services.ledger
        self._source = services.source
        self._waits = Waits()
        self._idle_polls = IdlePolls(services.ledger, services.source)
        self._turns = Turns(figures=services.figures.streams)
        self._going = Going()

    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        number = self._turns.arrive()
        caller = await self._services.auth.device(req, "sync.stream")
        body = await bodies.decode(req, _decode)
        known, unknown = known_types(body.types, REQUEST_TYPES, leave_out=self._services.unknown_types is not None)
        rows = entity_types_for(known)
        is_poll = not body.reset and not unknown
        foreseen = self._idle_polls.foresee(caller, rows) if is_poll else None
        try:
            state = await self._ledger.admit(caller)
        except BaseException:
            if foreseen is not None:
                foreseen.drop()
            raise
        if is_poll and await self._is_idle(req, resp, caller, state, rows, foreseen):
            return
        if unknown and self._services.unknown_types is not None:
            await self._services.unknown_types.note(unknown, self._ledger.clock())
        if body.reset:
            state = await self._ledger.act(caller, ClearCheckpoints(None, "reset", reset=True))
            await self._services.auth.starts_over(caller)
        source = self._source.of_session(state.user, state.sid)
        asked_s = time.monotonic()
        resp.content_type = JSON_LINES
        route, told = req.uri_template or "", self._services.stream_over
        account = StreamAccount(
            self._ledger, state, req.correlation_id, asked_s, self._services.figures.streams, route=route, told=told
        )
        try:
            turn = await self._turns.take(number)
        except Unavailable as error:
            account.over("refused", str(error))
            raise
        waits = WaitsInTurn(self._waits, turn)
        try:
            begun = await begin(functools.partial(self._ledger.act, caller), source, state, rows, waits, asked_s)
            if begun is None:
                await self._services.auth.starts_over(caller)
                resp.data = RESET_LINE
                account.over(RESET, size=len(RESET_LINE))
                await turn.comes()
                return
            account.snapshot_us = begun.snapshot_us
            if is_poll and not begun.rows and begun.state.hash == state.hash:  # it put nothing on record
                line = complete_line(begun.snapshot_us, begun.types, state.epoch_of(COMPLETE))
                self._idle_polls.keep(state, rows, line, begun.horizon_us, holds_for_us(begun))
            state, passed = begun.state, Passed()
            made = chunks(source, state, begun.rows, begun.snapshot_us, passed, begun.types, begun.offered, self._going)
            counted = await with_first_made(self._counted(made, passed, turn))
        except Unavailable as error:
            if isinstance(error, StoreUnavailable):  # where it would be kept
                account.over("refused", str(error))
            else:
                await account.close("refused", str(error))
            raise
        finally:
            turn.end()

        async def lives() -> bool:
            return await self._services.auth.still_admits(caller) and await self._ledger.admissions.lives(state)

        sent = guarded(req, counted, lives, self._services.stall_s, account)
        resp.stream = compressed(req, resp, sent) if begun.rows else sent  # a poll that finds nothing is one line

    async def _is_idle(
        self,
        req: Request,
        resp: falcon.asgi.Response,
        caller: Caller,
        state: State,
        rows: Sequence[EntityTypeRow],
        foreseen: Foreseen | None,
    ) -> bool:
        """Answer a poll that finds nothing, where what it follows from is remembered; tells whether that was so."""
        asked_s, figures = time.monotonic(), self._services.figures.streams
        if foreseen is None or not foreseen.is_of(state):
            foreseen = self._idle_polls.foresee_of(state, rows)
        try:
            line = None if foreseen is None else await foreseen.line()
        except StoreUnavailable as error:
            figures.ended("refused", time.monotonic() - asked_s)
            self._tell(req, state, "refused", asked_s, why=str(error))
            raise
        if line is None or not await self._services.auth.still_admits(caller):
            return False
        resp.content_type, resp.data = JSON_LINES, line
        figures.found_nothing(len(line), time.monotonic() - asked_s)
        self._tell(req, state, "completed", asked_s, len(line))
        return True

    def _tell(self, req: Request, state: State, how: str, asked_s: float, size: int = 0, why: str = "") -> None:
        """Tell that a stream without an account is over."""
        status, took_s = 503 if how == "refused" else 200, time.monotonic() - asked_s
        sid, route = short_id(state.sid), req.uri_template or ""
        over = StreamOver(sid, state.user, route, status, how, took_s, 0, size, req.correlation_id, why=why)
        self._services.stream_over(over)

    async def _counted(self, made: AsyncGenerator[bytes], passed: Passed, turn: Turn) -> AsyncGenerator[bytes]:
        """Yield a stream's chunks, the first when it is its turn; behind the last one count what it did not send."""
        counters, is_first = self._services.counters, True
        try:
            async for chunk in made:
                if is_first:
                    is_first = False
                    await turn.comes()
                yield chunk
        except SourceUnavailable:
            await counters.note("source_unavailable")
            raise
        finally:
            await made.aclose()
        for entity_type, rows in passed.held_back.items():
            await counters.note("rows_held_back", rows, entity_type=entity_type)
        for field, rows in passed.unfit.items():
            await counters.note("rows_unfit", rows, field=field)
        for entity_type in passed.cut:
            await counters.note("runs_cut", entity_type=entity_type)


class Pause(Protocol):
    """Waits for a source that is behind."""

    async def pause(self, seconds: float) -> bool:
        """Wait; tells whether there was room for one more."""
        ...


class Waits:
    """Streams that wait until what woke their device is below the horizon; bounded, and each by a timer."""

    def __init__(self, most: int = WAITING) -> None:
        self.most = most
        self.count = 0

    async def pause(self, seconds: float) -> bool:
        """Wait; tells whether there was room for one more."""
        if self.count >= self.most:
            return False
        self.count += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self.count -= 1
        return True


class WaitsInTurn:
    """Waits as `Waits` does, while another stream has the turn."""

    def __init__(self, waits: Waits, turn: Turn) -> None:
        self._waits = waits
        self._turn = turn

    async def pause(self, seconds: float) -> bool:
        """Wait, and then for a turn; tells whether there was room for one more."""
        self._turn.end()
        paused = await self._waits.pause(seconds)
        await self._turn.take_again()
        return paused


async def begin(
    act: Callable[[Command], Awaitable[State]],
    source: EntitySource,
    state: State,
    rows: Sequence[EntityTypeRow],
    waits: Pause,
    asked_s: float,
) -> Begun | None:
    """Put on record what is about to be sent: a stream of `rows`; None where it may only be a reset.

    A stream that would have nothing waits until it has what was committed by `asked_s`, an instant of the monotonic
    clock: something wakes devices at once, and the horizon is behind. `act` carries a command out on the session and
    returns its state. Raises what that and the source raise.
    """
    library = state.library
    horizon_us, floor_us = await asyncio.gather(source.horizon(library), source.tombstone_floor(library))
    horizon_us = await source.provision(library, horizon_us)
    origin = await source.origin(library, horizon_us)
    if floor_us >= horizon_us:  # a reset would be no help: what could be sent behind it is not above the floor either
        raise SourceUnavailable(
            f"The library can be read up to {iso_from_us(horizon_us)} only, and deletes up to {iso_from_us(floor_us)} "
            "are purged: devices could miss some, so no stream begins until its horizon is above that"
        )
    types = mask_of([COMPLETE, *(row.name for row in rows)])
    offered = {row.name: state.offered_us(row.name) for row in rows}
    epochs = {name: state.epoch_of(name) for name in offered}
    known: dict[str, Position | None] = {}
    changed: frozenset[str] = frozenset()
    snapshot_us = horizon_us
    if not reset_due(state, floor_us, types, origin):
        known = positions(state, rows)
        try:
            changed = await source.changed(library, known, horizon_us)
            if not changed and rows:
                wait_s = await source.catches_up_in(library, known, horizon_us, asked_s)
                if wait_s > 0 and await waits.pause(min(wait_s, MOST_BEHIND_S)):
                    horizon_us = await source.horizon(library)
                    origin = await source.origin(library, horizon_us)  # of what the device sees now, not of before
                    changed = await source.changed(library, known, horizon_us)
        except PositionLost:
            await act(RequestReset(on=True, by=plain("source")))
        else:
            settled = not source.steady and not changed
            snapshot_us = last_snapshot(state, types, horizon_us, floor_us) if settled else horizon_us
    state = await act(OfferStream(snapshot_us, types, floor_us, source.resends, origin))
    if state.reset_sent:  # it is on record before it leaves: from then on the device may have emptied itself
        return None
    offered = {name: us for name, us in offered.items() if state.epoch_of(name) == epochs[name]}
    if (now := positions(state, rows)) != known:  # another request moved or cleared checkpoints, or this offer
        changed = frozenset(now)
    several = [row for row in rows if row.name in changed]
    return Begun(state, several, snapshot_us, types, offered, horizon_us, floor_us)


def positions(state: State, rows: Sequence[EntityTypeRow]) -> dict[str, Position | None]:
    """Tell how far each entity type was acknowledged; None where it was not."""
    held = state.checkpoints
    return {row.name: held[row.name].position if row.name in held else None for row in rows}


def last_snapshot(state: State, types: int, horizon_us: int, floor_us: int) -> int:
    """Tell the snapshot of a stream that has nothing to send: the last one, so that an idle poll appends nothing.

    It is the horizon all the same where the types were not all offered the same, and once a day, or sooner if delete
    markers are kept for less than two: the completion tells up to when a device knows of deletes.
    """
    offered = {state.offered_us(name) for name in types_in(types)}
    last_us = offered.pop()
    return last_us if not offered and 0 <= oldest_us(horizon_us, floor_us) < last_us <= horizon_us else horizon_us


def oldest_us(horizon_us: int, floor_us: int) -> int:
    """Tell above which instant a snapshot must be to be offered again."""
    return max(horizon_us - DAY_US, (floor_us + horizon_us) // 2)


def holds_for_us(begun: Begun) -> int:
    """Tell for how long a stream that has nothing to send would be offered the same again, and be no reset."""
    left_us = begun.snapshot_us - oldest_us(begun.horizon_us, begun.floor_us)
    synced_us = begun.state.synced_us(begun.types)
    return left_us if not begun.floor_us or synced_us is None else min(left_us, synced_us - begun.floor_us)


def known_types(
    types: Sequence[str], known: Collection[str], *, leave_out: bool
) -> tuple[Sequence[str], Sequence[str]]:
    """Split the types of a request into known ones and those to leave out; raises InvalidInput for all others.

    `leave_out`: what a later version might know is no error.
    """
    unknown = {index: name for index, name in enumerate(types) if name not in known}
    problems: list[tuple[tuple[Any, ...], str]] = [
        (("types", index), "Invalid enum value")
        for index, name in unknown.items()
        if not (leave_out and is_well_formed(name))
    ]
    if problems:
        raise InvalidInput(problems)
    return [name for name in types if name in known] if unknown else types, list(dict.fromkeys(unknown.values()))


def routes(services: Services) -> Iterator[Route]:
    """List the stream's routes, under /api and at the root."""
    stream = SyncStream(services)
    answer = Text(
        JSON_LINES,
        'Lines of {"type", "data", "ack"}, each a SyncLine, the last one of type SyncCompleteV1 or SyncResetV1',
        _EXAMPLE,
    )
    for path, suffix in (("/api/sync/stream", ""), ("/sync/stream", "AtRoot")):
        operation = Operation(
            "POST",
            "getSyncStream" + suffix,
            "Stream changes",
            {200: answer},
            body=SyncStreamDto,
            example={"types": ["AssetsV2", "AlbumsV2"]},
        )
        yield Route(path, stream, (operation,))
