"""All that happens, from a position on: GET /ledger/feed, and POST where the position is too long for a header.

Lines of JSON end at the present unless `follow` is asked for; server-sent events go on for ever. Both end only by being
broken off, but for lines that have come to the present. An API key with `audit.read` reads everybody's events, a user's
session those of its user.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from importlib import metadata
from typing import Annotated, Final

import falcon
import falcon.asgi
import msgspec

from endpoints.accounts.sessions import check_session_id
from endpoints.http import bodies
from endpoints.http.errors import Forbidden, Unauthenticated
from endpoints.http.operations import EITHER, EVENT_STREAM, KEY, NDJSON, Operation, Route, Text
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.http.sending import always, rechecked, send_endless, send_lines, with_first_made
from endpoints.services import Services
from ledger.admission import Caller
from ledger.errors import NoSuchSession, NotAllowed
from ledger.positions import iso_from_us
from projections.accounts.api_keys import ApiKey
from projections.feed.follower import Batch
from projections.feed.forms import FORMS, FormName
from projections.feed.hub import FeedHub
from projections.feed.position import fits_header
from projections.feed.printing import Printer
from projections.feed.told import FeedFilter, Notice, Told

SCOPE: Final = "audit.read"
LAST_EVENT_ID: Final = "last-event-id"
RETRY_MS: Final = 3000
_COMMENT: Final = b": the feed lives\n\n"
_NOTICE: Final = b"event: notice\n"


class FeedQuery(msgspec.Struct, frozen=True, rename={"since": "from"}):
    """From where on, which events, and how they read."""

    since: Annotated[
        str,
        msgspec.Meta(
            description="A position that a feed gave, `start` or `now`; without it `now` where it goes on for ever, "
            "else `start`, as for a name that is not kept yet"
        ),
    ] = ""
    follow: Annotated[bool, msgspec.Meta(description="Lines of JSON that go on for ever")] = False
    form: Annotated[FormName, msgspec.Meta(description="How an event reads")] = "own"
    name: Annotated[
        str,
        msgspec.Meta(
            description="Begin where this name is kept, if it is: PUT /ledger/feed/names/{name} moves it on, and "
            "nothing else does"
        ),
    ] = ""
    user: Annotated[str, msgspec.Meta(description="Only events of this user")] | None = None
    session: Annotated[str, msgspec.Meta(description="Only events of this session")] | None = None
    type: Annotated[str, msgspec.Meta(description="Only events of these types, with commas between them")] = ""
    with_devices: Annotated[
        bool, msgspec.Meta(description="Also what is personal: what devices say of themselves, and who did something")
    ] = False


class FeedDto(msgspec.Struct, frozen=True):
    """Where to go on."""

    position: Annotated[str, msgspec.Meta(description="A position that a feed gave, `start` or `now`")]


class KeptNameDto(msgspec.Struct, frozen=True, rename="camel"):
    """Where a reader of the feed stands, and since when."""

    name: str
    position: str
    kept_at: str


class KeptNamesDto(msgspec.Struct, frozen=True):
    """All names that are kept."""

    names: list[KeptNameDto]


_body: Final = msgspec.json.Decoder(FeedDto)


class Feed:
    """The feed of all events."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._hub: FeedHub = services.feed
        self._version = metadata.version("syncledger")

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        given = req.raw_headers.get(LAST_EVENT_ID.encode(), b"").decode("latin-1")
        await self._send(req, resp, given, LAST_EVENT_ID)

    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._send(req, resp, (await bodies.decode(req, _body)).position, "position")

    async def _send(self, req: Request, resp: falcon.asgi.Response, given: str, field: str) -> None:
        who = await self._services.auth.scoped(req, SCOPE)
        if isinstance(who, Caller):
            await self._services.ledger.admit(who)
        query = bodies.query(req, FeedQuery)
        as_events = _wants_events(req)
        follows = as_events or query.follow
        wanted = await self._filter(who, query)
        if req.method == "HEAD":
            resp.content_type = EVENT_STREAM if as_events else NDJSON
            return
        kept = await self._kept(who, query.name) if query.name and not given else None
        since = given or kept or query.since or ("now" if follows and not query.name else "start")
        position = await self._hub.place(since, field if given else "name" if kept else "from")
        form = FORMS[query.form](self._hub.ledger_id, self._version)
        ledger = self._services.ledger
        printer = Printer(form, ledger.clock, ledger.sealing.key_now if query.with_devices else None)
        user = who.user if isinstance(who, Caller) else None
        batches = self._hub.follow(position, wanted, ends=not follows, user=user)
        made = await with_first_made((self._events if as_events else self._lines)(batches, printer))
        resp.content_type = EVENT_STREAM if as_events else NDJSON
        if follows:
            send_endless(req, resp, made, rechecked(lambda: self._may(req)), self._services.stall_s)
        else:
            send_lines(req, resp, made, always, self._services.stall_s)

    async def _filter(self, who: Caller | ApiKey, query: FeedQuery) -> FeedFilter:
        user = query.user
        if isinstance(who, Caller):
            if user not in (None, who.user):
                raise Forbidden("Only an API key with the scope audit.read may ask for another user")
            user = who.user
        if query.session is not None:
            check_session_id(query.session, "session")
        types = [kind for kind in query.type.split(",") if kind]
        try:
            return await self._hub.filter_of(user=user, session=query.session, types=types)
        except NoSuchSession as error:
            raise falcon.HTTPNotFound(description=f"No session {query.session}") from error

    async def _kept(self, who: Caller | ApiKey, name: str) -> str | None:
        if isinstance(who, Caller):
            raise Forbidden("Only an API key with the scope audit.read may ask by a name")
        return await self._hub.names.find(name)

    async def _may(self, req: Request) -> bool:
        """Tell whether whoever asks still may."""
        try:
            now = await self._services.auth.scoped(req, SCOPE)
            if isinstance(now, Caller):
                await self._services.ledger.admit(now)
        except (NotAllowed, Unauthenticated, Forbidden):
            return False
        return True

    async def _lines(self, batches: AsyncGenerator[Batch], printer: Printer) -> AsyncGenerator[bytes]:
        async for batch in _closing(batches):
            position = None if batch.position is None else self._hub.text(batch.position)
            lines = await printer.lines(batch.told, position)
            yield b"".join(line + b"\n" for line in lines) or b"\n"

    async def _events(self, batches: AsyncGenerator[Batch], printer: Printer) -> AsyncGenerator[bytes]:
        begins = b"retry: %d\n\n" % RETRY_MS
        async for batch in _closing(batches):
            position = None if batch.position is None else self._hub.text(batch.position)
            if position is not None and not fits_header(position, self._hub.partitions):
                position = None
            yield begins + _events_of(batch.told, await printer.lines(batch.told), position)
            begins = b""


def _events_of(told: Sequence[Told], lines: Sequence[bytes], position: str | None) -> bytes:
    """Lay lines out as server-sent events, the last one with the position as its id; without any a comment."""
    last_id = b"" if position is None else b"id: %b\n" % position.encode()
    if not lines:
        return last_id + b"\n" if last_id else _COMMENT
    parts = [
        (_NOTICE if isinstance(one, Notice) else b"") + b"data: %b\n\n" % line
        for one, line in zip(told, lines, strict=True)
    ]
    return b"".join(parts[:-1]) + last_id + parts[-1]


class Names:
    """Where readers stand that cannot keep it themselves; they move on when they have done with what they got."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._hub = services.feed

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._services.auth.key(req, SCOPE)
        kept = await self._hub.names.all()
        send(resp, KeptNamesDto([KeptNameDto(one.name, one.position, iso_from_us(one.at_us)) for one in kept]))

    async def on_put_one(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        await self._services.auth.key(req, SCOPE)
        position = await self._hub.place((await bodies.decode(req, _body)).position, "position")
        await self._hub.names.keep(name, self._hub.text(position), self._services.ledger.clock())
        resp.status = falcon.HTTP_204

    async def on_delete_one(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        await self._services.auth.key(req, SCOPE)
        if not await self._hub.names.forget(name):
            raise falcon.HTTPNotFound(description=f"No name {name[:100]} is kept")
        resp.status = falcon.HTTP_204


async def _closing(batches: AsyncGenerator[Batch]) -> AsyncGenerator[Batch]:
    """Yield what comes, and let the reading go with whoever takes it."""
    try:
        async for batch in batches:
            yield batch
    finally:
        await batches.aclose()


def _wants_events(req: Request) -> bool:
    return bool(req.client_prefers((NDJSON, falcon.MEDIA_JSON, EVENT_STREAM)) == EVENT_STREAM)


def routes(services: Services) -> Iterator[Route]:
    """List the routes of the feed."""
    lines = Text(NDJSON, "Events, one a line, in the order of each session; the last of each read has a `position`")
    events = Text(
        EVENT_STREAM, "The same as server-sent events, for ever; the last of each read has its position as id"
    )
    get = Operation(
        "GET", "getFeed", "Tell what happened to all sessions from a position on", {200: (lines, events)}, EITHER,
        query=FeedQuery, refusals=(404,),
    )  # fmt: skip
    post = Operation(
        "POST", "readFeed", "Tell what happened from a position in the body on", {200: (lines, events)}, EITHER,
        body=FeedDto, query=FeedQuery, refusals=(404,), example={"position": "start"},
    )  # fmt: skip
    yield Route("/ledger/feed", Feed(services), (get, post))
    names = Names(services)
    listed = Operation("GET", "listFeedNames", "List where named readers of the feed stand", {200: KeptNamesDto}, KEY)
    yield Route("/ledger/feed/names", names, (listed,))
    moved = Operation(
        "PUT", "keepFeedName", "Keep where a reader stands, once it has done with all up to there", {204: None}, KEY,
        body=FeedDto, example={"position": "start"},
    )  # fmt: skip
    gone = Operation("DELETE", "forgetFeedName", "Forget a name", {204: None}, KEY, refusals=(404,))
    yield Route("/ledger/feed/names/{name}", names, (moved, gone), "one")
