"""Opening the sockets of a worker over the store's own address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from endpoints.services import Services
from ledger.imports import without
from ledger.store.cluster import ClusterStore
from ledger.store.standalone import StandaloneStore
from ops.opening.ledger import Opened
from ops.settings.settings import Settings
from projections.live.signals import Signals

if TYPE_CHECKING:
    from endpoints.live.sockets import Sockets


def open_sockets(found: Opened, services: Services, settings: Settings) -> Sockets:
    """Make what serves sockets, in the event loop that goes on."""
    # PERF: only a service waits for python-socketio, no command does, and nobody for the clients that it would load.
    with without("requests", "valkey"):
        from endpoints.live.sockets import SocketRules, Sockets

    assert isinstance(found.store, StandaloneStore | ClusterStore)
    signals = Signals(found.store, found.ledger.partitions, timeout_s=settings.redis_timeout_s)
    return Sockets(services, signals, SocketRules(most=settings.sockets))
