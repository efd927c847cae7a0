"""What happened to a session: GET /ledger/sessions/{id}/events.

A user sees the history of their own devices, ended ones too; an API key with `audit.read` sees everybody's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Annotated, Final

import falcon
import falcon.asgi
import msgspec

from endpoints import bodies
from endpoints.acks import EntityTypeName
from endpoints.operations import EITHER, NDJSON, Operation, Route, Text
from endpoints.replies import send
from endpoints.request import Request
from endpoints.sending import always, guarded
from endpoints.services import Services
from endpoints.sessions import check_session_id
from ledger.admission import Caller
from ledger.entity_types import CODES
from ledger.errors import InvalidInput, NoSuchSession
from ledger.positions import us_from_iso
from projections import history
from projections.api_keys import ApiKey
from projections.history import HistoryEvent, HistoryPage, Tag, Wanted

MAX_LIMIT: Final = 1000
_encode: Final = msgspec.json.Encoder().encode


class HistoryDto(msgspec.Struct, frozen=True, rename="camel"):
    """A page of a session's events, newest first; ask again with its `next` as `before`, until that is null.

    `belowFloor`: what is older is in the archive only. With a filter a page may hold fewer events than asked for.
    """

    session_id: str
    events: list[HistoryEvent]
    next: int | None
    below_floor: bool


class HistoryQuery(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to", "entity_type": "entity"}):
    """Which events; times are ISO 8601 with a zone."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT, description="Events to look at for one page")] = 100
    before: Annotated[int, msgspec.Meta(ge=1, le=2**53, description="The `next` of the page before")] | None = None
    since: Annotated[str, msgspec.Meta(description="Only events at or after this time")] | None = None
    until: Annotated[str, msgspec.Meta(description="Only events at or before this time")] | None = None
    event: Annotated[Tag, msgspec.Meta(description="Only events of this kind")] | None = None
    entity_type: Annotated[EntityTypeName, msgspec.Meta(description="Only events about this entity type")] | None = None

    def wanted(self) -> Wanted:
        """Read the filter; raises InvalidInput."""
        if self.entity_type is not None and self.entity_type not in CODES:
            raise InvalidInput([(("entity",), "Invalid enum value")])
        everything = Wanted()
        return Wanted(
            _instant("from", self.since, everything.since_us),
            _instant("to", self.until, everything.until_us),
            self.event,
            self.entity_type,
        )


class History:
    """The events of one session."""

    def __init__(self, services: Services) -> None:
        self._auth = services.auth
        self._ledger = services.ledger
        self._stall_s = services.stall_s

    async def on_get(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        who = await self._auth.scoped(req, "audit.read")
        if isinstance(who, Caller):
            await self._ledger.admit(who)
        check_session_id(session_id)
        query = bodies.query(req, HistoryQuery)
        partition = await self._partition(who, session_id)
        pages = history.pages(self._ledger, partition, session_id, query.wanted(), query.before, query.limit)
        first = await anext(pages)
        if req.client_prefers((falcon.MEDIA_JSON, NDJSON)) == NDJSON:
            resp.content_type = NDJSON
            resp.stream = guarded(req, _lines(first, pages), always, self._stall_s)
        else:
            send(resp, HistoryDto(session_id, first.events, first.next_seq, first.below_floor))

    async def _partition(self, who: Caller | ApiKey, session_id: str) -> int:
        """Find where the history lies; falcon's 404 if there is none that they may see."""
        try:
            if isinstance(who, ApiKey):
                return await self._ledger.locate(session_id)
            partition = self._ledger.partition_of(who.user)
            if await history.owner(self._ledger, partition, session_id) == who.user:
                return partition
        except NoSuchSession:
            pass
        raise falcon.HTTPNotFound(description=f"No session {session_id}")


async def _lines(first: HistoryPage, rest: AsyncIterator[HistoryPage]) -> AsyncGenerator[bytes]:
    yield _joined(first)
    async for page in rest:
        yield _joined(page)


def _joined(page: HistoryPage) -> bytes:
    return b"".join(_encode(event) + b"\n" for event in page.events)


def _instant(name: str, text: str | None, default: int) -> int:
    try:
        return default if text is None else us_from_iso(text)
    except ValueError as error:
        raise InvalidInput([((name,), str(error))]) from error


def routes(services: Services) -> Iterator[Route]:
    """List the one route."""
    page = Text(NDJSON, "All events that are wanted, one a line, newest first")
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
