"""The server of a witness (C2SP tlog-witness), bounded in bytes, time and rate.

`POST /add-checkpoint` has a log's checkpoint signed, `GET /<SHA-256 of its origin>/checkpoint` gives the newest one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final

import falcon
import falcon.asgi
from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from ledger.transparency.notes import BadNote, Note, VerifierKey
from ledger.transparency.witnessing import MAX_BYTES, SIZE_TYPE, Refusal, judge, origin_of, parse_submission
from ops.witness.state import WitnessState

RATE: Final = "120/minute"
"""How often an address may ask; a log does so twice a minute."""
BODY_WITHIN_S: Final = 10.0
log = logging.getLogger("syncledger.witness")


class AddCheckpoint:
    """Signs checkpoints that grew from the last ones signed."""

    def __init__(
        self,
        state: WitnessState,
        logs: Mapping[str, Sequence[VerifierKey]],
        *,
        now_s: Callable[[], float] = time.time,
        rate: str = RATE,
    ) -> None:
        """`logs`: by origin the keys of the logs that are watched."""
        self._state = state
        self._logs = logs
        self._now_s = now_s
        self._rate = parse(rate)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._one = asyncio.Lock()

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Sign a checkpoint, or say why not."""
        resp.content_type = "text/plain; charset=utf-8"
        if not await self._limiter.hit(self._rate, req.remote_addr):
            resp.status, resp.text = 429, f"more than {RATE} from this address\n"
            resp.set_header("Retry-After", "60")
            return
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await req.stream.read(MAX_BYTES + 1)
        except TimeoutError:
            resp.status, resp.text = 408, "the body came too slowly\n"
            return
        if len(body) > MAX_BYTES:
            resp.status, resp.text = 413, f"a submission has at most {MAX_BYTES:,} bytes\n"
            return
        try:
            resp.text = await self._sign(body.decode())
        except (BadNote, UnicodeDecodeError) as error:
            resp.status, resp.text = 400, f"{error}\n"
        except Refusal as refusal:
            resp.status, resp.text = refusal.status, f"{refusal}\n"
            if refusal.size is not None:
                resp.text, resp.content_type = f"{refusal.size}\n", SIZE_TYPE

    async def _sign(self, text: str) -> str:
        """Judge and keep a checkpoint, one at a time, then sign it. Raises Refusal, BadNote."""
        submission = parse_submission(text)
        origin = origin_of(submission)
        async with self._one:
            try:
                judge(submission, self._logs.get(origin, ()), self._state.newest(origin))
            except Refusal as refusal:
                if refusal.is_fork:
                    log.error("log %s: %s", origin, refusal)
                    await asyncio.to_thread(self._state.keep_fork, origin, str(submission.note))
                raise
            made = self._state.key.cosign(submission.note.text, int(self._now_s()))
            of_log = {(key.name, key.key_id) for key in self._logs[origin]}
            signed = [each for each in submission.note.signatures if (each.name, each.key_id) in of_log]
            await asyncio.to_thread(self._state.keep, origin, str(Note(submission.note.text, (*signed, made))))
        return f"{made.line}\n"


class SignedCheckpoint:
    """The newest checkpoint that was signed of a log."""

    def __init__(self, state: WitnessState, logs: Iterable[str]) -> None:
        """`logs`: the origins of those that are watched."""
        self._state = state
        self._origins = {sha256(origin.encode()).hexdigest(): origin for origin in logs}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, origin_hash: str) -> None:
        """Give it as it was signed by the log and here."""
        signed = self._state.read(self._origins.get(origin_hash, ""))
        if not signed:
            raise falcon.HTTPNotFound(description="no checkpoint of a log of this name was signed here")
        resp.content_type, resp.text = "text/plain; charset=utf-8", signed


def build(
    state: WitnessState,
    logs: Mapping[str, Sequence[VerifierKey]],
    *,
    now_s: Callable[[], float] = time.time,
    rate: str = RATE,
) -> falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]:
    """Build the application of a witness that watches these logs."""
    app: falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response] = falcon.asgi.App()
    app.add_route("/add-checkpoint", AddCheckpoint(state, logs, now_s=now_s, rate=rate))
    app.add_route("/{origin_hash}/checkpoint", SignedCheckpoint(state, logs))
    return app
