"""One connection shared by all tasks of an event loop.

Commands issued in one turn of the loop leave in one write, and replies come back in the order of the commands, so a
command costs its packing, one future and its place in two lists; there are no timers, locks or tasks per command.

`Link` is one connection from its first command to its loss; it never comes back. `Mux` holds the current link and
makes the next one: behind a loss, and beside a link whose server refuses to serve, since the address may lead to
another one by now. What was written on a link that is lost may have been carried out and is never sent again.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from hiredis import HiredisError, Reader

from ledger.errors import StoreUnavailable
from ledger.figures.of_store import StoreFigures
from ledger.store.connect import Target
from ledger.store.error_replies import NotNow, NotPermitted, NotServing, error_from_reply
from ledger.store.scripts import Script

MAX_PENDING = 100_000
MAX_HELD_BYTES = 64 << 20
WRITE_BUFFER_BYTES = 1 << 20
WATCH_S = 0.25
FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
HELD_SHARE = 0.3
"""For how much of the timeout commands wait for a connection that is made again: some have waited for the lost one."""
RENEWED_EVERY_S = 1.0
"""How soon after each other connections are made anew because the server refuses to serve."""
_NOTHING = object()


class Link(asyncio.Protocol):
    """One connection: commands in `send`'s order, each answered by the reply at its place.

    Commands may be sent before the connection stands; they are held and leave when it does. `on_lost` is called once
    with the link and why, `on_refused` whenever the server refused to serve.
    """

    def __init__(
        self,
        name: str,
        timeout_s: float,
        on_lost: Callable[[Link, str], None],
        on_refused: Callable[[Link], None],
        figures: StoreFigures,
    ) -> None:
        self._name = name
        self._figures = figures
        self._timed = 0  # the number of the command whose reply is timed; 0: of none
        self._timed_since_s = 0.0
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._create_future = self._loop.create_future
        self._writer: asyncio.StreamWriter | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._reader = Reader(replyError=error_from_reply, notEnoughData=_NOTHING)
        self._pending: deque[asyncio.Future[Any]] = deque()  # every command without its reply, oldest first
        self._unwritten: list[bytes] = []  # the packed commands of the last entries of _pending
        self._writable = False
        self._held_bytes = 0
        self._lost = False
        self._retired = False
        self._sent = 0  # commands ever written
        self._watch_s = min(WATCH_S, timeout_s / 4)
        self._patience = math.ceil(timeout_s / self._watch_s)
        self._timeout_s = timeout_s
        self._marks: deque[int] = deque()  # _sent at each of the last ticks of the watch
        self._watch: asyncio.TimerHandle | None = None
        self.writes = 0
        self.answered = False  # known when the link is lost: whether it ever gave a reply

    # The hot path -----------------------------------------------------------------------------------------------------

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Queue one packed command; the future ends with its reply or a LedgerError."""
        pending, unwritten = self._pending, self._unwritten
        if len(pending) >= MAX_PENDING:
            raise StoreUnavailable("too many commands wait for the store", maybe_done=False)
        if not self._writable:
            self._hold(packed)
        elif not unwritten:
            self._loop.call_soon(self._flush)
        unwritten.append(packed)
        reply = self._create_future()
        pending.append(reply)
        return reply

    def _flush(self) -> None:
        unwritten = self._unwritten
        if not unwritten or not self._writable or self._transport is None:
            return
        self._unwritten = []
        self._held_bytes = 0
        self._figures.wrote(len(unwritten))
        if not self._timed:
            self._timed, self._timed_since_s = self._sent + 1, perf_counter()
        self._sent += len(unwritten)
        self.writes += 1
        if self._watch is None:
            self._watch = self._loop.call_later(self._watch_s, self._look)
        self._transport.write(b"".join(unwritten))

    def data_received(self, data: bytes) -> None:
        """Give each reply in `data` to the oldest command without one."""
        reader, pending, refused = self._reader, self._pending, False
        gets, next_pending, waited = reader.gets, pending.popleft, len(pending)
        try:
            reader.feed(data)
            while (reply := gets()) is not _NOTHING:
                waiter = next_pending()
                if waiter.done():  # cancelled; its reply still had to be read
                    continue
                if isinstance(reply, Exception):
                    waiter.set_exception(reply)
                    refused = refused or isinstance(reply, NotServing | NotNow)
                else:
                    waiter.set_result(reply)
        except (HiredisError, IndexError, ValueError) as exc:
            self.lose(f"the store's replies make no sense: {exc}")
            return
        self._figures.answered(waited - len(pending))
        if self._timed and self._sent - (len(pending) - len(self._unwritten)) >= self._timed:
            self._figures.round_trips.note(perf_counter() - self._timed_since_s)
            self._timed = 0
        if refused:
            self._on_refused(self)
        if self._retired:
            self.retire()

    # The connection's life --------------------------------------------------------------------------------------------

    def opened(self, writer: asyncio.StreamWriter) -> None:
        """Begin to write; what was cancelled meanwhile is dropped and never sent."""
        self._writer = writer  # its finalizer would close the transport
        self._transport = writer.transport
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        alive = [
            (reply, packed) for reply, packed in zip(self._pending, self._unwritten, strict=True) if not reply.done()
        ]
        self._pending = deque(reply for reply, _ in alive)
        self._unwritten = [packed for _, packed in alive]
        self._writable = True
        self._figures.connected()
        self._flush()

    def lose(self, reason: str, kind: type[StoreUnavailable] = StoreUnavailable) -> None:
        """End the link: fail every command without a reply, those written as maybe done, the others as not done."""
        if self._lost:
            return
        self._lost = True
        self._writable = False
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
            self._figures.lost()
        written = len(self._pending) - len(self._unwritten)
        self._figures.answered(written)
        self.answered = self._sent > written
        for place, reply in enumerate(self._pending):
            if not reply.done():
                reply.set_exception(kind(reason, maybe_done=place < written))
        self._pending.clear()
        self._unwritten = []
        self._on_lost(self, reason)

    def retire(self) -> None:
        """End the link once every command has its reply; no further ones may be sent."""
        self._retired = True
        if not self._pending:
            self.lose("another connection took its place")

    def hold_no_longer(self, reason: str) -> None:
        """Fail what is held for a connection that does not stand yet."""
        held, self._pending, self._unwritten, self._held_bytes = self._pending, deque(), [], 0
        for reply in held:
            if not reply.done():
                reply.set_exception(StoreUnavailable(reason, maybe_done=False))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(f"the connection to the store at {self._name} was lost" + (f": {exc}" if exc else ""))

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = not self._lost
        self._flush()

    @property
    def idle(self) -> bool:
        """Whether no command waits for its reply."""
        return not self._pending

    @property
    def stands(self) -> bool:
        """Whether it is connected."""
        return self._transport is not None and not self._lost

    def _hold(self, packed: bytes) -> None:
        if self._lost:
            raise StoreUnavailable(f"the connection to the store at {self._name} was lost", maybe_done=False)
        if self._held_bytes + len(packed) > MAX_HELD_BYTES:
            raise StoreUnavailable("too much data waits for the store", maybe_done=False)
        self._held_bytes += len(packed)

    def _look(self) -> None:
        """Lose the link when a command is without reply for `timeout_s` (up to one tick more).

        Time is counted in ticks seen by this loop, not by a clock: a loop that stood still sees replies first.
        """
        marks = self._marks
        marks.append(self._sent)
        answered = self._sent - (len(self._pending) - len(self._unwritten))
        if answered == self._sent:
            marks.clear()
            self._watch = None
            return
        if len(marks) > self._patience and marks.popleft() > answered:
            self.lose(f"the store at {self._name} did not answer within {self._timeout_s:g} s")
            return
        self._watch = self._loop.call_later(self._watch_s, self._look)


class Mux:
    """The way to one server: connects at once, and again after every loss, until closed.

    `send(packed)` queues one packed command and returns the future of its reply. While a connection is being made it
    holds commands, the first time for all of the timeout, later for a part of it; then, and after a failed attempt, it
    refuses them until the connection stands or the next attempt begins.
    """

    send: Callable[[bytes], asyncio.Future[Any]]

    def __init__(self, target: Target, timeout_s: float, figures: StoreFigures | None = None) -> None:
        self.target = target
        self._figures = figures or StoreFigures()
        self._timeout_s = timeout_s
        self._hold_s = timeout_s
        self._loads: dict[bytes, asyncio.Future[Any]] = {}
        self._closed = False
        self._refusal = ""
        self._opened_at_s = math.inf
        self._backoff_s = 0.0
        self._writes = 0
        self._retired: set[Link] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._renewed_at_s = -math.inf
        self._begin()

    @property
    def writes(self) -> int:
        """Socket writes so far, over all connections."""
        return self._writes + self._link.writes + sum(link.writes for link in self._retired)

    @property
    def idle(self) -> bool:
        """Whether no command waits for its reply."""
        return self._link.idle and not self._retired

    async def load(self, script: Script) -> None:
        """Load a script; tasks that need the same one at the same time share one SCRIPT LOAD."""
        load = self._loads.get(script.sha)
        if load is None:
            load = self._loads[script.sha] = self.send(script.packed_load)
            load.add_done_callback(lambda _: self._loads.pop(script.sha, None))
        await asyncio.shield(load)

    async def close(self) -> None:
        """Close the connection; commands without a reply fail with StoreUnavailable."""
        self._closed = True
        self._refusal = "the store is closed"
        self.send = self._refuse
        tasks = [self._dialing] if self._renewing is None else [self._dialing, self._renewing]
        for task in tasks:
            task.cancel()
        for link in (self._link, *self._retired):
            link.lose(self._refusal)
        await asyncio.wait(tasks)

    def _begin(self) -> None:
        """Set up the next link and connect it in the background."""
        self._opened_at_s = math.inf
        self._link = self._new_link()
        # PERF: bound anew for each state, so that no command has to ask which state it is in.
        self.send = self._refuse if self._backoff_s else self._link.send
        self._dialing = asyncio.get_running_loop().create_task(self._dial(self._link))

    def _new_link(self) -> Link:
        return Link(self.target.name, self._timeout_s, self._on_lost, self._on_refused, self._figures)

    async def _dial(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        if self._backoff_s:
            await asyncio.sleep(self._backoff_s * random.uniform(0.5, 1.0))  # noqa: S311
            self.send = link.send
        self._backoff_s = min(max(self._backoff_s * 2, FIRST_BACKOFF_S), MAX_BACKOFF_S)
        held = loop.call_later(self._hold_s, self._hold_no_longer, link)
        self._hold_s = self._timeout_s * HELD_SHARE
        try:
            writer = await self.target.connect(link, self._timeout_s)
        except Exception as exc:  # noqa: BLE001 - whatever it was, those who wait must hear of it
            link.lose(str(exc), NotPermitted if isinstance(exc, NotPermitted) else StoreUnavailable)
            return
        finally:
            held.cancel()
        self._opened_at_s = loop.time()
        link.opened(writer)
        if link.stands:
            self.send = link.send

    def _hold_no_longer(self, link: Link) -> None:
        if link is self._link and not link.stands and not self._closed:
            self._refusal = f"the store at {self.target.name} {self.target.silence}"
            self.send = self._refuse
            link.hold_no_longer(self._refusal)

    def _on_lost(self, link: Link, reason: str) -> None:
        self._writes += link.writes
        self._retired.discard(link)
        if self._closed or link is not self._link:
            return
        self._refusal = reason
        lived_s = asyncio.get_running_loop().time() - self._opened_at_s
        if link.answered or lived_s > MAX_BACKOFF_S:
            self._backoff_s = 0.0  # the next attempt comes at once, unless this connection was of no use
        self._begin()

    def _on_refused(self, link: Link) -> None:
        """Make another link beside one whose server refuses to serve, once a second at most."""
        loop = asyncio.get_running_loop()
        if self._closed or link is not self._link or loop.time() < self._renewed_at_s + RENEWED_EVERY_S:
            return
        if self._renewing is None or self._renewing.done():
            self._renewed_at_s = loop.time()
            self._renewing = loop.create_task(self._renew(link))

    async def _renew(self, old: Link) -> None:
        link = self._new_link()
        try:
            writer = await self.target.connect(link, self._timeout_s)
        except StoreUnavailable:
            return  # the old one is no worse
        link.opened(writer)
        if old is not self._link or not link.stands or self._closed:
            link.lose("another connection is there already")
            return
        self._link, self.send = link, link.send
        self._opened_at_s = asyncio.get_running_loop().time()
        self._retired.add(old)
        old.retire()

    def _refuse(self, packed: bytes) -> asyncio.Future[Any]:
        raise StoreUnavailable(self._refusal, maybe_done=False)
