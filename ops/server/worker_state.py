"""What all connections of a worker share."""

from __future__ import annotations

from uvicorn.server import ServerState

from ops.server.arrivals import Arrivals
from ops.server.connection_balance import Load
from ops.server.http_heads import KnownHeads
from ops.server.proxies import ProxyHint


class WorkerState(ServerState):
    """Uvicorn's state of a server, and ours; tells the other workers how many connections there are."""

    def __init__(self, load: Load, slot: int, proxy_hint: ProxyHint) -> None:
        super().__init__()
        self.draining = False
        """Whether others have come to serve, so that each connection ends with its next answer."""
        self.leaving = False
        """Whether that is so, or the worker is to end."""
        self.proxy_hint = proxy_hint
        self.arrivals = Arrivals()
        self.heads = KnownHeads()
        self._load = load
        self.slot = slot

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The fields of every answer: its date."""
        return self._default_headers

    @default_headers.setter
    def default_headers(self, fields: list[tuple[bytes, bytes]]) -> None:
        self._default_headers = fields
        self.field_lines = b"".join([b"%b: %b\r\n" % field for field in fields])
        """The same, as they are sent."""

    def is_leaving(self) -> bool:
        """Tell whether what goes on for ever is to go on elsewhere."""
        return self.leaving

    def count(self) -> None:
        """Publish the number of connections; called whenever it changes."""
        self._load.set(self.slot, len(self.connections))
