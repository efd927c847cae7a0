"""What a list tells of each device in it, read for the page that is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from ledger import keys
from ledger.entity_types import COMPLETE
from ledger.errors import LedgerError, NoSuchSession
from ledger.log.order import SPAN_MS
from ledger.log.service import Ledger
from ledger.personal import has_sealed, opened, text_of
from ledger.positions import iso_from_us
from ledger.state import State
from projections.devices.behind import Behind
from projections.devices.told import WHY, DeviceTold, StuckTold
from projections.finding.prefixes import Place
from projections.finding.summaries import SessionFound, told_ended
from projections.history.event_pages import EventPages
from projections.sent.judgement import judge
from projections.sent.record import newest


class Rows:
    """Reads the rows of a page."""

    def __init__(self, ledger: Ledger, past: EventPages, behind: Behind) -> None:
        self._ledger = ledger
        self._past = past
        self._behind = behind

    async def told(self, places: Sequence[Place]) -> list[DeviceTold]:
        """Tell of devices, in their order; one that is gone meanwhile is left out, one that is damaged says so."""
        found = await asyncio.gather(*map(self._one, places))
        states = [state for state, _ in filter(None, found) if state is not None]
        behind = await self._behind.of(states)
        rows = []
        for one in found:
            if one is not None:
                state, row = one
                rows.append(row if state is None else replace(row, behind=behind.get(state.sid)))
        return rows

    async def _one(self, place: Place) -> tuple[State | None, DeviceTold] | None:
        try:
            state = await self._ledger.look(place.partition, place.sid)
            if state is not None:
                return state, await self._living(place, state)
            ended = await told_ended(self._ledger, self._past, place)
            return None if ended is None else (None, _of_ended(ended))
        except NoSuchSession:
            return None
        except LedgerError as error:
            return None, _damaged(place, str(error))

    async def _living(self, place: Place, state: State) -> DeviceTold:
        activity, order = keys.activity(place.partition), keys.order(place.partition)
        seen, placed, sent = await asyncio.gather(
            self._ledger.store.command("ZSCORE", activity, place.sid, key=activity),
            self._ledger.store.command("ZSCORE", order, place.sid, key=order),
            newest(self._ledger, place.partition, place.sid),
        )
        is_marked = placed is not None and float(placed) < SPAN_MS
        stuck, complete = judge(sent, state) if is_marked else None, state.checkpoints.get(COMPLETE)
        if has_sealed(state):
            with suppress(LedgerError):  # where keys are is away: all else of the device is told
                state = opened(state, await self._ledger.sealing.key_of(state.user))
        return DeviceTold(
            session=state.sid,
            user=state.user,
            library=state.library,
            device_type=text_of(state.device_type),
            device_os=text_of(state.device_os),
            app_version=text_of(state.app_version) or None,
            created_at=iso_from_us(state.created_at_us),
            last_seen_at=iso_from_us(max(state.at_us, int(float(seen or 0)) * 1000)),
            ended_at=None,
            end_reason=None,
            stuck=None if stuck is None else StuckTold(iso_from_us(stuck.since_us), WHY[stuck.kind]),
            last_completed_at=None if complete is None else iso_from_us(complete.acked_at_us),
            behind=None,
        )


def _of_ended(found: SessionFound) -> DeviceTold:
    return DeviceTold(
        session=found.id,
        user=found.user,
        library=found.library,
        device_type=found.device_type,
        device_os=found.device_os,
        app_version=found.app_version,
        created_at=found.created_at,
        last_seen_at=found.last_seen_at,
        ended_at=found.ended_at,
        end_reason=found.end_reason,
        stuck=None,
        last_completed_at=None,
        behind=None,
        damaged=found.damaged,
    )


def _damaged(place: Place, why: str) -> DeviceTold:
    return DeviceTold(place.sid, "", None, None, None, None, None, None, None, None, None, None, None, damaged=why)
