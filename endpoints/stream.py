"""POST /sync/stream: what changed since the device's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

import falcon
import falcon.asgi
import msgspec

from endpoints import bodies
from endpoints.operations import Operation, Route, Text
from endpoints.request import Request
from endpoints.sending import guarded
from endpoints.services import Services
from endpoints.stream_lines import RESET_LINE, chunks
from ledger.commands import ClearCheckpoints, OfferStream
from ledger.decide import reset_due
from ledger.entity_types import COMPLETE, mask_of
from ledger.errors import InvalidInput
from projections.entities.registry import REQUEST_TYPES, entity_types_for

JSON_LINES: Final = "application/jsonlines+json"
RequestTypeName = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(REQUEST_TYPES)})]
MAX_TYPES: Final = 1000


class SyncStreamDto(msgspec.Struct, frozen=True):
    """Which types to stream; `reset` forgets all checkpoints first."""

    types: Annotated[list[RequestTypeName], msgspec.Meta(max_length=MAX_TYPES)]
    reset: bool = False


_decode: Final = msgspec.json.Decoder(SyncStreamDto)


class SyncStream:
    """The stream of one session: offered first, then sent."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ledger = services.ledger
        self._source = services.source

    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        caller = await self._services.auth.device(req)
        body = await bodies.decode(req, _decode)
        rows = entity_types_for(_known(body.types))
        state = await self._ledger.admit(caller)
        if body.reset:
            state = await self._ledger.act(caller, ClearCheckpoints(None, "reset", reset=True))
        snapshot_us = await self._source.horizon(state.library)
        floor_us = await self._source.tombstone_floor(state.library)
        resp.content_type = JSON_LINES
        types = mask_of([COMPLETE, *(row.name for row in rows)])
        if not reset_due(state, floor_us, types):
            state = await self._ledger.act(caller, OfferStream(snapshot_us, types))
        if reset_due(state, floor_us, types):
            resp.data = RESET_LINE
            return
        made = chunks(self._source, state, rows, snapshot_us)
        resp.stream = guarded(req, made, lambda: self._ledger.lives(state), self._services.stall_s)


def _known(types: list[str]) -> list[str]:
    problems: list[tuple[tuple[Any, ...], str]] = [
        (("types", index), "Invalid enum value") for index, name in enumerate(types) if name not in REQUEST_TYPES
    ]
    if problems:
        raise InvalidInput(problems)
    return types


def routes(services: Services) -> Iterator[Route]:
    """List the stream's routes, under /api and at the root."""
    stream = SyncStream(services)
    answer = Text(JSON_LINES, 'Lines of {"type", "data", "ack"}, the last one of type SyncCompleteV1 or SyncResetV1')
    for path, suffix in (("/api/sync/stream", ""), ("/sync/stream", "AtRoot")):
        operation = Operation("POST", "getSyncStream" + suffix, "Stream changes", {200: answer}, body=SyncStreamDto)
        yield Route(path, stream, (operation,))
