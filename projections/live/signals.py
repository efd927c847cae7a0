"""What is told of libraries and sessions at the moment in which it is written, over all workers and machines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from ledger import keys
from ledger.keys import partition_of
from ledger.store.channels import Channels
from ledger.store.cluster import ClusterStore
from ledger.store.standalone import StandaloneStore

_PREFIX: Final = b"{l"
_SUFFIX: Final = b"}:meta"


class Library(NamedTuple):
    """A place where it is told that something was written to a library."""

    library: str

    @property
    def channel(self) -> bytes:
        """The channel that the catalog's write script speaks on, and for other sources whoever watches them."""
        return keys.catalog_meta(self.library)


class Endings(NamedTuple):
    """A place where it is told which sessions of a partition end."""

    partition: int

    @property
    def channel(self) -> bytes:
        """The channel that the append script speaks on."""
        return keys.ended(self.partition)


Place = Library | Endings


class Signals:
    """Hears what is told at places; use after `listen`.

    `told` gets a place and what was told: nothing of a library, the session's id of an ending. `missed` gets a place of
    which something may not have been heard: that is so at its beginning too.
    """

    def __init__(self, store: StandaloneStore | ClusterStore, partitions: int, *, timeout_s: float = 5.0) -> None:
        self._store = store
        self._partitions = partitions
        self._timeout_s = timeout_s
        self._places: dict[bytes, Place] = {}
        self._told: Callable[[Place, str], None]
        self._missed: Callable[[Place], None]
        self._channels: Channels | None = None

    def listen(self, told: Callable[[Place, str], None], missed: Callable[[Place], None]) -> None:
        """Begin to hear; once, in the event loop that goes on."""
        self._told, self._missed = told, missed
        self._channels = Channels(self._store, self._heard, self._joined, timeout_s=self._timeout_s)

    def endings_of(self, user: str) -> Endings:
        """Give the place where the endings of a user's sessions are told."""
        return Endings(partition_of(user, self._partitions))

    def join(self, place: Place) -> None:
        """Hear what is told at a place, as soon as can be."""
        assert self._channels is not None, "listen comes first"
        self._places[place.channel] = place
        self._channels.join(place.channel)

    def leave(self, place: Place) -> None:
        """Hear no more of a place."""
        assert self._channels is not None, "listen comes first"
        self._places.pop(place.channel, None)
        self._channels.leave(place.channel)

    def hears(self, place: Place) -> bool:
        """Tell whether all that is told at a place is heard at this moment."""
        return self._channels is not None and self._channels.is_open(place.channel)

    async def tell(self, libraries: Collection[str]) -> None:
        """Tell that something was written to libraries whose source does not tell; raises StoreUnavailable."""
        channels = [Library(library).channel for library in libraries]
        await asyncio.gather(*(self._store.command("SPUBLISH", name, b"", key=name) for name in channels))

    async def heard_libraries(self) -> list[str]:
        """List the libraries that anybody hears of, on any worker or machine; raises StoreUnavailable."""
        replies = await self._store.each_primary("PUBSUB", "SHARDCHANNELS", _PREFIX + b"*" + _SUFFIX)
        names = {name.removeprefix(_PREFIX).removesuffix(_SUFFIX).decode() for reply in replies for name in reply}
        return sorted(names)

    async def close(self) -> None:
        """Hear nothing any more."""
        if self._channels is not None:
            await self._channels.close()

    def _heard(self, channel: bytes, message: bytes) -> None:
        place = self._places.get(channel)
        if place is not None:
            self._told(place, message.decode("ascii", "replace"))

    def _joined(self, channel: bytes) -> None:
        place = self._places.get(channel)
        if place is not None:
            self._missed(place)
