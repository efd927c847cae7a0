"""What scripts say behind a write, heard by whoever asked: sharded channels, on connections of their own.

A channel lies in the slot of its name, so a script may speak on it in the step in which it writes, and on a cluster
only the node that owns the slot carries it. A message is heard once at most. What was said while nobody listened,
because a connection was lost or a slot moved, is not said again: `joined` tells that it may be missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from hiredis import HiredisError, Reader

from ledger.errors import StoreReplyError, StoreUnavailable
from ledger.store.cluster import ClusterStore
from ledger.store.connect import Target
from ledger.store.error_replies import Moved, error_from_reply
from ledger.store.scripts import pack
from ledger.store.standalone import StandaloneStore

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 2.0
_NOTHING: Final = object()
_PING: Final = pack((b"PING",))


class Channels:
    """Listens on channels of a store, and goes on to after every loss, until closed.

    `heard` gets a channel and what was said there; `joined` a channel that is listened on from now on, or again.
    """

    def __init__(
        self,
        store: StandaloneStore | ClusterStore,
        heard: Callable[[bytes, bytes], None],
        joined: Callable[[bytes], None],
        *,
        timeout_s: float = 5.0,
    ) -> None:
        """Open nothing yet; `timeout_s` bounds an attempt to connect, and how long a server may say nothing at all."""
        self._store = store
        self._heard = heard
        self._joined = joined
        self._timeout_s = timeout_s
        self._links: dict[str, _Link] = {}
        self._wanted: dict[bytes, _Link | None] = {}
        self._open: set[bytes] = set()
        self._unasked: set[bytes] = set()
        self._work = asyncio.Event()
        self._troubled = False
        self._told = ""
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    def join(self, channel: bytes) -> None:
        """Listen on a channel as soon as can be; nothing happens where that is so already."""
        if channel not in self._wanted:
            self._wanted[channel] = None
            self._ask_again(channel)

    def leave(self, channel: bytes) -> None:
        """Listen no more."""
        link = self._wanted.pop(channel, None)
        self._unasked.discard(channel)
        self._open.discard(channel)
        if link is not None and not link.leave(channel):
            self._links.pop(link.name, None)
            link.lose("nobody listens there any more")

    def is_open(self, channel: bytes) -> bool:
        """Tell whether all that is said on a channel is heard at this moment, as far as is known."""
        return channel in self._open

    async def close(self) -> None:
        """Close all connections."""
        self._wanted.clear()
        self._keeping.cancel()
        await asyncio.wait([self._keeping])
        for link in list(self._links.values()):
            link.lose("closed")

    async def _keep(self) -> None:
        """Ask for what is not listened on; after each trouble in growing distances."""
        pause_s = 0.0
        while True:
            await self._work.wait()
            self._work.clear()
            pause_s = min(max(pause_s * 2, FIRST_PAUSE_S), MAX_PAUSE_S) if self._troubled else 0.0
            if self._troubled:
                self._troubled = False
                await asyncio.sleep(pause_s)
                for channel in list(self._unasked)[:1]:
                    await self._look(channel)
            try:
                await self._ask(list(self._unasked))
            except StoreUnavailable as error:
                self._tell(f"what is said behind writes is not heard, and asked for again: {error}")
                self._troubled = True
                self._work.set()

    async def _ask(self, channels: list[bytes]) -> None:
        """Ask each channel's server for it; raises StoreUnavailable where one of them is away, behind all others."""
        by_server: dict[str, tuple[Target, list[bytes]]] = {}
        trouble: StoreUnavailable | None = None
        for channel in channels:
            try:
                target = self._store.mux_of(channel).target
            except StoreUnavailable as error:
                trouble = error
                continue
            by_server.setdefault(target.name, (target, []))[1].append(channel)
        done = await asyncio.gather(*(self._ask_at(*some) for some in by_server.values()), return_exceptions=True)
        for failed in done:
            if isinstance(failed, StoreUnavailable):
                trouble = failed
            elif isinstance(failed, BaseException):
                raise failed
        if trouble is not None:
            raise trouble

    async def _ask_at(self, target: Target, channels: list[bytes]) -> None:
        link = self._links.get(target.name)
        if link is None:
            link = _Link(target.name, self)
            writer = await target.connect(link, self._timeout_s)
            if link.is_lost:
                raise StoreUnavailable(f"the store at {target.name} closed the connection", maybe_done=False)
            link.opened(writer, self._timeout_s)
            self._links[target.name] = link
        for channel in channels:
            if channel in self._unasked:  # it may have been left meanwhile
                self._unasked.discard(channel)
                self._wanted[channel] = link
                link.join(channel)

    async def _look(self, channel: bytes) -> None:
        """Send any command where a channel lies: a store that finds it elsewhere learns who owns what."""
        try:
            await self._store.command("EXISTS", channel, key=channel)
        except (StoreUnavailable, StoreReplyError) as error:
            log.debug("a channel's slot has no server yet: %s", error)

    def _ask_again(self, channel: bytes) -> None:
        self._wanted[channel] = None
        self._open.discard(channel)
        self._unasked.add(channel)
        self._work.set()

    def _tell(self, text: str) -> None:
        """Log a trouble once, until another one comes or it is over."""
        if text != self._told:
            log.warning(text)
        self._told = text

    # What links call --------------------------------------------------------------------------------------------------

    def said(self, channel: bytes, message: bytes) -> None:
        """Take a message."""
        if channel in self._wanted:
            self._heard(channel, message)

    def listens(self, link: _Link, channel: bytes) -> None:
        """Take a server's word that a channel is listened on."""
        if self._wanted.get(channel) is link:
            self._open.add(channel)
            self._told = ""
            self._joined(channel)

    def refused(self, link: _Link, channel: bytes, why: Exception | None) -> None:
        """Take a server's word that it does not, or no longer, carry a channel; `why` where it told."""
        if self._wanted.get(channel) is link:
            self._troubled = True
            if why is not None and not isinstance(why, Moved):
                self._tell(f"the store does not let us hear what is said behind writes: {why}")
            self._ask_again(channel)

    def lost(self, link: _Link, reason: str) -> None:
        """Take in that a connection is lost."""
        if self._links.get(link.name) is link:
            del self._links[link.name]
        again = [channel for channel, its in self._wanted.items() if its is link]
        if again:
            self._troubled = True
            self._tell(f"the connection to what {link.name} says behind writes was lost, and is made again: {reason}")
        for channel in again:
            self._ask_again(channel)


class _Link(asyncio.Protocol):
    """One connection that only listens, from its opening to its loss."""

    def __init__(self, name: str, channels: Channels) -> None:
        self.name = name
        self.is_lost = False
        self._channels = channels
        self._reader = Reader(replyError=error_from_reply, notEnoughData=_NOTHING)
        self._asked: deque[tuple[bool, bytes]] = deque()  # without an answer: whether to join, and what
        self._here: set[bytes] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._silent = False
        self._unwritten: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timeout_s = 0.0

    def opened(self, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        """Begin; a server that says nothing for `timeout_s`, though asked whether it is there, is taken for gone."""
        self._writer, self._timeout_s = writer, timeout_s
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._check)

    def join(self, channel: bytes) -> None:
        """Ask for a channel."""
        self._here.add(channel)
        self._send(True, channel)

    def leave(self, channel: bytes) -> bool:
        """Give a channel up; tells whether others are left."""
        self._here.discard(channel)
        if self._here:
            self._send(False, channel)
        return bool(self._here)

    def _send(self, joins: bool, channel: bytes) -> None:
        self._asked.append((joins, channel))
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unwritten.append(pack((b"SSUBSCRIBE" if joins else b"SUNSUBSCRIBE", channel)))

    def _flush(self) -> None:
        packed, self._unwritten = b"".join(self._unwritten), []
        if self._writer is not None and not self.is_lost:
            self._writer.transport.write(packed)

    def data_received(self, data: bytes) -> None:
        """Take what the server says."""
        self._silent = False
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NOTHING:
                self._take(reply)
        except (HiredisError, IndexError, ValueError) as error:
            self.lose(f"its replies make no sense: {error}")

    def _take(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            joins, channel = self._asked.popleft()
            if joins:
                self._here.discard(channel)
                self._channels.refused(self, channel, reply)
            return
        if not isinstance(reply, list):
            return  # an answer to PING from a connection that listens on nothing
        match reply:
            case [b"smessage", channel, message]:
                self._channels.said(channel, message)
            case [b"ssubscribe", channel, _]:
                self._asked.popleft()
                self._channels.listens(self, channel)
            case [b"sunsubscribe", channel, _]:
                if self._asked and self._asked[0] == (False, channel):
                    self._asked.popleft()
                else:  # the slot went to another node
                    self._here.discard(channel)
                    self._channels.refused(self, channel, None)

    def _check(self) -> None:
        if self._silent:
            self.lose(f"it said nothing for {self._timeout_s:g} s")
            return
        self._silent = True
        if self._writer is not None:
            self._writer.transport.write(_PING)
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.lose("the server closed it" if exc is None else str(exc))

    def lose(self, reason: str) -> None:
        """End the connection, once."""
        if self.is_lost:
            return
        self.is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        if self._writer is not None:
            self._writer.transport.abort()
        self._channels.lost(self, reason)
