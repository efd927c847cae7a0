"""Quick ways: beside the plain way of a request, which is Falcon's, one for those that almost all are of their kind.

A server asks a quick way first where the whole request is at hand. What that does not fit goes the plain way as if
nobody had looked at it; tests hold the two equal: the same answer, the same on record, the same counted. What watches
requests, as a log or traces, sees the plain way only: where anything does, there are no others (`routes.build`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

BEGUN: Final = "ledger.begun"
"""The extension of an ASGI scope that has what a quick way began of the request."""


class QuickHead(Protocol):
    """The head of a request."""

    prepared: Any
    """None until the way keeps here what it found: requests with the same head may come with it again."""

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The names, in lower case, and the values, as they came."""
        ...


class QuickRequest(Protocol):
    """A request that is all there, whose answer has not begun."""

    @property
    def head(self) -> QuickHead:
        """Its head."""
        ...

    @property
    def body(self) -> bytes | bytearray:
        """Its body, which is whole."""
        ...

    def answer(self, status: int, field_lines: bytes) -> None:
        """Answer without a body; `field_lines` are in order, each with its end. A client that left gets nothing."""
        ...

    def serve_plainly(self, begun: object) -> None:
        """Have it go the plain way, which is given what was begun."""
        ...


class QuickWay(Protocol):
    """A way of the requests of one method and path, without a query."""

    def begin(self, request: QuickRequest) -> bool:
        """Take a request, or leave it to the plain way; tells whether it was taken. Raises nothing."""
        ...


QuickWays = Mapping[bytes, QuickWay]
"""By the method and the target, as `POST /api/sync/ack`."""
