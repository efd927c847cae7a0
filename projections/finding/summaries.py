"""What is told of a session that was found, living or ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ledger.errors import CorruptLedger, NoSuchSession
from ledger.events import SessionCreated, SessionEnded
from ledger.log.append import read_ended
from ledger.log.reader import Entry
from ledger.log.service import Ledger
from ledger.personal import UserKey, opened, text_of
from ledger.positions import iso_from_us
from ledger.state import State
from projections.finding.prefixes import Place
from projections.history.event_pages import EventPages
from projections.history.user_history import sessions_of

SHOWN: Final = 100


class SessionFound(msgspec.Struct, frozen=True, rename={
    "device_type": "deviceType", "device_os": "deviceOS", "app_version": "appVersion", "created_at": "createdAt",
    "last_seen_at": "lastSeenAt", "ended_at": "endedAt", "end_reason": "endReason",
}):  # fmt: skip
    """A session, living or ended. `lastSeenAt` of an ended one is when it ended; what is null is not kept any more.

    `damaged` tells what is wrong where it cannot be read.
    """

    id: str
    user: str
    library: str | None
    lives: bool
    device_type: str | None
    device_os: str | None
    app_version: str | None
    created_at: str | None
    last_seen_at: str | None
    ended_at: str | None = None
    end_reason: str | None = None
    damaged: str | None = None


async def all_of(ledger: Ledger, user: str, *, ended: bool) -> list[Place]:
    """List a user's living sessions, the one used last first; with `ended` also those that ended, newest first.

    Raises Rebuilding.
    """
    partition = ledger.partition_of(user)
    living, damaged = await ledger.all_devices(user)
    sids = [*(state.sid for state in living), *damaged]
    seen = dict(zip(sids, await ledger.sessions.seen_ms(user, sids), strict=True))
    for state in living:
        seen[state.sid] = max(seen[state.sid], state.at_us // 1000)
    found = [Place(sid, partition, True) for sid in sorted(sids, key=lambda sid: (-seen[sid], sid))]
    if not ended:
        return found
    over: list[tuple[int, str]] = []
    for sid in await sessions_of(ledger.store, partition, user) - set(sids):
        kept = await read_ended(ledger.store, partition, sid)
        if kept is not None:
            over.append((int(kept.head.partition("-")[0]), sid))
    return found + [Place(sid, partition, False) for _, sid in sorted(over, reverse=True)]


async def summaries(ledger: Ledger, past: EventPages, places: Sequence[Place]) -> list[SessionFound]:
    """Tell of sessions, in their order; one that is gone meanwhile is left out."""
    told = [await _summary(ledger, past, place) for place in places]
    return [one for one in told if one is not None]


async def _summary(ledger: Ledger, past: EventPages, place: Place) -> SessionFound | None:
    try:
        state = await ledger.look(place.partition, place.sid)
        if state is not None:
            seen_ms = (await ledger.sessions.seen_ms(state.user, [state.sid]))[0]
            return _living(await ledger.sealing.opened(state), max(state.at_us, seen_ms * 1000))
        return await told_ended(ledger, past, place)
    except NoSuchSession:
        return None
    except CorruptLedger as error:
        return SessionFound(place.sid, "", None, place.lives, None, None, None, None, None, damaged=str(error))


async def told_ended(ledger: Ledger, past: EventPages, place: Place) -> SessionFound | None:
    """Tell of an ended session; None if it is not there. Raises CorruptLedger."""
    kept = await read_ended(ledger.store, place.partition, place.sid)
    return None if kept is None else await _ended(ledger, past, place, kept.user)


def _living(state: State, seen_us: int) -> SessionFound:
    return SessionFound(
        id=state.sid,
        user=state.user,
        library=state.library,
        lives=True,
        device_type=text_of(state.device_type),
        device_os=text_of(state.device_os),
        app_version=text_of(state.app_version) or None,
        created_at=iso_from_us(state.created_at_us),
        last_seen_at=iso_from_us(seen_us),
    )


async def _ended(ledger: Ledger, past: EventPages, place: Place, user: str) -> SessionFound:
    """Tell of an ended session by its first and its last event, as far as they are still there."""
    key = await ledger.sealing.key_of(user)
    first, last = await _end(past, place, forward=True), await _end(past, place, forward=False)
    begun = _opened(first, key) if first is not None else None
    over = _opened(last, key) if last is not None else None
    created = begun if isinstance(begun, SessionCreated) else None
    return SessionFound(
        id=place.sid,
        user=user,
        library=created.library if created else None,
        lives=False,
        device_type=text_of(created.device_type) if created else None,
        device_os=text_of(created.device_os) if created else None,
        app_version=(text_of(created.app_version) or None) if created else None,
        created_at=iso_from_us(first.recorded.at_us) if created and first else None,
        last_seen_at=iso_from_us(last.recorded.at_us) if last else None,
        ended_at=iso_from_us(last.recorded.at_us) if last else None,
        end_reason=over.reason if isinstance(over, SessionEnded) else None,
    )


async def _end(past: EventPages, place: Place, *, forward: bool) -> Entry | None:
    """Read a session's first or last event; None where it is not here any more."""
    async for run in past.runs(place.partition, place.sid, forward=forward, size=1):
        return run.entries[0] if run.entries else None
    return None


def _opened(entry: Entry, key: UserKey | None) -> object:
    return opened(entry.recorded.event, key)
