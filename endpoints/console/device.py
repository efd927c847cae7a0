"""The page of one device: what it is, how far it is, what happened to it, and how it was at any instant."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Final, NamedTuple

import falcon
import falcon.asgi
import msgspec

from endpoints.accounts.sessions import check_session_id
from endpoints.audit.devices import PLOTS_AT_ONCE
from endpoints.console import plots
from endpoints.console.pages import HEADERS, PLACE, show
from endpoints.console.visitors import Visitor, Visitors
from endpoints.http import bodies
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.errors import CorruptLedger, InvalidInput, LayoutError, NoSuchSession
from ledger.log.finding import locate
from ledger.positions import MAX_US, us_from_iso
from projections.archive.errors import ArchiveNotGiven
from projections.devices.health import DeviceHealth, health
from projections.devices.plot import Plot, plot
from projections.devices.told import WHY
from projections.history import session_history
from projections.history.session_history import HistoryPage, Tag, Wanted
from projections.history.state_at import StateThen, describe, fold_at
from projections.sent.judgement import judge
from projections.sent.record import newest

LISTED: Final = 50
BUCKETS: Final = 120
AT_FIRST: Final = 10_000
"""How many of a device's events the plot counts until it is asked for more: a long history takes most of a second."""
DONE: Final = {
    "reset": "The device is asked to start over: its next stream tells it so.",
    "types": "The device gets these rows again with its next stream.",
    "take-back": "The device is no longer asked to start over.",
    "sign-out": "The device is signed out: its tokens no longer admit anybody.",
}

_NO_EVENTS: Final = HistoryPage([], None, below_floor=False, looked_at=0)


class DeviceQuery(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """Which time the plot shows, which instant the state, and where the list of events begins."""

    since: str | None = None
    until: str | None = None
    at: str | None = None
    before: Annotated[int, msgspec.Meta(ge=1, le=2**53)] | None = None
    event: Tag | None = None
    whole: bool = False
    done: str = ""


class Place(NamedTuple):
    """A session that a visitor may see: its partition, its user, its id."""

    partition: int
    user: str
    sid: str


class Seen:
    """Finds devices for those who may see them."""

    def __init__(self, services: Services, visitors: Visitors) -> None:
        self.services = services
        self.ledger = services.ledger
        self.visitors = visitors

    async def place(self, visitor: Visitor, sid: str) -> Place:
        """Find a session; one that is not there and one that the visitor may not see are the same 404.

        One whose owner cannot be read is a 409, which tells why, for who sees all.
        """
        check_session_id(sid)
        try:
            own = None if visitor.sees_all or visitor.user is None else self.ledger.partition_of(visitor.user)
            partition = await locate(self.ledger.stored, sid) if own is None else own
            user = await session_history.owner(self.ledger, partition, sid)
            if visitor.may_see(user):
                return Place(partition, user, sid)
        except NoSuchSession:
            pass
        except CorruptLedger as error:
            if visitor.sees_all:
                raise falcon.HTTPConflict(description=f"This device cannot be shown: {error}") from error
        raise falcon.HTTPNotFound(description="There is no such device")


class Device(Seen):
    """The page, and the parts of it that change alone."""

    def __init__(self, services: Services, visitors: Visitors) -> None:
        super().__init__(services, visitors)
        self._turns = asyncio.Semaphore(PLOTS_AT_ONCE)  # to plot or to fold a long history takes most of a second

    async def on_get(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        visitor = await self.visitors.of(req)
        place = await self.place(visitor, session_id)
        query = bodies.query(req, DeviceQuery)
        now_us = self.ledger.clock()
        known, trouble = await self._health(place)
        history, unlisted = await self._history(place, query)
        drawn = await self._plot(place, query)
        at_us = _at_us(query.at, now_us)
        then, not_then = await self._then(place, at_us, known if not query.at else None)
        show(
            resp,
            "device.html",
            visitor,
            here="devices" if visitor.sees_all else "mine",
            place=place,
            health=known,
            trouble=trouble,
            stuck=await self._stuck(place),
            bars=[] if known is None else plots.bars(known.types),
            nothing_of=[] if known is None else plots.nothing_of(known.types),
            plot=drawn,
            history=history,
            unlisted=unlisted,
            query=query,
            then=then,
            not_then=not_then,
            at_us=at_us,
            may_act=visitor.may_act_on(place.user),
            signs_out_here=not self.services.settings.sessions_elsewhere,
            has_log=self.services.log is not None,
            done=DONE.get(query.done, ""),
            now_us=now_us,
        )

    async def on_get_state(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        """Tell how the device was at an instant: a part of the page, for its slider."""
        visitor = await self.visitors.of(req)
        place = await self.place(visitor, session_id)
        at_us = _at_us(bodies.query(req, DeviceQuery).at, self.ledger.clock())
        then, not_then = await self._then(place, at_us, None)
        show(resp, "state.html", visitor, then=then, not_then=not_then, at_us=at_us, place=place)

    async def on_get_proof(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        """Give what proves the device's history, as `/ledger/sessions/{id}/proof` does, to be kept as a file."""
        visitor = await self.visitors.of(req)
        place = await self.place(visitor, session_id)
        log = self.services.log
        found = None if log is None else await log.prove(self.services.past, place.partition, place.sid)
        if found is None:
            raise falcon.HTTPNotFound(description="Nothing of this device is in a transparency log yet")
        resp.set_headers(HEADERS)
        resp.set_header("content-disposition", f'attachment; filename="{place.sid}.proof.json"')
        send(resp, found)

    async def _health(self, place: Place) -> tuple[DeviceHealth | None, str]:
        services = self.services
        try:
            return await health(self.ledger, services.past, services.source, place.partition, place.sid), ""
        except (NoSuchSession, LayoutError, CorruptLedger) as error:
            return None, str(error)

    async def _stuck(self, place: Place) -> str:
        """Tell in three words why a device is stuck; '' where it is not."""
        state = await self.ledger.look(place.partition, place.sid)
        if state is None:
            return ""
        stuck = judge(await newest(self.ledger, place.partition, place.sid), state)
        return "" if stuck is None else WHY[stuck.kind]

    async def _history(self, place: Place, query: DeviceQuery) -> tuple[HistoryPage, str]:
        """Read a page of the list of events, and why there is none."""
        pages = session_history.pages(
            self.services.past,
            place.partition,
            place.sid,
            Wanted(tag=query.event),
            query.before,
            LISTED,
            key=await self.ledger.sealing.key_of(place.user),
        )
        try:
            return await anext(pages, _NO_EVENTS), ""
        except (NoSuchSession, CorruptLedger, LayoutError) as error:
            return _NO_EVENTS, str(error)
        finally:
            await pages.aclose()  # type: ignore[attr-defined]

    async def _plot(self, place: Place, query: DeviceQuery) -> plots.Drawn | None:
        since_us, until_us = _bound("from", query.since), _bound("to", query.until)
        if since_us is not None and until_us is not None and until_us < since_us:
            raise InvalidInput([(("to",), "lies before `from`")])
        try:
            async with self._turns:
                counted = await self._counted(place, since_us, until_us, whole=query.whole)
        except (NoSuchSession, CorruptLedger, LayoutError):
            return None
        return plots.drawn(counted, f"{PLACE}/devices/{place.sid}")

    async def _counted(self, place: Place, since_us: int | None, until_us: int | None, *, whole: bool) -> Plot:
        """Count what happened; without `since_us` of the newest events, or of the `whole` history."""
        past, sent = self.services.past, list(await newest(self.ledger, place.partition, place.sid))
        last = (await past.page(place.partition, place.sid, count=1)).entries
        if since_us is None and last and last[0].recorded.seq > AT_FIRST and not whole:
            top = last[0].recorded.seq - AT_FIRST
            with suppress(ArchiveNotGiven, CorruptLedger):  # then those that can be read are fewer
                begins = (await past.page(place.partition, place.sid, top_seq=top, count=1)).entries
                since_us = begins[0].recorded.at_us if begins else None
        if until_us is None and sent:  # a stream may have ended behind the last event
            until_us = max(sent[0].stream.at_us, *(entry.recorded.at_us for entry in last), since_us or 0)
        return await plot(past, place.partition, place.sid, sent, since_us, until_us, BUCKETS)

    async def _then(self, place: Place, at_us: int, now: DeviceHealth | None) -> tuple[StateThen | None, str]:
        """Tell how a device was, and why that is not known; `now` is how it is, where that is what is asked for."""
        if now is not None:
            return now.state, ""
        try:
            async with self._turns:
                moment = await fold_at(self.services.past, place.partition, place.sid, at_us)
        except (NoSuchSession, LayoutError, CorruptLedger) as error:  # not begun yet, or its beginning is not here
            return None, str(error)
        return describe(moment, at_us, await self.ledger.sealing.key_of(place.user)), ""


def _at_us(text: str | None, now_us: int) -> int:
    """Read the instant of a slider, in seconds since 1970, or of a link, in ISO 8601; now without one."""
    if not text:
        return now_us
    if text.isascii() and text.isdigit():
        return min(int(text[:15]), MAX_US // 1_000_000) * 1_000_000
    return _instant("at", text)


def _bound(name: str, text: str | None) -> int | None:
    return _instant(name, text) if text else None


def _instant(name: str, text: str) -> int:
    """Read an instant; a form's local time, which has no zone, is UTC here."""
    try:
        return us_from_iso(text)
    except ValueError as error:
        try:
            return us_from_iso(text + (":00Z" if text.count(":") == 1 else "Z"))
        except ValueError:
            raise InvalidInput([((name,), str(error))]) from error
