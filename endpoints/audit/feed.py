"""All that happens, from a position on: GET /ledger/feed, and POST where the position is too long for a header.

Lines of JSON end at the present unless `follow` is asked for; server-sent events go on for ever. Both end only by being
broken off, but for lines that have come to the present. An API key with `audit.read` reads everybody's events, a user's
session those of its user.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from importlib import metadata
from time import monotonic
from typing import Annotated, Final, NamedTuple

import falcon
import falcon.asgi
import msgspec

from endpoints.accounts.sessions import check_session_id
from endpoints.http import bodies
from endpoints.http.errors import Forbidden, Unauthenticated
from endpoints.http.operations import EITHER, EVENT_STREAM, NDJSON, Operation, Route, Text
from endpoints.http.request import Request
from endpoints.http.sending import always, send_events, send_lines, with_first_made
from endpoints.services import Services
from ledger.admission import Caller
from ledger.errors import NoSuchSession, NotAllowed
from projections.accounts.api_keys import ApiKey
from projections.feed.forms import FORMS, Form, FormName
from projections.feed.hub import Batch, FeedHub
from projections.feed.position import FeedPosition, fits_header
from projections.feed.told import FeedFilter, Notice, Told

SCOPE: Final = "audit.read"
RECHECK_S: Final = 5.0
"""How long a credential is taken for good before it is looked at again."""
LAST_EVENT_ID: Final = "last-event-id"
RETRY_MS: Final = 3000
_COMMENT: Final = b": the feed lives\n\n"


class FeedQuery(msgspec.Struct, frozen=True, rename={"since": "from"}):
    """From where on, which events, and how they read."""

    since: Annotated[
        str,
        msgspec.Meta(
            description="A position that a feed gave, `start` or `now`; without one `now` where it goes on for ever, "
            "else `start`"
        ),
    ] = ""
    follow: Annotated[bool, msgspec.Meta(description="Lines of JSON that go on for ever")] = False
    form: Annotated[FormName, msgspec.Meta(description="How an event reads")] = "own"
    user: Annotated[str, msgspec.Meta(description="Only events of this user")] | None = None
    session: Annotated[str, msgspec.Meta(description="Only events of this session")] | None = None
    type: Annotated[str, msgspec.Meta(description="Only events of these types, with commas between them")] = ""
    with_devices: Annotated[
        bool, msgspec.Meta(description="Also what is personal: what devices say of themselves, and who did something")
    ] = False


class FeedDto(msgspec.Struct, frozen=True):
    """Where to go on."""

    position: Annotated[str, msgspec.Meta(description="A position that a feed gave, `start` or `now`")]


_body: Final = msgspec.json.Decoder(FeedDto)


class _Reading(NamedTuple):
    """What one reader is sent."""

    batches: AsyncGenerator[Batch]
    form: Form
    opens: bool
    """Whether personal texts are shown."""


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
        since = given or query.since or ("now" if follows else "start")
        position = await self._position(since, field if given else "from")
        form = FORMS[query.form](self._hub.ledger_id, self._version)
        reading = _Reading(self._hub.follow(position, wanted, ends=not follows), form, query.with_devices)
        made = await with_first_made(self._events(reading) if as_events else self._lines(reading))
        lives = self._lives(req) if follows else always
        (send_events if as_events else send_lines)(req, resp, made, lives, self._services.stall_s)

    async def _filter(self, who: Caller | ApiKey, query: FeedQuery) -> FeedFilter:
        user = query.user
        if isinstance(who, Caller):
            if user not in (None, who.user):
                raise Forbidden("Only an API key with the scope audit.read may ask for another user")
            user = who.user
        if query.session is not None:
            check_session_id(query.session)
        types = [kind for kind in query.type.split(",") if kind]
        try:
            return await self._hub.filter_of(user=user, session=query.session, types=types)
        except NoSuchSession as error:
            raise falcon.HTTPNotFound(description=f"No session {query.session}") from error

    async def _position(self, given: str, field: str) -> FeedPosition:
        if given == "now":
            return await self._hub.now()
        return self._hub.start if given == "start" else self._hub.parse(given, field)

    def _lives(self, req: Request) -> Callable[[], Awaitable[bool]]:
        """Make what tells whether whoever asks still may; asked anew every RECHECK_S."""
        auth, ledger = self._services.auth, self._services.ledger
        asked_s = monotonic()

        async def lives() -> bool:
            nonlocal asked_s
            if monotonic() - asked_s < RECHECK_S / 2:
                return True
            asked_s = monotonic()
            try:
                now = await auth.scoped(req, SCOPE)
                if isinstance(now, Caller):
                    await ledger.admit(now)
            except (NotAllowed, Unauthenticated, Forbidden):
                return False
            return True

        return lives

    async def _lines(self, reading: _Reading) -> AsyncGenerator[bytes]:
        async for batch in _closing(reading.batches):
            position = None if batch.position is None else self._hub.text(batch.position)
            told = batch.told
            if not told and position is not None:
                told = (self._only_position(),)
            lines = await self._printed(reading, told, position)
            yield b"".join(line + b"\n" for line in lines) or b"\n"

    async def _events(self, reading: _Reading) -> AsyncGenerator[bytes]:
        begins = b"retry: %d\n\n" % RETRY_MS
        async for batch in _closing(reading.batches):
            position = None if batch.position is None else self._hub.text(batch.position)
            if position is not None and not fits_header(position, self._hub.partitions):
                position = None
            last_id = b"" if position is None else b"id: %b\n" % position.encode()
            if not batch.told:
                yield begins + (last_id + b"\n" if last_id else _COMMENT)
                begins = b""
                continue
            lines = await self._printed(reading, batch.told, None)
            parts = [
                (b"event: notice\n" if isinstance(told, Notice) else b"") + b"data: " + line + b"\n"
                for told, line in zip(batch.told, lines, strict=True)
            ]
            yield begins + b"".join(part + b"\n" for part in parts[:-1]) + last_id + parts[-1] + b"\n"
            begins = b""

    async def _printed(self, reading: _Reading, told: tuple[Told, ...], position: str | None) -> list[bytes]:
        """Print what is told, the position in the last line."""
        form, last = reading.form, len(told) - 1
        lines = []
        for number, one in enumerate(told):
            where = position if number == last else None
            if isinstance(one, Notice):
                lines.append(form.notice(one, where))
            elif reading.opens:
                key = None if one.user is None else await self._services.ledger.key_of(one.user)
                lines.append(form.event_opened(one, key, where))
            else:
                lines.append(form.event(one, where))
        return lines

    def _only_position(self) -> Notice:
        return Notice("position", None, "", "no event carries the position", self._services.ledger.clock())


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
