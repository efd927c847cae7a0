"""The events feed: which entities changed, in Gumnut's own order.

A cursor is the place of an event in that order, opaque, and the only thing that tells where a device is. One bound
(`as_of`) is shared by all that a stream reads: what was not ready then is not there for any of its feeds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from gumnut import omit
from gumnut.types import EventsResponse

from ledger.errors import InvalidInput
from ledger.positions import check_id
from projections.entities.gumnut.client import Declined, GumnutUnavailable
from projections.entities.gumnut.payloads import stamp_of
from projections.entities.gumnut.stream_client import Speaker
from projections.entities.source import PositionLost

PAGE_EVENTS: Final = 200
KEPT_PAGES: Final = 12
_NOT_SENSIBLE: Final = "Gumnut's events are not what they should be"
_INVALID: Final = 400

Filter = tuple[str, ...]


class Event(NamedTuple):
    """One change: `entity` is the entity's type, `at_us` when its transaction began, `payload` what came along."""

    entity: str
    id: str
    type: str
    cursor: str
    at_us: int
    payload: Mapping[str, Any]

    @property
    def tells_of_gone(self) -> bool:
        """Tell whether the entity went from the library with it; it may be back by now."""
        return self.type.endswith(("_deleted", "_removed", "_moved_out"))


class Events(NamedTuple):
    """A page of a feed; `next` is the cursor to go on from, `more` tells whether there is more below the bound."""

    events: tuple[Event, ...]
    next: str
    more: bool


class Feed:
    """The events of one library as one stream reads them; the pages read last are kept for its other types."""

    def __init__(self, speaker: Speaker, library: str) -> None:
        self._speaker = speaker
        self._library = library
        self._as_of = ""
        self._kept: OrderedDict[tuple[Filter, str], Events] = OrderedDict()

    async def bound(self) -> None:
        """Take the bound of what is ready now, for all that is read from here on; raises what `Speaker.ask` raises."""
        answer = await self._get(None, "", limit=1, as_of="")
        if not _is_text(answer.as_of):
            raise GumnutUnavailable(_NOT_SENSIBLE)
        self._as_of = answer.as_of
        self._kept.clear()

    async def read(self, of: Filter, cursor: str) -> Events:
        """Read the page behind a cursor, or the first one; raises PositionLost if Gumnut does not know the cursor."""
        if page := self._kept.get((of, cursor)):
            self._kept.move_to_end((of, cursor))
            return page
        try:
            answer = await self._get(of, cursor)
        except Declined as no:
            if no.status != _INVALID or not cursor:
                raise GumnutUnavailable(f"Gumnut's events answered with {no}") from None
            await self._probe(of)
            raise PositionLost("Gumnut does not know where this device is any more; it must start over") from None
        page = _page_of(answer, cursor)
        self._kept[of, cursor] = page
        while len(self._kept) > KEPT_PAGES:
            self._kept.popitem(last=False)
        return page

    async def since(self, of: Filter | None, began: datetime, cursor: str) -> Events:
        """Read a page of what transactions that began at an instant or later did: to look something up, not to sync.

        `of` None: of all that there is.
        """
        try:
            return _page_of(await self._get(of, cursor, created_at_gte=began), cursor)
        except Declined as no:
            raise GumnutUnavailable(f"Gumnut's events answered with {no}") from None

    async def _probe(self, of: Filter) -> None:
        """Find out whether it was the cursor that was refused: without one all else must be taken."""
        try:
            await self._get(of, "", limit=1)
        except Declined as no:
            raise GumnutUnavailable(f"Gumnut's events answered with {no}") from None

    async def _get(self, of: Filter | None, cursor: str, **more: Any) -> EventsResponse:
        asked: dict[str, Any] = {"limit": PAGE_EVENTS, "as_of": self._as_of} | more
        asked["as_of"] = asked["as_of"] or omit

        return await self._speaker.ask(
            "events",
            lambda client: client.events.get(
                library_id=self._library,
                entity_types=omit if of is None else list(of),
                after_cursor=cursor or omit,
                **asked,
            ),
            EventsResponse,
        )


def _page_of(answer: EventsResponse, cursor: str) -> Events:
    """Take an answer apart; raises GumnutUnavailable for what no checkpoint could hold.

    All else of an event is taken as it is, and one that is odd only matters to itself: it names nothing, or what no
    device could read.
    """
    try:
        events = tuple(
            Event(
                _named(event.entity_type),
                _named(event.entity_id),
                _named(event.event_type),
                _id(event.cursor),
                stamp_of(event.created_at),
                event.payload if isinstance(event.payload, dict) else {},
            )
            for event in answer.data
        )
        following = _id(answer.next_cursor) if answer.next_cursor else ""
    except (AttributeError, TypeError, ValueError, InvalidInput):
        raise GumnutUnavailable(_NOT_SENSIBLE) from None
    more = answer.has_more is True
    if more and (not events or following in ("", cursor)):
        raise GumnutUnavailable(_NOT_SENSIBLE)
    return Events(events, following or cursor, more)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _named(value: object) -> str:
    return value if isinstance(value, str) else ""


def _id(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    check_id("id", value)
    return value
