"""The live tail: events as they happen, in words. It is one more follower of the feed of all events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from endpoints.accounts.sessions import check_session_id
from endpoints.console.pages import AGAIN_S, HEADERS, show
from endpoints.console.visitors import NotSignedIn, Visitor, Visitors
from endpoints.console.words import clean, told
from endpoints.http import bodies
from endpoints.http.operations import EVENT_STREAM
from endpoints.http.request import Request
from endpoints.http.sending import rechecked, send_endless, with_first_made
from endpoints.services import Services
from ledger.errors import InvalidInput, NoSuchSession
from ledger.events import tag_of
from ledger.personal import has_sealed, opened
from ledger.positions import iso_from_us
from projections.feed.follower import Batch
from projections.feed.position import fits_header
from projections.feed.told import FeedFilter, Notice, Seen
from projections.history.words import TAGS, data_of

SHOWN: Final = 500
"""How many events a page keeps; the oldest go."""
_COMMENT: Final = b": nothing new\n\n"
_encode: Final = msgspec.json.Encoder().encode


class TailQuery(msgspec.Struct, frozen=True):
    """Which events: of a user, of a session, of one type; empty for all. `after`: from this position on."""

    user: str = ""
    session: str = ""
    type: str = ""
    after: str = ""


class Tail:
    """The page, and the events that it asks for."""

    def __init__(self, services: Services, visitors: Visitors) -> None:
        self._services = services
        self._visitors = visitors

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        visitor = await self._visitors.of(req)
        query = bodies.query(req, TailQuery)
        wrong = ""
        try:
            await self._filter(visitor, query)
        except InvalidInput as error:
            wrong = "; ".join(what for _, what in error.problems)
        except falcon.HTTPNotFound as error:
            wrong = error.description or ""
        show(resp, "tail.html", visitor, here="tail", query=query, wrong=wrong, shown=SHOWN, again_s=AGAIN_S)

    async def on_get_events(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Send events from now on, or from where a browser was that comes again: it, or the page, says where."""
        visitor = await self._visitors.of(req)
        query = bodies.query(req, TailQuery)
        wanted = await self._filter(visitor, query)
        if req.method == "HEAD":
            resp.content_type = EVENT_STREAM
            return
        hub, given = self._services.feed, req.get_header("last-event-id") or query.after
        position = hub.parse(given, "last-event-id") if given else await hub.now()
        user = None if visitor.sees_all else visitor.user
        made = await with_first_made(self._made(hub.follow(position, wanted, user=user)))
        resp.set_headers(HEADERS)
        resp.content_type = EVENT_STREAM
        send_endless(req, resp, made, rechecked(lambda: self._may(req, visitor)), self._services.stall_s)

    async def _filter(self, visitor: Visitor, query: TailQuery) -> FeedFilter:
        """Read which events are wanted; who does not see all sees those of their own devices."""
        user = (query.user.strip() or None) if visitor.sees_all else visitor.user
        session = query.session.strip() or None
        if query.type and query.type not in TAGS:
            raise InvalidInput([(("type",), "That is no type of event")])
        if session is not None:
            check_session_id(session, "session")
        try:
            return await self._services.feed.filter_of(
                user=user, session=session, types=[query.type] if query.type else []
            )
        except NoSuchSession as error:
            raise falcon.HTTPNotFound(description="There is no such device") from error

    async def _made(self, batches: AsyncGenerator[Batch]) -> AsyncGenerator[bytes]:
        hub = self._services.feed
        try:
            async for batch in batches:
                lines = [b"data: " + _encode(await self._line(one)) + b"\n\n" for one in batch.told]
                position = None if batch.position is None else hub.text(batch.position)
                if position is not None and fits_header(position, hub.partitions):
                    lines.append(b"event: position\nid: " + position.encode() + b"\ndata:\n\n")
                yield b"".join(lines) or _COMMENT
        finally:
            await batches.aclose()

    async def _line(self, one: Seen | Notice) -> dict[str, Any]:
        if isinstance(one, Notice):
            return {
                "id": one.id,
                "at": iso_from_us(one.at_us),
                "event": "notice",
                "says": clean(f"{one.kind}: {one.what}"),
            }
        recorded, user = one.entry.recorded, one.user
        event = recorded.event
        if user is not None and has_sealed(event):
            event = opened(event, await self._services.ledger.sealing.key_of(user))
        tag = tag_of(event)
        return {
            "id": one.id,
            "at": iso_from_us(recorded.at_us),
            "event": tag,
            "says": told(tag, data_of(event, recorded.at_us)),
            "session": recorded.sid,
            "user": clean(user or ""),
        }

    async def _may(self, req: Request, visitor: Visitor) -> bool:
        """Tell whether who looks still may see as much."""
        try:
            now = await self._visitors.of(req)
        except NotSignedIn:
            return False
        return now.sees_all or not visitor.sees_all
