"""Reading request bodies and queries: the one place where what a client sends becomes structs.

A body is bounded before it is read, decoded by a typed msgspec decoder, and whatever is wrong with it becomes an
`InvalidInput` that names the path. The content type is not looked at: clients that forget it mean JSON.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final, TypeVar

import falcon
import msgspec

from endpoints.request import Request
from ledger.errors import InvalidInput

T = TypeVar("T")

MAX_BODY_BYTES: Final = 1 << 20
_AT: Final = re.compile(r"^(.*?)(?: - at `(?:key in )?\$(.*)`)?$", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_MISSING: Final = re.compile(r"^Object missing required field `([^`]+)`$")


class ClientGone(Exception):
    """The client left before its body was complete: nothing may be done with the part that came."""


async def read(req: Request, *, limit: int = MAX_BODY_BYTES) -> bytes:
    """Read a whole body of at most `limit` bytes; raises ClientGone, or falcon's 413."""
    event = req.first_event
    body: bytes = event.get("body", b"")
    if not event.get("more_body"):
        return _bounded(body, limit)
    parts = [body]
    size = len(body)
    async for part in _rest(req):
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


async def chunks(req: Request) -> AsyncIterator[bytes]:
    """Yield a body of any size as it arrives, never held whole; raises ClientGone when the client leaves inside it."""
    event = req.first_event
    if event.get("body"):
        yield event["body"]
    if event.get("more_body"):
        async for part in _rest(req):
            if part:
                yield part


async def decode(req: Request, decoder: msgspec.json.Decoder[T]) -> T:
    """Read and decode a JSON body; raises InvalidInput naming what is wrong where."""
    event = req.first_event
    if event.get("more_body"):
        return parse(await read(req), decoder)
    return parse(_bounded(event.get("body", b""), MAX_BODY_BYTES), decoder)


def parse(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode JSON; an empty body counts as `{}`, as clients send it for bodies without a required field."""
    try:
        return decoder.decode(body or b"{}")
    except msgspec.ValidationError as error:
        raise InvalidInput([located(str(error))]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput([((), f"The body is not JSON: {error}")]) from error


def query(req: Request, kind: type[T]) -> T:
    """Read the query string into a struct; raises InvalidInput. Parameters it does not know are left alone."""
    try:
        return msgspec.convert(req.params, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput([located(str(error))]) from error


def located(text: str) -> tuple[tuple[str | int, ...], str]:
    """Split a msgspec message like "Expected `str`, got `int` - at `$.acks[3]`" into its path and what is wrong there.

    A missing field is part of the path. `...` stands for any key of a mapping.
    """
    match = _AT.match(text)
    assert match is not None  # it matches any text
    message = match[1]
    path: list[str | int] = []
    for name, index in _STEP.findall(match[2] or ""):
        path.append(name or (index if index == "..." else int(index)))
    missing = _MISSING.match(message)
    if missing:
        path.append(missing[1])
    return tuple(path), message


async def _rest(req: Request) -> AsyncIterator[bytes]:
    while True:
        event = await req.receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        yield event.get("body", b"")
        if not event.get("more_body"):
            return


def _bounded(body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _too_large(limit: int) -> falcon.HTTPContentTooLarge:
    return falcon.HTTPContentTooLarge(description=f"The body is larger than {limit} bytes")
