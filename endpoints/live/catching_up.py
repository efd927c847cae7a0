"""Looks after sockets that may not have heard something: is the session over, is the device behind?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from endpoints.services import Services
from endpoints.sync.stream import positions
from ledger.entity_types import COMPLETE, types_in
from ledger.errors import CorruptLedger, LedgerError
from ledger.state import State
from projections.entities.registry import row
from projections.entities.source import EntitySource, PositionLost
from projections.live.signals import Endings

if TYPE_CHECKING:
    from endpoints.live.sockets import Seat

log = logging.getLogger(__name__)

AT_ONCE: Final = 16
AGAIN_S: Final = 2.0
"""When a look is tried again that store or source did not answer."""


class CatchingUp:
    """Looks at sockets once, some at a time. It is bounded by their number: each is noted at most once."""

    def __init__(
        self,
        services: Services,
        seat_of: Callable[[str], Seat | None],
        behind: Callable[[Seat], None],
        over: Callable[[str, Endings], None],
    ) -> None:
        """`behind` is told of a device that lacks something, `over` of a session that ended."""
        self._services = services
        self._seat_of = seat_of
        self._behind = behind
        self._over = over
        self._waiting: dict[str, None] = {}
        self._looking: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def add(self, io_sid: str) -> None:
        """Look at a socket soon."""
        self._waiting[io_sid] = None
        if len(self._looking) < AT_ONCE:
            task = asyncio.get_running_loop().create_task(self._look_at_all())
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    def forget(self, io_sid: str) -> None:
        """Look at a socket no more."""
        self._waiting.pop(io_sid, None)
        if (timer := self._timers.pop(io_sid, None)) is not None:
            timer.cancel()

    def close(self) -> None:
        """Look at nothing any more."""
        self._waiting.clear()
        for task in self._looking:
            task.cancel()
        for timer in self._timers.values():
            timer.cancel()

    async def _look_at_all(self) -> None:
        while self._waiting:
            io_sid = next(iter(self._waiting))
            del self._waiting[io_sid]
            seat = self._seat_of(io_sid)
            if seat is None:
                continue
            try:
                await self._look_at(io_sid, seat)
            except CorruptLedger as error:
                log.error("whether a socket's session goes on cannot be told: %s", error)
            except LedgerError as error:
                log.debug("a socket is looked at again in a moment: %s", error)
                if self._seat_of(io_sid) is seat:
                    self._again(io_sid, AGAIN_S)

    async def _look_at(self, io_sid: str, seat: Seat) -> None:
        assert seat.room is not None
        assert seat.session is not None
        ledger = self._services.ledger
        sid, place = seat.session
        state = await ledger.look(place.partition, sid)
        if state is None or not state.lives_at(ledger.clock()):
            await self._services.present()  # nobody is signed out by a store that lost its ledger
            self._over(sid, place)
            return
        if state.over_at_us is not None and self._seat_of(io_sid) is seat:
            self._again(io_sid, max((state.over_at_us - ledger.clock()) / 1e6, 0.0) + 0.01)
        if await is_behind(self._services.source, state):
            self._behind(seat)

    def _again(self, io_sid: str, seconds: float) -> None:
        if (timer := self._timers.pop(io_sid, None)) is not None:
            timer.cancel()
        seconds = min(seconds, 86_400.0)
        self._timers[io_sid] = asyncio.get_running_loop().call_later(seconds, self._due, io_sid)

    def _due(self, io_sid: str) -> None:
        self._timers.pop(io_sid, None)
        if self._seat_of(io_sid) is not None:
            self.add(io_sid)


async def is_behind(source: EntitySource, state: State) -> bool:
    """Tell whether a device would get anything if it synced now; raises what the source raises.

    One that completed no stream yet would, and so would one that is to start over.
    """
    completed = state.checkpoints.get(COMPLETE)
    if completed is None or state.pending_reset or state.reset_sent:
        return True
    source = source.of_session(state.user, state.sid)
    horizon_us = await source.horizon(state.library)
    if source.steady:
        return completed.position.at_us < horizon_us
    mask = 0
    for offer in state.offered:
        mask |= offer.mask
    rows = [row(name) for name in types_in(mask) if name != COMPLETE]
    try:
        return bool(await source.changed(state.library, positions(state, rows), horizon_us))
    except PositionLost:
        return True
