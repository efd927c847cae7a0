"""The entities of a library: written and read as NDJSON lines {"type", "id", "data"}, streamed both ways."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Annotated, Final

import falcon
import falcon.asgi
import msgspec

from endpoints.http import bodies
from endpoints.http.errors import Forbidden
from endpoints.http.operations import EITHER, KEY, NDJSON, Operation, Route, Text
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.http.sending import always, send_lines
from endpoints.services import Services
from ledger.keys import check_name
from projections.accounts.api_keys import ApiKey
from projections.entities.catalog.catalog import Catalog
from projections.entities.catalog.ingest import Refusal, ingest, note_held_back
from projections.entities.lines import export_line
from projections.entities.registry import STORED_TYPES, row
from projections.entities.source import EntitySource

PAGE_ROWS: Final = 1000


class WaitingRows(msgspec.Struct, frozen=True):
    """How many rows of one entity type wait, and one of them: its id, and the parent that is missing (`table|id`)."""

    type: str
    rows: int
    id: str
    parent: str


class IngestReportDto(msgspec.Struct, frozen=True):
    """What became of the lines: taken, unchanged because they were there already, refused.

    `refusals` are the first 1,000 of the refused, each with its line number from 1 and the path of what does not fit.
    `waiting`: how many rows of the library are taken but not sent, because they refer to rows that are not there;
    `waits` names one of them for each entity type, with the row it waits for (`table|id`).
    """

    lines: int
    taken: int
    unchanged: int
    refused: int
    refusals: list[Refusal]
    waiting: int
    waits: list[WaitingRows]


_EXAMPLE: Final = (
    '{"type":"AlbumV2","id":"a1","data":{"id":"a1","name":"Summer","description":"",'
    '"createdAt":"2025-01-20T10:30:45Z","updatedAt":"2025-01-20T10:30:45Z","thumbnailAssetId":null,'
    '"isActivityEnabled":true,"order":"desc"}}\n'
)


class EntitiesQuery(msgspec.Struct, frozen=True):
    """Which entities to send."""

    waiting: Annotated[
        bool, msgspec.Meta(description="Also what waits for a parent, as it will be; no device has it yet")
    ] = True


class Entities:
    """All entities of one library in the embedded catalog."""

    def __init__(self, services: Services, catalog: Catalog) -> None:
        self._services = services
        self._catalog = catalog

    async def on_post(self, req: Request, resp: falcon.asgi.Response, library: str) -> None:
        """Take what fits and report what does not; the body is never held whole."""
        await self._services.auth.key(req, "entities.write", library)
        check_name("library", library)
        report = await ingest(self._catalog, library, bodies.chunks(req))
        await note_held_back(self._services.counters, report)
        waits = [WaitingRows(held.entity_type, held.rows, held.example_id, held.parent) for held in report.waits]
        counts = (report.lines, report.taken, report.unchanged, report.refused)
        send(resp, IngestReportDto(*counts, report.refusals, report.waiting, waits))

    async def on_get(self, req: Request, resp: falcon.asgi.Response, library: str) -> None:
        """Send what `import` can read again: living entities, no delete markers, unless told also those that wait."""
        wanted = bodies.query(req, EntitiesQuery)
        _, _, lives = await _reader(self._services, req, library)
        check_name("library", library)
        send_lines(req, resp, self._lines(library, wanted.waiting), lives, self._services.stall_s)

    async def _lines(self, library: str, waiting: bool) -> AsyncGenerator[bytes]:
        async for page in self._catalog.entities(library, waiting=waiting):
            yield b"".join(page)


class Elsewhere:
    """The entities of a library where another system is their source: nothing is written twice."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_post(self, req: Request, resp: falcon.asgi.Response, library: str) -> None:
        raise falcon.HTTPConflict(description="The entities of this service are in another system; write them there")

    async def on_get(self, req: Request, resp: falcon.asgi.Response, library: str) -> None:
        """Send what a new device would be sent, without delete markers; what waits for a parent is not in it."""
        user, sid, lives = await _reader(self._services, req, library)
        check_name("library", library)
        source = self._services.source.of_session(user, sid)
        horizon_us = await source.horizon(library)  # before anything is sent: one that is down is 503
        send_lines(req, resp, _listed(source, library, horizon_us), lives, self._services.stall_s)


async def _listed(source: EntitySource, library: str, horizon_us: int) -> AsyncGenerator[bytes]:
    for name in STORED_TYPES:
        if not row(name).is_delete:
            async for page in source.pages(library, name, None, horizon_us, PAGE_ROWS):
                yield b"".join(map(export_line, page.lines))


async def _reader(services: Services, req: Request, library: str) -> tuple[str, str, Callable[[], Awaitable[bool]]]:
    """Admit who may read a library: user and session, '' for a key, and whether they may go on to."""
    who = await services.auth.scoped(req, "entities.read", library)
    if isinstance(who, ApiKey):
        return "", "", always
    state = await services.ledger.admit(who)
    if state.library != library:
        raise Forbidden("Missing required permission: entities.read")

    async def lives() -> bool:
        return await services.auth.still_admits(who) and await services.ledger.admissions.lives(state)

    return state.user, state.sid, lives


def routes(services: Services) -> Iterator[Route]:
    """List the one route."""
    source = services.source
    lines = Text(NDJSON, 'Lines of {"type", "id", "data"}; `data` is the schema of that name', _EXAMPLE)
    yield Route(
        "/ledger/libraries/{library}/entities",
        Entities(services, source) if isinstance(source, Catalog) else Elsewhere(services),
        (
            Operation(
                "POST",
                "writeEntities",
                "Write entities",
                {200: IngestReportDto},
                KEY,
                body=lines,
                body_required=False,
                refusals=(409,),
            ),
            Operation(
                "GET",
                "readEntities",
                "Read all living entities",
                {200: lines},
                EITHER,
                query=EntitiesQuery,
                refusals=(409,),
            ),
        ),
    )
