"""One connection shared by all tasks of an event loop.

Commands issued in one turn of the loop leave in one write, and replies come back in the order of the commands, so a
command costs its packing, one future and its place in two lists; there are no timers, locks or tasks per command.

`Link` is one connection from its first command to its loss; it never comes back. `Mux` holds the current link and
makes the next one. What was written on a link that is lost may have been carried out and is never sent again.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from hiredis import HiredisError, Reader

from ledger.errors import StoreUnavailable
from ledger.store.connect import Target
from ledger.store.error_replies import error_from_reply
from ledger.store.scripts import Script

MAX_PENDING = 100_000
MAX_HELD_BYTES = 64 << 20
WRITE_BUFFER_BYTES = 1 << 20
WATCH_S = 0.5
FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
_NOTHING = object()


class Link(asyncio.Protocol):
    """One connection: commands in `send`'s order, each answered by the reply at its place.

    Commands may be sent before the connection stands; they are held and leave when it does. `on_lost` is called once.
    """

    def __init__(self, name: str, timeout_s: float, on_lost: Callable[[str], None]) -> None:
        self._name = name
        self._on_lost = on_lost
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
        self._sent += len(unwritten)
        self.writes += 1
        if self._watch is None:
            self._watch = self._loop.call_later(self._watch_s, self._look)
        self._transport.write(b"".join(unwritten))

    def data_received(self, data: bytes) -> None:
        """Give each reply in `data` to the oldest command without one."""
        reader, pending = self._reader, self._pending
        gets, next_pending = reader.gets, pending.popleft
        try:
            reader.feed(data)
            while (reply := gets()) is not _NOTHING:
                waiter = next_pending()
                if waiter.done():  # cancelled; its reply still had to be read
                    continue
                if isinstance(reply, Exception):
                    waiter.set_exception(reply)
                else:
                    waiter.set_result(reply)
        except (HiredisError, IndexError, ValueError) as exc:
            self.lose(f"the store's replies make no sense: {exc}")

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
        self._flush()

    def lose(self, reason: str) -> None:
        """End the link: fail every command without a reply, those written as maybe done, the others as not done."""
        if self._lost:
            return
        self._lost = True
        self._writable = False
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        written = len(self._pending) - len(self._unwritten)
        self.answered = self._sent > written
        for place, reply in enumerate(self._pending):
            if not reply.done():
                reply.set_exception(StoreUnavailable(reason, maybe_done=place < written))
        self._pending.clear()
        self._unwritten = []
        self._on_lost(reason)

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
    holds commands; after a failed attempt it refuses them until the next one begins.
    """

    send: Callable[[bytes], asyncio.Future[Any]]

    def __init__(self, target: Target, timeout_s: float) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._loads: dict[bytes, asyncio.Future[Any]] = {}
        self._closed = False
        self._refusal = ""
        self._opened_at_s = math.inf
        self._backoff_s = 0.0
        self._writes = 0
        self._begin()

    @property
    def writes(self) -> int:
        """Socket writes so far, over all connections."""
        return self._writes + self._link.writes

    @property
    def idle(self) -> bool:
        """Whether no command waits for its reply."""
        return self._link.idle

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
        self._dialing.cancel()
        self._link.lose(self._refusal)
        await asyncio.wait([self._dialing])

    def _begin(self) -> None:
        """Set up the next link and connect it in the background."""
        self._opened_at_s = math.inf
        self._link = Link(self.target.name, self._timeout_s, self._on_lost)
        # PERF: bound anew for each state, so that no command has to ask which state it is in.
        self.send = self._refuse if self._backoff_s else self._link.send
        self._dialing = asyncio.get_running_loop().create_task(self._dial(self._link))

    async def _dial(self, link: Link) -> None:
        if self._backoff_s:
            await asyncio.sleep(self._backoff_s * random.uniform(0.5, 1.0))  # noqa: S311
            self.send = link.send
        self._backoff_s = min(max(self._backoff_s * 2, FIRST_BACKOFF_S), MAX_BACKOFF_S)
        try:
            writer = await self.target.connect(link, self._timeout_s)
        except Exception as exc:  # noqa: BLE001 - whatever it was, those who wait must hear of it
            link.lose(str(exc))
            return
        self._opened_at_s = asyncio.get_running_loop().time()
        link.opened(writer)

    def _on_lost(self, reason: str) -> None:
        self._writes += self._link.writes
        if self._closed:
            return
        self._refusal = reason
        lived_s = asyncio.get_running_loop().time() - self._opened_at_s
        if self._link.answered or lived_s > MAX_BACKOFF_S:
            self._backoff_s = 0.0  # the next attempt comes at once, unless this connection was of no use
        self._begin()

    def _refuse(self, packed: bytes) -> asyncio.Future[Any]:
        raise StoreUnavailable(self._refusal, maybe_done=False)
