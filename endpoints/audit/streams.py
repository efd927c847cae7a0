"""What a session's last streams sent and how they ended: GET /ledger/sessions/{id}/streams."""

from __future__ import annotations

from collections.abc import Iterator

import falcon.asgi
import msgspec

from endpoints.audit.history import readable_place
from endpoints.http.operations import EITHER, Operation, Route
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.services import Services
from projections.sent.record import newest
from projections.sent.words import StreamTold, told


class SessionStreamsDto(msgspec.Struct, frozen=True, rename="camel"):
    """The last streams of a session that sent rows or failed, newest first, at most 20."""

    session_id: str
    streams: list[StreamTold]


class SessionStreams:
    """The last streams of one session, living or ended."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        partition, _, session_id = await readable_place(self._services, req, session_id)
        found = await newest(self._services.ledger, partition, session_id)
        send(resp, SessionStreamsDto(session_id, [told(sent) for sent in found]))


def routes(services: Services) -> Iterator[Route]:
    """List the one route."""
    operation = Operation(
        "GET",
        "getSessionStreams",
        "Tell what a device's last streams sent, and how each ended",
        {200: SessionStreamsDto},
        EITHER,
        refusals=(404,),
    )
    yield Route("/ledger/sessions/{session_id}/streams", SessionStreams(services), (operation,))
