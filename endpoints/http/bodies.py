"""Reading request bodies and queries: the one place where what a client sends becomes structs.

A body is bounded before it is read, decoded by a typed msgspec decoder, and whatever is wrong with it becomes an
`InvalidInput` that names the path. The content type is not looked at: clients that forget it mean JSON. Only where no
body came it tells that one was lost, on a proxy or for want of a length: without it a request may mean more than with
it, like to forget all checkpoints and not those named.

It is bounded in time too, or whoever sends a byte now and then holds a connection for ever. Only waiting for the client
counts, not what is done with the parts meanwhile, so that a large import may take as long as the store does:

- SILENCE_S without a byte: a phone that changes cells, or whose radio sleeps, is back sooner, and an app tries again.
- In all START_S and a second for each BYTES_PER_S that came: a tenth of what the slowest mobile links carry. So a body
  of the largest size ends, and one that trickles is over after little more than START_S.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final, TypeVar

import falcon
import msgspec

from endpoints.http.request import Request
from ledger.errors import InvalidInput

T = TypeVar("T")

MAX_BODY_BYTES: Final = 1 << 20
SILENCE_S: Final = 30.0
START_S: Final = 60.0
BYTES_PER_S: Final = 1024
_AT: Final = re.compile(r"^(.*?)(?: - at `(?:key in )?\$(.*)`)?$", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_MISSING: Final = re.compile(r"^Object missing required field `([^`]+)`$")


class ClientGone(Exception):
    """The client left before its body was complete: nothing may be done with the part that came."""


class BodyTooSlow(Exception):
    """The body stopped coming, or came too slowly; says what to do. What was taken of it line by line stays taken."""


async def read(req: Request, *, limit: int = MAX_BODY_BYTES) -> bytes:
    """Read a whole body of at most `limit` bytes; raises ClientGone, BodyTooSlow, or falcon's 413."""
    event = req.first_event
    body: bytes = event.get("body", b"")
    if not event.get("more_body"):
        return _bounded(body, limit)
    whole = bytearray(body)  # and no list of parts: those of a byte or two would take thirty times their size
    async for part in _rest(req):
        if len(whole) + len(part) > limit:
            raise _too_large(limit)
        whole += part
    return bytes(whole)


async def chunks(req: Request) -> AsyncIterator[bytes]:
    """Yield a body of any size as it arrives, never held whole.

    Raises ClientGone when the client leaves inside it, BodyTooSlow, and InvalidInput for one without a length.
    """
    event = req.first_event
    if event.get("body"):
        yield event["body"]
    elif not event.get("more_body") and not _is_framed(req):
        _check_lost(req)
    if event.get("more_body"):
        async for part in _rest(req):
            if part:
                yield part


async def decode(req: Request, decoder: msgspec.json.Decoder[T]) -> T:
    """Read and decode a JSON body; raises InvalidInput naming what is wrong where, and what `read` raises."""
    event = req.first_event
    whole: bytes = event.get("body", b"")
    whole = await read(req) if event.get("more_body") else _bounded(whole, MAX_BODY_BYTES)
    if not whole:
        _check_lost(req)
    return parse(whole, decoder)


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
    """Yield what comes behind the first event, waiting no longer than the bounds say."""
    clock = asyncio.get_running_loop().time
    size = len(req.first_event.get("body", b""))
    waited_s = silent_s = 0.0
    while True:
        silence_s, slow_s = SILENCE_S - silent_s, START_S + size / BYTES_PER_S - waited_s
        began = clock()
        try:
            async with asyncio.timeout(min(silence_s, slow_s)):
                event = await req.receive()
        except TimeoutError:
            raise _stopped() if silence_s <= slow_s else _slow() from None
        if event["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = event.get("body", b"")
        took_s = clock() - began
        size += len(part)
        waited_s += took_s
        silent_s = 0.0 if part else silent_s + took_s
        yield part
        if not event.get("more_body"):
            return


def _check_lost(req: Request) -> None:
    if b"content-type" in req.raw_headers:
        raise InvalidInput([((), "Content-Type tells of a body, but none came: send it with its Content-Length")])


def _is_framed(req: Request) -> bool:
    return not req.raw_headers.keys().isdisjoint((b"content-length", b"transfer-encoding"))


def _bounded(body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _too_large(limit: int) -> falcon.HTTPContentTooLarge:
    return falcon.HTTPContentTooLarge(description=f"The body is larger than {limit} bytes")


def _stopped() -> BodyTooSlow:
    return BodyTooSlow(
        f"The body stopped coming: send the request again, with no pause of {SILENCE_S:g} seconds in its body"
    )


def _slow() -> BodyTooSlow:
    return BodyTooSlow(
        f"The body came at less than {BYTES_PER_S:,} bytes a second: send the request again, over a better connection "
        "or in smaller parts"
    )
