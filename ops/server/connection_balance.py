"""Connections shared evenly among workers.

Workers that wait on one listening socket race for each connection: of 64 that arrived at once one worker was seen to
take 53, and a device keeps its connection for hours. So a worker that has more than the least busy other one leaves a
new connection to it for a moment.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
from collections.abc import Callable
from socket import socket
from typing import NamedTuple

log = logging.getLogger("syncledger.serve")

ABSENT = 2**30
RETRY_S = 0.001
PATIENCE_S = 0.05  # for the least busy worker to take one; after that it is not waited for until it has
AFTER_ERROR_S = 0.5
A_TURN = 8
"""How many connections a worker takes in one turn of its event loop: whose requests it looks at in one, too.

One alone where it takes what others ought to: they may be about to.
"""


class Least(NamedTuple):
    """What the least busy of some workers have: they compare equal as long as none of these took a connection."""

    connections: int
    begun: int
    """How many connections those that have so few have ever begun, in all."""


class Load:
    """How many connections each worker has, and has begun, in memory that the arbiter and its workers share.

    And whether any of them has ever served.
    """

    def __init__(self, slots: int) -> None:
        shared = memoryview(mmap.mmap(-1, (2 * slots + 1) * 4)).cast("i")
        self._counts, self._begun, self._served = shared[:slots], shared[slots : 2 * slots], shared[2 * slots :]
        for slot in range(slots):
            self.clear(slot)

    @property
    def served(self) -> bool:
        """Whether a worker has ever accepted connections."""
        return bool(self._served[0])

    def serves(self) -> None:
        """Note that a worker accepts connections."""
        self._served[0] = 1

    def set(self, slot: int, connections: int) -> None:
        """Tell how many connections a worker has, whenever one begins or ends."""
        if connections > self._counts[slot]:
            self._begun[slot] = (self._begun[slot] + 1) % ABSENT
        self._counts[slot] = connections

    def clear(self, slot: int) -> None:
        """Tell that there is no worker."""
        self._counts[slot] = ABSENT

    def least(self, *, but: int | None = None) -> Least:
        """Return what the least busy workers have, but for one in this slot: `ABSENT` connections if there is none."""
        others = [slot for slot in range(len(self._counts)) if slot != but]
        least = min((self._counts[slot] for slot in others), default=ABSENT)
        return Least(least, sum(self._begun[slot] for slot in others if self._counts[slot] == least))


class Acceptor:
    """Accepts connections of one listening socket in one worker."""

    def __init__(
        self,
        listener: socket,
        make_protocol: Callable[[], asyncio.Protocol],
        connections: Callable[[], int],
        load: Load,
        slot: int,
    ) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._connections = connections
        self._load, self._slot = load, slot
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[object]] = set()
        self._waited_for: tuple[Least, float] | None = None
        """What the least busy workers had when waiting for them began, and when that was."""
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        listener.setblocking(False)
        self._listen()

    @property
    def beginning(self) -> bool:
        """Whether a connection that was accepted has not begun yet."""
        return bool(self._beginning)

    def close(self) -> None:
        """Accept no more; the socket stays open. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._accept)

    def _wait(self, delay_s: float) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(delay_s, self._listen)

    def _accept(self) -> None:
        """Take some connections, or leave them to a worker that has fewer."""
        for _ in range(A_TURN):
            least = self._load.least(but=self._slot)
            beyond_share = self._connections() + len(self._beginning) > least.connections
            if beyond_share and self._leave_to(least):
                self._wait(RETRY_S)
                return
            try:
                connection = self._listener.accept()[0]
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors, most likely: closing connections will mend it
                log.error("cannot accept connections: %s", error)
                self._wait(AFTER_ERROR_S)
                return
            task = self._loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)
            if beyond_share:
                return

    def _leave_to(self, least: Least) -> bool:
        """Tell whether the workers that ought to take this one still may be about to."""
        now = self._loop.time()
        if self._waited_for is None or self._waited_for[0] != least:
            self._waited_for = (least, now)
        return now - self._waited_for[1] < PATIENCE_S

    async def _begin(self, connection: socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError as error:
            log.debug("a connection ended at once: %s", error)
            connection.close()
