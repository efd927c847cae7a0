"""What happened to a session: GET /ledger/sessions/{id}/events; to all of a user's: GET /ledger/events.

A user sees the history of their own devices, ended ones too; an API key with `audit.read` sees everybody's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Annotated, Final, Literal, Protocol

import falcon
import falcon.asgi
import msgspec

from endpoints.accounts.sessions import check_session_id
from endpoints.http import bodies
from endpoints.http.compression import compress_whole
from endpoints.http.errors import Forbidden
from endpoints.http.operations import EITHER, NDJSON, Operation, Route, Text
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.http.sending import always, send_lines
from endpoints.services import Services
from endpoints.sync.acks import EntityTypeName
from ledger.admission import Caller
from ledger.entity_types import CODES
from ledger.errors import CorruptLedger, InvalidInput, NoSuchSession
from ledger.keys import check_name
from ledger.positions import us_from_iso
from projections.accounts.api_keys import ApiKey
from projections.finding.prefixes import PREFIX, Ambiguous, resolved
from projections.history import session_history
from projections.history.session_history import HistoryEvent, Tag, Wanted
from projections.history.user_history import Place, UserPage, user_pages

MAX_LIMIT: Final = 1000
_encode: Final = msgspec.json.Encoder().encode


class HistoryDto(msgspec.Struct, frozen=True, rename="camel"):
    """A page of a session's events; ask again with its `next` as `before` (`after` in order `asc`) until that is null.

    `belowFloor`: what is older was removed, or is in an archive that is not read. With a filter a page may hold fewer
    events than asked for.
    """

    session_id: str
    events: list[HistoryEvent]
    next: int | None
    below_floor: bool


class UserHistoryDto(msgspec.Struct, frozen=True, rename="camel"):
    """A page of a user's events; ask again with its `next` as `beyond` until that is null.

    `belowFloor`: what is older was removed, or is in an archive that is not read. With a filter a page may hold fewer
    events than asked for. `broken`: sessions of which no more can be told, and why.
    """

    user: str
    events: list[HistoryEvent]
    next: str | None
    below_floor: bool
    broken: dict[str, str]


class _Filter(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to", "entity_type": "entity"}):
    """Which events, and in which order; times are ISO 8601 with a zone."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT, description="Events to look at for one page")] = 100
    order: Annotated[Literal["desc", "asc"], msgspec.Meta(description="Newest or oldest first")] = "desc"
    since: Annotated[str, msgspec.Meta(description="Only events at or after this time")] | None = None
    until: Annotated[str, msgspec.Meta(description="Only events at or before this time")] | None = None
    event: Annotated[Tag, msgspec.Meta(description="Only events of this kind")] | None = None
    entity_type: Annotated[EntityTypeName, msgspec.Meta(description="Only events about this entity type")] | None = None

    @property
    def forward(self) -> bool:
        """Whether the oldest come first."""
        return self.order == "asc"

    def wanted(self) -> Wanted:
        """Read the filter; raises InvalidInput."""
        if self.entity_type is not None and self.entity_type not in CODES:
            raise InvalidInput([(("entity",), "Invalid enum value")])
        everything = Wanted()
        return Wanted(
            instant("from", self.since, everything.since_us),
            instant("to", self.until, everything.until_us),
            self.event,
            self.entity_type,
        )


class HistoryQuery(_Filter, frozen=True):
    """Which events of a session, in which order, from where on; times are ISO 8601 with a zone."""

    before: (
        Annotated[int, msgspec.Meta(ge=1, le=2**53, description="Newest first: `next` of the page before")] | None
    ) = None
    after: (
        Annotated[int, msgspec.Meta(ge=0, le=2**53, description="Oldest first: `next` of the page before")] | None
    ) = None

    def beyond(self) -> int | None:
        """Tell from which seq to go on; raises InvalidInput for one that does not go with the order."""
        given, wrong = (self.after, "before") if self.forward else (self.before, "after")
        if getattr(self, wrong) is not None:
            raise InvalidInput([((wrong,), f"It does not go with order={self.order}")])
        return given


class UserHistoryQuery(_Filter, frozen=True):
    """Whose events, in which order, from where on; times are ISO 8601 with a zone."""

    user: Annotated[str, msgspec.Meta(description="The user; without it the one who asks")] | None = None
    beyond: Annotated[str, msgspec.Meta(description="The `next` of the page before")] | None = None

    def place(self) -> Place | None:
        """Tell from where to go on; raises InvalidInput."""
        try:
            return None if self.beyond is None else Place.parse(self.beyond)
        except ValueError as error:
            raise InvalidInput([(("beyond",), str(error))]) from error


class History:
    """The events of one session."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        partition, user, session_id = await readable_place(self._services, req, session_id)
        query = bodies.query(req, HistoryQuery)
        pages = session_history.pages(
            self._services.past,
            partition,
            session_id,
            query.wanted(),
            query.beyond(),
            query.limit,
            forward=query.forward,
            key=await self._services.ledger.sealing.key_of(user),
        )
        first = await anext(pages)
        if _wants_lines(req):
            send_lines(req, resp, _lines(first, pages), always, self._services.stall_s)
        else:
            send(resp, HistoryDto(session_id, first.events, first.next_seq, first.below_floor))
            compress_whole(req, resp)


class UserHistory:
    """The events of all sessions of one user, living and ended, merged by time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ledger = services.ledger

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        who = await self._services.auth.scoped(req, "audit.read")
        if isinstance(who, Caller):
            await self._ledger.admit(who)
        query = bodies.query(req, UserHistoryQuery)
        user = _user(who, query.user)
        partition = self._ledger.partition_of(user)
        pages = user_pages(
            self._services.past,
            partition,
            user,
            query.wanted(),
            query.place(),
            query.limit,
            forward=query.forward,
            key=await self._ledger.sealing.key_of(user),
        )
        first = await anext(pages)
        if _wants_lines(req):
            send_lines(req, resp, _user_lines(first, pages), always, self._services.stall_s)
        else:
            following = None if first.next_place is None else first.next_place.text
            send(resp, UserHistoryDto(user, first.events, following, first.below_floor, first.broken))
            compress_whole(req, resp)


async def readable_place(services: Services, req: Request, session_id: str) -> tuple[int, str, str]:
    """Find partition, user and id of a session that whoever asks may see: an own one, or any with `audit.read`; or 404.

    `session_id` may be the start of one that no other begins with.
    """
    who = await services.auth.scoped(req, "audit.read")
    if isinstance(who, Caller):
        await services.ledger.admit(who)
    if not PREFIX.fullmatch(session_id):
        check_session_id(session_id)
    try:
        if isinstance(who, ApiKey):
            partition, sid = await resolved(services.ledger, session_id)
            return partition, await session_history.owner(services.ledger, partition, sid), sid
        partition, sid = await resolved(services.ledger, session_id, who.user)
        if await session_history.owner(services.ledger, partition, sid) == who.user:
            return partition, who.user, sid
    except NoSuchSession:
        pass
    except Ambiguous as error:
        raise InvalidInput([(("id",), str(error))]) from error
    raise falcon.HTTPNotFound(description=f"No session {session_id}")


def _user(who: Caller | ApiKey, asked_for: str | None) -> str:
    if isinstance(who, Caller):
        if asked_for not in (None, who.user):
            raise Forbidden("Only an API key with the scope audit.read may ask for another user")
        return who.user
    if asked_for is None:
        raise InvalidInput([(("user",), "Name the user")])
    return check_name("user", asked_for)


def _wants_lines(req: Request) -> bool:
    return bool(req.client_prefers((falcon.MEDIA_JSON, NDJSON)) == NDJSON)


class _Page(Protocol):
    @property
    def events(self) -> Sequence[HistoryEvent]: ...


async def _lines(first: _Page, rest: AsyncIterator[_Page]) -> AsyncGenerator[bytes]:
    yield _joined(first)
    async for page in rest:
        yield _joined(page)


async def _user_lines(page: UserPage, rest: AsyncIterator[UserPage]) -> AsyncGenerator[bytes]:
    """Raises CorruptLedger behind what can be told if that is not all, so that nobody takes it for the whole."""
    yield _joined(page)
    async for following in rest:
        yield _joined(following)
        page = following
    if page.broken:
        raise CorruptLedger("; ".join(f"session {sid}: {what}" for sid, what in page.broken.items()))


def _joined(page: _Page) -> bytes:
    return b"".join(_encode(event) + b"\n" for event in page.events)


def instant(name: str, text: str | None, default: int) -> int:
    """Read a parameter that is an instant; raises InvalidInput naming it."""
    try:
        return default if text is None else us_from_iso(text)
    except ValueError as error:
        raise InvalidInput([((name,), str(error))]) from error


def routes(services: Services) -> Iterator[Route]:
    """List the routes of history."""
    page = Text(NDJSON, "All events that are wanted, one a line, in the order asked for")
    operation = Operation(
        "GET",
        "getSessionEvents",
        "Tell what happened to a session",
        {200: (HistoryDto, page)},
        EITHER,
        query=HistoryQuery,
        refusals=(404,),
    )
    yield Route("/ledger/sessions/{session_id}/events", History(services), (operation,))
    of_user = Operation(
        "GET",
        "getUserEvents",
        "Tell what happened to all sessions of a user",
        {200: (UserHistoryDto, page)},
        EITHER,
        query=UserHistoryQuery,
    )
    yield Route("/ledger/events", UserHistory(services), (of_user,))
