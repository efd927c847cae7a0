"""What a device acknowledged: POST, GET and DELETE /sync/ack.

The way of an ack: decode the body, parse the ack strings, one command. Everything else is `decide`'s. Almost all acks
go a quick way beside this one (`quick_acks.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final

import falcon
import falcon.asgi
import msgspec

from endpoints.http import bodies
from endpoints.http.operations import Operation, Route
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.services import Services
from endpoints.sync.stream import known_types
from ledger.acks import Ack, format_ack, parse_ack
from ledger.commands import ClearCheckpoints
from ledger.entity_types import CODES, ENTITY_TYPES, mask_of
from projections.entities.registry import upserts_of

PATHS: Final = ("/api/sync/ack", "/sync/ack")
MAX_ACKS: Final = 1000
MAX_TYPES: Final = 1000
EntityTypeName = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(ENTITY_TYPES)})]


class SyncAckSetDto(msgspec.Struct, frozen=True):
    """Acks of one request: all taken or none."""

    acks: Annotated[list[str], msgspec.Meta(max_length=MAX_ACKS)]


class SyncAckDto(msgspec.Struct, frozen=True):
    """The checkpoint of one entity type."""

    type: EntityTypeName
    ack: str


class SyncAckDeleteDto(msgspec.Struct, frozen=True):
    """Which checkpoints to forget; without `types` all."""

    types: Annotated[list[EntityTypeName], msgspec.Meta(max_length=MAX_TYPES)] | msgspec.UnsetType = msgspec.UNSET


_decode_set: Final = msgspec.json.Decoder(SyncAckSetDto)
_decode_delete: Final = msgspec.json.Decoder(SyncAckDeleteDto)


class SyncAcks:
    """The checkpoints of the session that asks."""

    def __init__(self, services: Services) -> None:
        self._auth = services.auth
        self._ledger = services.ledger
        self._unknown_types = services.unknown_types

    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        caller = await self._auth.device(req, "syncCheckpoint.update")
        body = await bodies.decode(req, _decode_set)
        await self._ledger.acknowledge(caller, tuple([parse_ack(text) for text in body.acks]), req.begun)
        resp.status = falcon.HTTP_204

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        state = await self._ledger.admit(await self._auth.device(req, "syncCheckpoint.read"))
        send(
            resp,
            [
                SyncAckDto(entity_type, format_ack(Ack(entity_type, checkpoint.position, state.epoch_of(entity_type))))
                for entity_type, checkpoint in state.checkpoints.items()
            ],
        )

    async def on_delete(self, req: Request, resp: falcon.asgi.Response) -> None:
        caller = await self._auth.device(req, "syncCheckpoint.delete")
        body = await bodies.decode(req, _decode_delete)
        types: int | None = None
        unknown: Sequence[str] = ()
        if body.types is not msgspec.UNSET:
            known, unknown = known_types(body.types, CODES, leave_out=self._unknown_types is not None)
            types = forgotten(known)
        await self._ledger.act(caller, ClearCheckpoints(types, cause="deleted"))
        if unknown and self._unknown_types is not None:
            await self._unknown_types.note(unknown, self._ledger.clock())
        resp.status = falcon.HTTP_204


def forgotten(types: Iterable[str]) -> int:
    """Make the mask of what to forget: who gets deletes again needs the rows that came back after them again too."""
    types = set(types)
    return mask_of(types.union(*map(upserts_of, types)))


def routes(services: Services) -> Iterator[Route]:
    """List the ack routes, under /api and at the root."""
    acks = SyncAcks(services)
    for path, suffix in zip(PATHS, ("", "AtRoot"), strict=True):
        yield Route(
            path,
            acks,
            (
                Operation(
                    "POST",
                    "sendSyncAck" + suffix,
                    "Acknowledge positions",
                    {204: None},
                    body=SyncAckSetDto,
                    example={"acks": ["AssetV2|2025-01-20T10:30:45.123456Z|8f0c1f7e-3c1c-4a53-9f0e-0d3b6e0a6f11"]},
                ),
                Operation("GET", "getSyncAck" + suffix, "List the checkpoints", {200: list[SyncAckDto]}),
                Operation(
                    "DELETE",
                    "deleteSyncAck" + suffix,
                    "Forget checkpoints",
                    {204: None},
                    body=SyncAckDeleteDto,
                    example={"types": ["AssetV2"]},
                    body_required=False,
                ),
            ),
        )
