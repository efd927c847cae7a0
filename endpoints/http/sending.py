"""Sending a body that is made while it is sent: watched from first to last, broken off when it cannot be whole."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from time import monotonic
from typing import Final, Protocol

import falcon.asgi

from endpoints.http.compression import compressed
from endpoints.http.operations import NDJSON
from endpoints.http.request import Request
from endpoints.sync.stream_guard import Guard
from ledger.errors import Unavailable

log = logging.getLogger(__name__)

RECHECK_S: Final = 5.0
"""How long a credential of who follows is taken for good before it is looked at again."""
UNSURE_S: Final = 60.0
"""How long one follows on while the store does not tell whether the credential is still good."""
TRANSPORT: Final = "ledger.transport"
"""The ASGI extension by which the server gives the connection's transport."""
LEAVING: Final = "ledger.leaving"
"""The ASGI extension by which the server tells whether it is to end, or others have come to serve."""


class Account(Protocol):
    """Keeps what a stream sent, and how it ended."""

    def open(self) -> None:
        """Take note that sending begins."""
        ...

    def add(self, chunk: bytes) -> None:
        """Take note of a chunk that was handed to the connection."""
        ...

    async def close(self, how: str, why: str = "") -> None:
        """Take note of the end: `completed`, `gone`, `stalled`, `ended` or `broken`, and why. Raises nothing."""
        ...


async def guarded(
    req: Request,
    made: AsyncGenerator[bytes],
    lives: Callable[[], Awaitable[bool]],
    stall_s: float,
    account: Account | None = None,
) -> AsyncGenerator[bytes]:
    """Yield the chunks of `made` as long as somebody who may have them takes them.

    Ends quietly when the client has left. When the session ended (`lives`), the reader stalled, or making a chunk
    failed, the connection is broken: a clean end would be taken for the whole. `account` is told of all of it.
    """
    account = account or _Told(req)
    how, why = "broken", "the service stopped, or the server gave the response up"
    transport = req.scope.get("extensions", {}).get(TRANSPORT)
    account.open()
    try:
        with Guard(req.receive, transport, lives, stall_s) as guard:
            try:
                while (chunk := await guard.next_of(made)) is not None:
                    await guard.check()
                    if guard.over is not None:
                        break
                    yield chunk
                    account.add(chunk)
                how, why = guard.over or "completed", ""
            except Unavailable as error:
                why = str(error)
                extra = {"correlation_id": req.correlation_id}
                log.error("stream broken off [%s]: %s", req.correlation_id, error, extra=extra)
                guard.break_off()
            except Exception as error:
                why = type(error).__name__
                extra = {"correlation_id": req.correlation_id}
                log.exception("stream broken off [%s]", req.correlation_id, extra=extra)
                guard.break_off()
            finally:
                if guard.over is not None:  # the connection is closed: a response that is given up is that
                    how, why = guard.over, ""
                await made.aclose()
            if guard.over not in (None, "gone"):
                guard.break_off()
    finally:
        await account.close(how, why)


class _Told:
    """Tells only a log how a stream ended, where it is not a whole one."""

    def __init__(self, req: Request) -> None:
        self._req = req

    def open(self) -> None:
        """Count nothing."""

    def add(self, chunk: bytes) -> None:
        """Count nothing."""

    async def close(self, how: str, why: str = "") -> None:
        """Log it."""
        if how not in ("completed", "broken"):
            log.info("stream over: %s [%s]", how, self._req.correlation_id)


def send_lines(
    req: Request,
    resp: falcon.asgi.Response,
    made: AsyncGenerator[bytes],
    lives: Callable[[], Awaitable[bool]],
    stall_s: float,
) -> None:
    """Answer with lines of JSON as they are made (`guarded`), compressed if the client asks for it."""
    resp.content_type = NDJSON
    resp.stream = compressed(req, resp, guarded(req, made, lives, stall_s))


def send_endless(
    req: Request,
    resp: falcon.asgi.Response,
    made: AsyncGenerator[bytes],
    lives: Callable[[], Awaitable[bool]],
    stall_s: float,
) -> None:
    """Answer with what goes on for ever, as it is made (`guarded`), which nothing on the way may keep or hold back.

    Not compressed: that would keep a window for each who follows. It is broken off soon when the worker is to end, so
    whoever follows comes to another one and nobody waits for their end.
    """
    leaving: Callable[[], bool] | None = req.scope.get("extensions", {}).get(LEAVING)

    async def goes_on() -> bool:
        return not (leaving is not None and leaving()) and await lives()

    resp.set_header("cache-control", "no-store")
    resp.set_header("x-accel-buffering", "no")
    resp.stream = guarded(req, made, goes_on, stall_s)


async def with_first_made(made: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Make the first chunk now, and return all of them: what cannot even begin is an error with a status of its own."""
    try:
        first = await anext(made, None)
    except BaseException:
        await made.aclose()
        raise
    return _behind(first, made)


async def _behind(first: bytes | None, made: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    try:
        if first is not None:
            yield first
            del first  # while a reader is slow only what it has not got is kept
        async for chunk in made:
            yield chunk
    finally:
        await made.aclose()


async def always() -> bool:
    """Stand for a credential that is looked at only once, like an API key."""
    return True


def rechecked(still_may: Callable[[], Awaitable[bool]]) -> Callable[[], Awaitable[bool]]:
    """Make what tells whether who follows still may, for `send_endless`: `still_may`, asked anew every RECHECK_S.

    A store that is away is waited for, UNSURE_S at most: clients of server-sent events that come back to a 503 give up
    for good.
    """
    asked_s = known_s = monotonic()

    async def lives() -> bool:
        nonlocal asked_s, known_s
        if monotonic() - asked_s < RECHECK_S / 2:
            return True
        asked_s = monotonic()
        try:
            may = await still_may()
        except Unavailable:
            if monotonic() - known_s > UNSURE_S:
                raise
            return True
        known_s = monotonic()
        return may

    return lives
