"""Opening the sockets of a worker over the store's own address, and who asks a source that says nothing by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, cast

from endpoints.services import Services
from ledger.imports import without
from ledger.store.cluster import ClusterStore
from ledger.store.standalone import StandaloneStore
from ops.opening.ledger import Opened
from ops.settings.settings import Settings
from projections.entities.source import EntitySource
from projections.live import feeds
from projections.live.feeds import Feeds
from projections.live.signals import Signals
from projections.live.watching import TURN_S, Watching

if TYPE_CHECKING:
    from endpoints.live.sockets import Sockets
    from projections.live.feeds import Feed
    from projections.live.watching import Watched


class Watch(NamedTuple):
    """A job that asks a source for what is new, and how often it does."""

    job: Callable[[], Awaitable[None]]
    every_s: float


def open_sockets(found: Opened, services: Services, settings: Settings) -> Sockets:
    """Make what serves sockets, in the event loop that goes on."""
    # PERF: only a service waits for python-socketio, no command does, and nobody for the clients that it would load.
    with without("requests", "valkey"):
        from endpoints.live.sockets import SocketRules, Sockets

    assert isinstance(found.store, StandaloneStore | ClusterStore)
    signals = Signals(found.store, found.ledger.partitions, timeout_s=settings.redis_timeout_s)
    return Sockets(services, signals, SocketRules(most=settings.sockets))


def watcher(found: Opened, settings: Settings, source: EntitySource, sockets: Sockets) -> Watch | None:
    """Make what asks the source for what is new while there are sockets; None for the catalog, which says so itself."""
    if settings.source == "catalog":
        return None
    if settings.source == "gumnut":
        return Watch(Feeds(cast("Feed", source), sockets.libraries, sockets.written).turn, feeds.TURN_S)
    watching = Watching(found.ledger, cast("Watched", source), sockets.signals)

    async def turn() -> None:
        if sockets.count:
            await watching.turn()

    return Watch(turn, TURN_S)
