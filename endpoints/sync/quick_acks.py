"""The quick way of POST /sync/ack: one ack of a token whose session this worker remembers, which almost every one is.

It does what Falcon, `Auth.device`, `bodies.decode`, `SyncAcks.on_post` and `Correlation` do to such a request, and
neither makes their objects nor a task: the store's reply calls for the answer. Whatever is not as usual goes the plain
way from the beginning; what was sent to the store and not answered as usual is ended there (`Ledger.acknowledge`).
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter
from typing import Final, NamedTuple

import msgspec

from endpoints.accounts.auth import Known
from endpoints.figures.of_http import HttpFigures
from endpoints.http.bodies import MAX_BODY_BYTES
from endpoints.http.quick import QuickHead, QuickRequest
from endpoints.http.request import CORRELATION_HEADER, OWN, OWN_HEADER, correlation_of
from endpoints.services import Services
from endpoints.sync.acks import SyncAckSetDto
from ledger.acks import parse_ack
from ledger.errors import LedgerError
from ledger.log.service import BegunAck

_decode: Final = msgspec.json.Decoder(SyncAckSetDto).decode
_CORRELATION_NAME: Final = CORRELATION_HEADER.encode()
_FIELDS: Final = b"%b: %%b\r\n%b: %b\r\n" % (_CORRELATION_NAME, OWN_HEADER.encode(), OWN.encode())
_WRONG: Final = (LedgerError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Prepared(NamedTuple):
    """What follows from a head: its correlation id, and what tells whose it is, unless only the plain way does."""

    known: Known | None
    correlation: bytes | None = None


class QuickAcks:
    """The acks of one route."""

    def __init__(self, path: str, services: Services, figures: HttpFigures) -> None:
        self._auth = services.auth
        self._ledger = services.ledger
        self._taken = figures.answers("POST", path, "204")

    def begin(self, request: QuickRequest) -> bool:
        """Send an ack to the store, if it is one as usual."""
        began_s = perf_counter()
        head = request.head
        prepared: _Prepared = head.prepared or self._prepare(head)
        known, body = prepared.known, request.body
        if known is None or len(body) > MAX_BODY_BYTES or (caller := known()) is None:
            return False
        try:
            acks = _decode(body).acks
            begun = self._ledger.begin_ack(caller, parse_ack(acks[0])) if len(acks) == 1 else None
        except _WRONG:
            return False
        if begun is None:
            return False
        begun.reply.add_done_callback(partial(self._end, request, prepared, begun, began_s))
        return True

    def _end(
        self, request: QuickRequest, prepared: _Prepared, begun: BegunAck, began_s: float, _: asyncio.Future[object]
    ) -> None:
        """Answer an ack to which the store replied."""
        if not self._ledger.took_ack(begun):
            request.serve_plainly(begun)
            return
        self._taken.note(began_s)
        request.answer(204, _FIELDS % correlation_of(prepared.correlation).encode())

    def _prepare(self, head: QuickHead) -> _Prepared:
        fields = dict(head.fields)
        usual = len(fields) == len(head.fields)  # Falcon joins those that come more than once
        known = self._auth.known_by(fields) if usual else None
        head.prepared = prepared = _Prepared(known, fields.get(_CORRELATION_NAME))
        return prepared
