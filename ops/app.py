"""The one place where the service is put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from endpoints.http.quick import QuickWay
from endpoints.routes import build, build_waiting
from ledger.errors import InvalidInput, LedgerError, StoreUnavailable, Unavailable
from ledger.events import IMMICH
from ops.figures.of_worker import LookedAt
from ops.figures.shared import Slot
from ops.figures.watching import Watch
from ops.jobs import Jobs, again_and_again
from ops.opening.identity_provider import open_immich_tables
from ops.opening.ledger import waiting_text
from ops.opening.observing import Observing
from ops.opening.proof import log_of
from ops.opening.services import open_census, open_services
from ops.opening.sockets import open_sockets
from ops.opening.store import FIRST_PAUSE_S, MAX_PAUSE_S
from ops.settings.settings import Settings

if TYPE_CHECKING:
    from endpoints.live.sockets import Sockets

log = logging.getLogger("syncledger.app")

OPENED_WITHIN_S: Final = 1.0
"""How long a worker that takes the place of another lets clients wait for it, before it tells them to come again."""


class Application:
    """The ASGI application of one worker: opens its store when the server starts it, and runs its jobs."""

    def __init__(self, settings: Settings, redis_url: str, ledger_id: str) -> None:
        """Take the settings, the address of the store, embedded or not, to connect to on start, and its ledger's id."""
        self._ledger_id = ledger_id
        self._settings = settings
        self._redis_url = redis_url
        self._observing = Observing(settings)
        waiting = build_waiting(lambda: self._trouble, self._observing.middleware)
        self._app = self._observing.around(waiting)
        self._sockets: Sockets | None = None
        self.quick: dict[bytes, QuickWay] = {}
        """The quick ways of some requests, once the store is there: a server asks them before it calls."""
        self._trouble: Unavailable = StoreUnavailable("the worker is starting", maybe_done=False)
        self.served_before = False
        """Whether the service has been ready: then a worker that cannot begin tries again, and ends no others."""
        self.takes_over = False
        """Whether others serve until this worker is ready: one that cannot begin then does not, whatever the reason."""
        self.slot: Slot | None = None
        """Its place among the workers of the service, for their figures; None where it is alone."""

    def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Awaitable[None]:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            return self._lifespan(receive, send)
        if self._sockets is not None and self._sockets.takes(scope):
            return self._sockets(scope, receive, send)
        return self._app(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        async with AsyncExitStack() as closing:
            if self._settings.traces:
                from ops.tracing.sending import Sending  # PERF: only who traces waits for this

                try:
                    closing.push_async_callback(Sending.begin(self._settings).end)
                except InvalidInput as wrong:
                    await send({"type": "lifespan.startup.failed", "message": wrong.told})
                    return
            opening = asyncio.create_task(self._open(closing))
            # The parent has seen the store, so at first it is only a moment; later others must not be kept waiting.
            await asyncio.wait([opening], timeout=OPENED_WITHIN_S if self.served_before else None)
            if opening.done() and (error := opening.exception()) is not None:
                if not self._may_come(error):
                    if not isinstance(error, LedgerError):
                        raise error
                    await send({"type": "lifespan.startup.failed", "message": error.told})
                    return
                self._note(error)
                opening = asyncio.create_task(self._keep_opening(closing))
            elif not opening.done():
                first, opening = opening, asyncio.create_task(self._keep_opening(closing, opening))
                closing.push_async_callback(_end, [first])
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await _end([opening])
        await send({"type": "lifespan.shutdown.complete"})

    async def _keep_opening(self, closing: AsyncExitStack, first: asyncio.Task[None] | None = None) -> None:
        """Open again and again until that succeeds; until then everybody is told to come again."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await (first or self._open(closing))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and tried again
                self._note(error)
            else:
                log.info("the store is there: serving")
                return
            first = None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)

    def _may_come(self, error: BaseException) -> bool:
        """Tell whether opening is to be tried again: if what is missing may come, or others serve already."""
        if self.served_before:
            return isinstance(error, Exception)
        return isinstance(error, Unavailable) and not self.takes_over

    def _note(self, error: BaseException) -> None:
        """Keep what is in the way for those who ask, and log it, once as long as it is the same."""
        told = error.told if isinstance(error, LedgerError) else "the worker cannot begin, its log tells why"
        if told == str(self._trouble):
            return
        if isinstance(error, LedgerError):
            log.error("not serving yet: %s", told)
        else:
            log.error("not serving yet", exc_info=error)
        self._trouble = StoreUnavailable(told, maybe_done=False)

    async def _open(self, closing: AsyncExitStack) -> None:
        """Open all that the application needs and begin its jobs; what is opened goes with `closing`."""
        async with AsyncExitStack() as stack:
            looked = LookedAt()
            found, services = await open_services(
                self._redis_url, self._settings, stack, self._ledger_id, looked, self._observing
            )
            proof = await log_of(found, self._settings)
            jobs = Jobs(self._settings, found, proof)
            await jobs.make_good()
            built, sockets = build(services, self._observing.middleware), None
            watch = Watch(self._settings, looked, self.slot)
            watch.begin(services)
            work = [*jobs.of_every_worker(services, watch, open_census(self._settings, found, services.source, proof))]
            if self._settings.identity == IMMICH:
                tables = await open_immich_tables(self._settings, connections=1)
                stack.push_async_callback(tables.close)
                work.append(jobs.beside_immich(tables))
            if self._settings.has_sockets:
                sockets = open_sockets(found, services, self._settings)
                stack.push_async_callback(sockets.close)
                work += jobs.for_sockets(services.source, sockets)
            waits = await waiting_text(found, self._settings)
            log.info("store: %s, %s%s", found.promise.server, found.promise.text, waits)
            running = [again_and_again(job, services.counters, looked) for job in work]
            stack.push_async_callback(_end, [asyncio.create_task(job) for job in (watch.tick(), *running)])
            closing.push_async_exit(stack.pop_all())
        self._app, self._sockets = self._observing.around(built), sockets
        self.quick.update(built.quick)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def create_app(settings: Settings, redis_url: str | None = None, ledger_id: str = "") -> Application:
    """Build the application; `redis_url` is the embedded server's where the settings name no other.

    `ledger_id`: the ledger to serve, which is waited for where the store has lost it; '' for the one that is there.
    """
    url = settings.redis_url or redis_url
    assert url is not None, "somebody must run the embedded server before its workers"
    return Application(settings, url, ledger_id)
