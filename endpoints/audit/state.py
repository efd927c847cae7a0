"""A session as it was: GET /ledger/sessions/{id}/state?at=."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import falcon
import falcon.asgi
import msgspec

from endpoints.audit.history import instant, readable_place
from endpoints.http import bodies
from endpoints.http.operations import EITHER, Operation, Route
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.errors import LayoutError, NoSuchSession
from projections.archive.errors import ArchiveNotGiven
from projections.history.state_at import StateThen, describe, fold_at


class StateQuery(msgspec.Struct, frozen=True):
    """When."""

    at: Annotated[str, msgspec.Meta(description="ISO 8601 with a zone; without it now")] | None = None


class StateAt:
    """The fold of a session's events up to an instant."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        partition, user, session_id = await readable_place(self._services, req, session_id)
        ledger = self._services.ledger
        at_us = instant("at", bodies.query(req, StateQuery).at, ledger.clock())
        try:
            moment = await fold_at(self._services.past, partition, session_id, at_us)
        except ArchiveNotGiven:
            raise
        except (NoSuchSession, LayoutError) as error:  # it had not begun, or its beginning is not here any more
            raise falcon.HTTPNotFound(description=str(error)) from error
        send(resp, describe(moment, at_us, await ledger.sealing.key_of(user)))


def routes(services: Services) -> Iterator[Route]:
    """List the one route."""
    operation = Operation(
        "GET",
        "getSessionState",
        "Tell what a session was like at a time",
        {200: StateThen},
        EITHER,
        query=StateQuery,
        refusals=(404,),
    )
    yield Route("/ledger/sessions/{session_id}/state", StateAt(services), (operation,))
