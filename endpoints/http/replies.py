"""Writing JSON replies: the one place where structs become bodies."""

from __future__ import annotations

from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from ledger.positions import iso_from_us

_encode: Final = msgspec.json.Encoder().encode


def send(resp: falcon.asgi.Response, body: Any, status: str = falcon.HTTP_200) -> None:
    """Answer with a struct, or anything else msgspec can encode, as JSON."""
    resp.status = status
    resp.content_type = falcon.MEDIA_JSON
    resp.data = _encode(body)


def iso_ms(us: int) -> str:
    """Print an instant as the SDK's DTOs hold dates: ISO 8601 in UTC with exactly three decimals and `Z`."""
    return iso_from_us(us)[:-4] + "Z"
