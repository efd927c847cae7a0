"""How a body is compressed: as the client asks, chunk by chunk, in bounded memory, and never made to look whole."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import falcon.asgi
import falcon.testing
import pytest
import zstandard

from endpoints.http.compression import CODINGS, SMALL_BYTES, coding_for, compress_whole, compressed
from endpoints.http.request import Request

LINE = b'{"type":"AssetV2","data":{"id":"%08d","ownerId":"00000000-0000-4000-8000-000000000001"},"ack":"AssetV2|%d"}\n'


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("gzip; q=0.8 , zstd; q=0.8", "zstd"),
        ("deflate, br", None),
        ("*", "zstd"),
        ("*;q=0.1, zstd;q=0", "gzip"),
        ("gzip;q=0", None),
        ("*;q=0", None),
        ("identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=1", "gzip"),
        ("identity;q=0", None),
        ("gzip;q=2", None),
        ("gzip;q=-1", None),
        ("gzip;q=nan", None),
        ("gzip;q=", None),
        ("gzip;level=9", None),
        (";;,,q=1,;q=1", None),
        ("gzip" * 1000, None),
    ],
)
def test_the_coding_is_what_the_client_asks_for(accepted: str, coding: str | None) -> None:
    assert coding_for(accepted) == coding


def reader(coding: str) -> Callable[[bytes], bytes]:
    if coding == "gzip":
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress
    return zstandard.ZstdDecompressor().decompressobj().decompress


def answer(accepted: str) -> tuple[Request, falcon.asgi.Response]:
    scope = falcon.testing.create_scope(headers={"accept-encoding": accepted})

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    return Request(scope, receive), falcon.asgi.Response()


@pytest.mark.parametrize("coding", CODINGS)
async def test_each_chunk_can_be_read_as_soon_as_it_is_sent(coding: str) -> None:
    sent: list[bytes] = []

    async def made() -> AsyncGenerator[bytes]:
        for number in range(20):
            sent.append(LINE % (number, number) * (1 + number % 3))
            yield sent[-1]

    req, resp = answer(coding)
    read, whole, size = reader(coding), b"", 0
    async for piece in compressed(req, resp, made()):
        size += len(piece)
        whole += read(piece)
        assert whole == b"".join(sent)
    assert (resp.get_header("content-encoding"), resp.get_header("vary")) == (coding, "Accept-Encoding")
    assert 0 < size < len(whole) / 3


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_body_that_breaks_off_does_not_look_whole(coding: str) -> None:
    async def made() -> AsyncGenerator[bytes]:
        yield LINE % (1, 1)
        raise ConnectionError

    req, resp = answer(coding)
    pieces: list[bytes] = []

    async def read_all() -> None:
        async for piece in compressed(req, resp, made()):
            pieces.append(piece)  # noqa: PERF401 - what came before it broke off is looked at

    with pytest.raises(ConnectionError):
        await read_all()
    whole = gzip.decompress if coding == "gzip" else zstandard.ZstdDecompressor().decompress
    with pytest.raises((EOFError, zstandard.ZstdError)):
        whole(b"".join(pieces))


@pytest.mark.parametrize("coding", CODINGS)
async def test_memory_is_bounded_whatever_is_sent(coding: str) -> None:
    noise = random.Random(3).randbytes(32_768)

    async def made() -> AsyncGenerator[bytes]:
        for number in range(300):
            yield noise[number:] + noise[:number]

    req, resp = answer(coding)
    tracemalloc.start()
    async for _ in compressed(req, resp, made()):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


async def test_what_nobody_asked_to_have_compressed_is_sent_as_it_is() -> None:
    async def made() -> AsyncGenerator[bytes]:
        yield b"line\n"

    req, resp = answer("br")
    assert [piece async for piece in compressed(req, resp, made())] == [b"line\n"]
    assert (resp.get_header("content-encoding"), resp.get_header("vary")) == (None, "Accept-Encoding")


@pytest.mark.parametrize(("size", "coding"), [(SMALL_BYTES - 1, None), (SMALL_BYTES, "gzip")])
def test_a_whole_body_is_compressed_where_that_is_worth_it(size: int, coding: str | None) -> None:
    req, resp = answer("gzip")
    resp.data = b"x" * size
    compress_whole(req, resp)
    assert resp.get_header("content-encoding") == coding
    assert resp.data is not None
    assert (gzip.decompress(resp.data) if coding else resp.data) == b"x" * size
