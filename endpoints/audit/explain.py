"""Why is this phone stuck? GET /ledger/sessions/{id}/explain."""

from __future__ import annotations

from collections.abc import Iterator

import falcon
import falcon.asgi

from endpoints.audit.history import readable_place
from endpoints.http.operations import EITHER, Operation, Route
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.errors import NoSuchSession
from projections.explain.answer import Explanation, explain
from projections.explain.facts import gather


class Explain:
    """One answer from all that is known of a session."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        partition, _, session_id = await readable_place(self._services, req, session_id)
        ledger = self._services.ledger
        try:
            facts = await gather(ledger, self._services.past, self._services.source, partition, session_id)
        except NoSuchSession as error:
            raise falcon.HTTPNotFound(description=str(error)) from error
        send(resp, explain(facts, ledger.clock()))


def routes(services: Services) -> Iterator[Route]:
    """List the one route."""
    operation = Operation(
        "GET", "explainSession", "Tell why a device does not sync", {200: Explanation}, EITHER, refusals=(404,)
    )
    yield Route("/ledger/sessions/{session_id}/explain", Explain(services), (operation,))
