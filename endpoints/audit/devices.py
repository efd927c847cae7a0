"""Devices as people look for and at them, as /console reads them too.

GET /ledger/devices and /ledger/my/devices; of one device GET /ledger/sessions/{id}/health and …/plot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any, Final

import falcon
import falcon.asgi
import msgspec

from endpoints.audit.history import instant, readable_place
from endpoints.http import bodies
from endpoints.http.compression import compress_whole
from endpoints.http.errors import Forbidden
from endpoints.http.operations import EITHER, SESSION, Operation, Route
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.admission import Caller
from ledger.errors import InvalidInput, LayoutError, NoSuchSession
from ledger.positions import MAX_US
from projections.archive.errors import ArchiveNotGiven
from projections.devices.health import DeviceHealth, health
from projections.devices.listing import MAX_LIMIT, Asked
from projections.devices.plot import MOST_BUCKETS, Plot, plot
from projections.devices.told import DevicesPage, Order
from projections.sent.record import newest

SCOPE: Final = "audit.read"
PLOTS_AT_ONCE: Final = 2
_FIRST: Final = "2025-01-20T10:30:45.123456Z"
_EXAMPLE: Final[dict[str, Any]] = {
    "devices": [
        {
            "session": "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
            "user": "ann",
            "library": "ann",
            "deviceType": "iPhone",
            "deviceOS": "iOS",
            "appVersion": "3.3.0",
            "createdAt": _FIRST,
            "lastSeenAt": "2025-03-02T08:00:00.000000Z",
            "endedAt": None,
            "endReason": None,
            "stuck": {"since": "2025-03-01T21:14:03.000000Z", "why": "same rows again"},
            "lastCompletedAt": "2025-02-28T19:02:11.500000Z",
            "behind": 312,
            "damaged": None,
        }
    ],
    "next": "h.1740856443000.5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
    "unread": [],
}
_PLOT_EXAMPLE: Final[dict[str, Any]] = {
    "sessionId": "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
    "from": _FIRST,
    "to": "2025-01-21T10:30:45.123456Z",
    "bucketS": 864.0,
    "firstAt": _FIRST,
    "lastAt": "2025-01-21T10:30:45.123456Z",
    "events": 7,
    "belowFloor": False,
    "cut": False,
    "broken": None,
    "buckets": [
        {"index": 0, "at": _FIRST, "offers": 1, "acks": 4, "acked": 9, "others": 1, "streams": {"completed": 1}},
        {"index": 99, "at": "2025-01-21T10:16:21.123456Z", "offers": 1, "stale": 2, "streams": {"gone": 1}},
    ],
}


class DevicesQuery(msgspec.Struct, frozen=True):
    """Which devices, in which order; without `user`, `email` and `session` all that live."""

    order: Annotated[Order, msgspec.Meta(description="Who needs help first, or who was heard of last first")] = "help"
    user: Annotated[str, msgspec.Meta(description="Only those of this user", examples=["ann"])] | None = None
    email: Annotated[str, msgspec.Meta(description="Only those of the user with exactly this address")] | None = None
    session: (
        Annotated[
            str,
            msgspec.Meta(description="Only those whose ids begin like this; 4 hex digits or more", examples=["5e88"]),
        ]
        | None
    ) = None
    ended: Annotated[
        bool, msgspec.Meta(description="Also those that have ended; with `user`, `email` or `session`")
    ] = False
    mine: Annotated[bool, msgspec.Meta(description="Only those of the user who asks")] = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT, description="Devices in a page")] = 50
    cursor: Annotated[str, msgspec.Meta(description="The `next` of the page before")] | None = None


class MyDevicesQuery(msgspec.Struct, frozen=True):
    """Which of one's own devices, in which order."""

    order: Annotated[Order, msgspec.Meta(description="Who needs help first, or who was heard of last first")] = "help"
    ended: Annotated[bool, msgspec.Meta(description="Also those that have ended")] = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT, description="Devices in a page")] = 50
    cursor: Annotated[str, msgspec.Meta(description="The `next` of the page before")] | None = None


class PlotQuery(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """Over which time; without `from` and `to` from the device's first event to its last."""

    since: Annotated[str, msgspec.Meta(description="ISO 8601 with a zone", examples=[_FIRST])] | None = None
    until: Annotated[str, msgspec.Meta(description="ISO 8601 with a zone")] | None = None
    buckets: Annotated[int, msgspec.Meta(ge=1, le=MOST_BUCKETS, description="Into how many spans it is cut")] = 100


class ListDevices:
    """The devices of everybody, for API keys with `audit.read`; one's own for whoever is signed in."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        who = await self._services.auth.scoped(req, SCOPE)
        query = bodies.query(req, DevicesQuery)
        asked = Asked(query.order, query.user, query.session, query.ended)
        if isinstance(who, Caller):
            await self._services.ledger.admit(who)
            if not query.mine:
                raise Forbidden("Only an API key with the scope audit.read may list all devices; yours are at ?mine=1")
            if query.email is not None or query.user not in (None, who.user):
                raise Forbidden("Only an API key with the scope audit.read may ask for another user")
            asked = msgspec.structs.replace(asked, user=who.user)
        elif query.mine:
            raise InvalidInput([(("mine",), "An API key has no devices: name the user")])
        elif query.email is not None:
            if query.user is not None:
                raise InvalidInput([(("email",), "Give user or email, not both")])
            user = await self._services.user_of_email(query.email)
            if user is None:
                send(resp, DevicesPage([], None, []))
                return
            asked = msgspec.structs.replace(asked, user=user)
        send(resp, await self._services.devices.page(asked, query.cursor, query.limit))
        compress_whole(req, resp)


class ListMyDevices:
    """The devices of whoever is signed in."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        caller = await self._services.auth.session(req, "session.read")
        await self._services.ledger.admit(caller)
        query = bodies.query(req, MyDevicesQuery)
        asked = Asked(query.order, caller.user, None, query.ended)
        send(resp, await self._services.devices.page(asked, query.cursor, query.limit))
        compress_whole(req, resp)


class Health:
    """How one device is."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        partition, _, session_id = await readable_place(self._services, req, session_id)
        services = self._services
        try:
            found = await health(services.ledger, services.past, services.source, partition, session_id)
        except ArchiveNotGiven:
            raise
        except (NoSuchSession, LayoutError) as error:
            raise falcon.HTTPNotFound(description=str(error)) from error
        send(resp, found)
        compress_whole(req, resp)


class PlotDevice:
    """One device's history as counts over time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._turns = asyncio.Semaphore(PLOTS_AT_ONCE)  # a long history takes most of a second of this process

    async def on_get(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        partition, _, session_id = await readable_place(self._services, req, session_id)
        query = bodies.query(req, PlotQuery)
        since_us = None if query.since is None else instant("from", query.since, 0)
        until_us = None if query.until is None else instant("to", query.until, MAX_US)
        if since_us is not None and until_us is not None and until_us < since_us:
            raise InvalidInput([(("to",), "It is before `from`")])
        sent = await newest(self._services.ledger, partition, session_id)
        async with self._turns:
            found = await plot(self._services.past, partition, session_id, sent, since_us, until_us, query.buckets)
        send(resp, found)
        compress_whole(req, resp)


def routes(services: Services) -> Iterator[Route]:
    """List the routes."""
    page = Annotated[DevicesPage, msgspec.Meta(examples=[_EXAMPLE])]
    listing = Operation(
        "GET",
        "listDevices",
        "List devices of all users, who needs help first, or find some",
        {200: page},
        EITHER,
        query=DevicesQuery,
    )
    yield Route("/ledger/devices", ListDevices(services), (listing,))
    mine = Operation("GET", "listMyDevices", "List one's own devices", {200: page}, SESSION, query=MyDevicesQuery)
    yield Route("/ledger/my/devices", ListMyDevices(services), (mine,))
    of_one = Operation(
        "GET",
        "getSessionHealth",
        "Tell how a device is: its state, each entity type against its library, its last streams, what is wrong",
        {200: DeviceHealth},
        EITHER,
        refusals=(404,),
    )
    yield Route("/ledger/sessions/{session_id}/health", Health(services), (of_one,))
    over_time = Operation(
        "GET",
        "plotSession",
        "Count a device's offers, acks, resets and streams over time",
        {200: Annotated[Plot, msgspec.Meta(examples=[_PLOT_EXAMPLE])]},
        EITHER,
        query=PlotQuery,
        refusals=(404,),
    )
    yield Route("/ledger/sessions/{session_id}/plot", PlotDevice(services), (over_time,))
