"""The pages that list devices: all users', those who need help first, and a user's own."""

from __future__ import annotations

from typing import Final

import falcon.asgi
import msgspec

from endpoints.console.pages import PLACE, go_on, show
from endpoints.console.visitors import Visitors
from endpoints.http import bodies
from endpoints.http.errors import Forbidden
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.errors import InvalidInput
from projections.devices.listing import Asked
from projections.devices.told import DevicesPage, Order
from projections.finding.prefixes import PREFIX

SHOWN: Final = 50
MAX_QUESTION_CHARS: Final = 256
_NOBODY: Final = DevicesPage([], None, [])


class DevicesQuery(msgspec.Struct, frozen=True):
    """Which devices: all, or those of whom or what somebody typed."""

    q: str = ""
    ended: bool = False
    order: Order = "help"
    cursor: str | None = None


class Home:
    """The first page of who is signed in."""

    def __init__(self, visitors: Visitors) -> None:
        self._visitors = visitors

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        visitor = await self._visitors.of(req)
        go_on(resp, f"{PLACE}/devices" if visitor.sees_all else f"{PLACE}/my-devices")


class DevicesList:
    """Everybody's devices."""

    def __init__(self, services: Services, visitors: Visitors) -> None:
        self._ledger = services.ledger
        self._services = services
        self._visitors = visitors
        self._devices = services.devices

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        visitor = await self._visitors.who_sees_all(req)
        query = bodies.query(req, DevicesQuery)
        question = query.q.strip()[:MAX_QUESTION_CHARS]
        page, found_by, wrong = _NOBODY, "", ""
        try:
            page, found_by = await self._found(question, query)
        except InvalidInput as error:
            wrong = "; ".join(what for _, what in error.problems)
        show(
            resp,
            "devices.html",
            visitor,
            here="devices",
            query=query,
            question=question,
            page=page,
            found_by=found_by,
            wrong=wrong,
            now_us=self._ledger.clock(),
        )

    async def _found(self, question: str, query: DevicesQuery) -> tuple[DevicesPage, str]:
        """Find devices by what somebody typed, and tell what it was taken for: a session's id, an address, a user."""
        if not question:
            asked = Asked(order=query.order)
            return await self._devices.page(asked, query.cursor, SHOWN), ""
        if PREFIX.fullmatch(question):
            page = await self._devices.page(Asked(session=question, ended=query.ended), query.cursor, SHOWN)
            if page.devices or query.cursor:
                return page, "session"
        if "@" in question and (user := await self._services.user_of_email(question)) is not None:
            return await self._of_user(user, query), "e-mail"
        return await self._of_user(question, query), "user"

    async def _of_user(self, user: str, query: DevicesQuery) -> DevicesPage:
        asked = Asked(order=query.order, user=user, ended=query.ended)
        return await self._devices.page(asked, query.cursor, SHOWN)


class MyDevices:
    """The devices of the user who is signed in."""

    def __init__(self, services: Services, visitors: Visitors) -> None:
        self._ledger = services.ledger
        self._services = services
        self._visitors = visitors
        self._devices = services.devices

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        visitor = await self._visitors.of(req)
        if visitor.user is None:
            raise Forbidden("You are signed in with a key or a link, not as a user, so you have no devices of your own")
        query = bodies.query(req, DevicesQuery)
        asked = Asked(order="seen", user=visitor.user, ended=query.ended)
        page = await self._devices.page(asked, query.cursor, SHOWN)
        now_us = self._ledger.clock()
        show(resp, "my_devices.html", visitor, here="mine", query=query, page=page, now_us=now_us)
