"""A request as a server asks a quick way with it, and what became of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec

from endpoints.http.quick import QuickWay
from ledger.log.quick_acks import APPEND_ONE
from ledger.store.interface import TakesPacked
from tests.support.phones.http import Service


class QuickAck:
    """An ack of a token's device that comes again and again with one head."""

    def __init__(self, service: Service, token: str, ack: str) -> None:
        self.head = SimpleNamespace(prepared=None, fields=[(b"authorization", b"Bearer " + token.encode())])
        self.body = msgspec.json.encode({"acks": [ack]})
        self._store = service.store
        self._way: QuickWay = service.quick[b"POST /api/sync/ack"]
        self._became: asyncio.Future[int | None]

    def answer(self, status: int, field_lines: bytes) -> None:
        """Take the answer."""
        self._became.set_result(status)

    def serve_plainly(self, begun: object) -> None:
        """Take that the plain way has to answer."""
        self._became.set_result(None)

    async def sent(self) -> int | None:
        """Send it; gives the status that it is answered with, None where that is for the plain way."""
        assert isinstance(self._store, TakesPacked)
        await self._store.load(APPEND_ONE, b"any")  # as the first ack at a store does, on the plain way
        self._became = asyncio.get_running_loop().create_future()
        return await self._became if self._way.begin(self) else None
