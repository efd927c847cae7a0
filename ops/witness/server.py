"""The server of a witness: `POST /add-checkpoint` (C2SP tlog-witness), bounded in bytes, time and rate."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import falcon
import falcon.asgi
from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from ledger.transparency.notes import BadNote, VerifierKey
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
            await asyncio.to_thread(self._state.keep, origin, str(submission.note))
        return f"{self._state.key.cosign(submission.note.text, int(self._now_s())).line}\n"


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
    return app
