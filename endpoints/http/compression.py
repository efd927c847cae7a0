"""Bodies compressed on their way where the client asks for it: streams and histories say the same names in every line.

Each chunk can be read as soon as it is sent, and what is held back in between is bounded by the compressor's window.
Answers that hold a secret (tokens, keys, addresses of a sign-in) are never compressed: how short they become would tell
who listens what is in them.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, Callable
from typing import Final, Protocol

import falcon.asgi
import zstandard

from endpoints.http.request import Request

GZIP_LEVEL: Final = 1
"""Of the lines of assets level 1 leaves 22 %, level 6 takes three times as long for 18 %."""
ZSTD_LEVEL: Final = 1
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
SMALL_BYTES: Final = 1024
"""Below this a whole body is sent as it is: a poll that finds nothing new is one line."""


class Compressor(Protocol):
    """One body being compressed."""

    def chunk(self, data: bytes) -> bytes:
        """Compress what comes next, so that all up to here can be read."""

    def end(self) -> bytes:
        """End the body."""


class Gzip:
    """RFC 1952, in a window of 32 KiB."""

    def __init__(self) -> None:
        self._body = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)

    def chunk(self, data: bytes) -> bytes:
        """Compress what comes next."""
        return self._body.compress(data) + self._body.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        """End the body."""
        return self._body.flush()


class Zstd:
    """RFC 8878, in the window of its level: half a megabyte, where RFC 9659 lets clients expect up to eight."""

    def __init__(self) -> None:
        self._body = zstandard.ZstdCompressor(ZSTD_LEVEL).compressobj()

    def chunk(self, data: bytes) -> bytes:
        """Compress what comes next."""
        return self._body.compress(data) + self._body.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def end(self) -> bytes:
        """End the body."""
        return self._body.flush()


CODINGS: Final[dict[str, Callable[[], Compressor]]] = {"zstd": Zstd, "gzip": Gzip}
"""By name, the one that costs less first."""
_ALIASES: Final = {"x-gzip": "gzip"}


def coding_for(accepted: str) -> str | None:
    """Choose how to compress for an `Accept-Encoding` (RFC 9110, section 12.5.3); None for not at all.

    What cannot be read is passed over: then nothing is compressed, which every client takes.
    """
    weights: dict[str, float] = {}
    for item in accepted.split(","):
        name, _, parameters = item.partition(";")
        weight = _weight(parameters)
        if weight is not None:
            name = name.strip().lower()
            weights.setdefault(_ALIASES.get(name, name), weight)
    others = weights.get("*", 0.0)
    plain = weights.get("identity", 0.0)
    best, coding = 0.0, None
    for name in CODINGS:
        weight = weights.get(name, others)
        if weight > best and weight >= plain:
            best, coding = weight, name
    return coding


def compressed(req: Request, resp: falcon.asgi.Response, made: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Return the body for a response whose other headers are set: compressed as the client asks, or as it was."""
    resp.append_header("vary", "Accept-Encoding")
    coding = _asked_for(req)
    if coding is None:
        return made
    resp.set_header("content-encoding", coding)
    return _each(CODINGS[coding](), made)


def compress_whole(req: Request, resp: falcon.asgi.Response) -> None:
    """Compress the body that a response holds (`data`), if the client asks for it and it is worth it."""
    resp.append_header("vary", "Accept-Encoding")
    body, coding = resp.data, _asked_for(req)
    if coding is None or body is None or len(body) < SMALL_BYTES:
        return
    compressor = CODINGS[coding]()
    resp.set_header("content-encoding", coding)
    resp.data = compressor.chunk(body) + compressor.end()


def _asked_for(req: Request) -> str | None:
    return coding_for(req.raw_headers.get(b"accept-encoding", b"").decode("latin-1"))


async def _each(compressor: Compressor, made: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    try:
        async for chunk in made:
            yield compressor.chunk(chunk)
    finally:
        await made.aclose()
    yield compressor.end()  # not where making it failed: a body that is cut off must not look whole


def _weight(parameters: str) -> float | None:
    """Read the weight of an item, 1 where it has none; None for what is no weight."""
    name, given, value = parameters.partition("=")
    if not given and not name.strip():
        return 1.0
    if name.strip().lower() != "q":
        return None
    try:
        weight = float(value)
    except ValueError:
        return None
    return weight if 0.0 <= weight <= 1.0 else None
