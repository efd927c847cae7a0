"""The transparency log for auditors: GET /ledger/log/checkpoint and /ledger/log/tile/…, as C2SP tlog-tiles has them.

And what it proves of a session: GET /ledger/sessions/{id}/proof.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import falcon
import falcon.asgi

from endpoints.audit.history import readable_place
from endpoints.http.operations import EITHER, KEY, Operation, Route, Text
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.admission import Caller
from ledger.session_ids import SID_CHARS
from ledger.transparency.session_proof import SessionProof
from projections.transparency.published import PublishedLog

SCOPE: Final = "audit.read"
CHECKPOINT_TYPE: Final = "text/plain; charset=utf-8"
_NO_LOG: Final = "This ledger has no transparency log: LEDGER_PROOF is not set"
_NOTHING_YET: Final = "Nothing is logged yet: the first checkpoint comes with the next run"
_NEVER_CHANGES: Final = "max-age=31536000, immutable"


class _OfLog:
    """What admits to the log, and where it is."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def _admit(self, req: Request) -> PublishedLog:
        if not self._services.settings.log_open:
            await self._services.auth.key(req, SCOPE)
        log = self._services.log
        if log is None:
            raise falcon.HTTPNotFound(description=_NO_LOG)
        return log


class NewestCheckpoint(_OfLog):
    """The newest checkpoint."""

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        found = await (await self._admit(req)).checkpoint()
        if found is None:
            raise falcon.HTTPNotFound(description=_NOTHING_YET)
        resp.content_type = CHECKPOINT_TYPE
        resp.set_header("cache-control", "no-cache")
        resp.data = found


class Tiles(_OfLog):
    """Tiles of hashes and bundles of entries."""

    async def on_get(self, req: Request, resp: falcon.asgi.Response, tile: str) -> None:
        log = await self._admit(req)
        found = await log.tile(f"tile/{tile}")
        if found is None:
            raise falcon.HTTPNotFound(description=f"No tile {tile[:100]} in this log")
        resp.content_type = "application/octet-stream"
        shared = "public" if self._services.settings.log_open else "private"
        resp.set_header("cache-control", f"{shared}, {_NEVER_CHANGES}")
        resp.data = found


class Proof:
    """What proves a session's history."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        services = self._services
        partition: int | None
        try:
            partition, _, session_id = await readable_place(services, req, session_id)
        except falcon.HTTPNotFound:
            if len(session_id) < SID_CHARS or isinstance(await services.auth.scoped(req, SCOPE), Caller):
                raise
            partition = None  # that it never was, or is not kept, is proved to auditors too
        if services.log is None:
            raise falcon.HTTPNotFound(description=_NO_LOG)
        proof = await services.log.prove(services.past, partition, session_id)
        if proof is None:
            raise falcon.HTTPNotFound(description=_NOTHING_YET)
        send(resp, proof)


def routes(services: Services) -> Iterator[Route]:
    """List the routes of the log."""
    note = Text(CHECKPOINT_TYPE, "A signed checkpoint (C2SP tlog-checkpoint)")
    tile = Text("application/octet-stream", "A tile of hashes, or a bundle of entries (C2SP tlog-tiles)")
    operation = Operation(
        "GET", "getLogCheckpoint", "Give the log's newest checkpoint", {200: note}, KEY, refusals=(404,)
    )
    yield Route("/ledger/log/checkpoint", NewestCheckpoint(services), (operation,))
    of_tile = Operation("GET", "getLogTile", "Give a part of the log's tree", {200: tile}, KEY, refusals=(404,))
    yield Route("/ledger/log/tile/{tile:path}", Tiles(services), (of_tile,))
    of_proof = Operation(
        "GET", "getSessionProof", "Give what proves a session's history", {200: SessionProof}, EITHER, refusals=(404,)
    )
    yield Route("/ledger/sessions/{session_id}/proof", Proof(services), (of_proof,))
