"""The nodes of a cluster that were seen last, noted in the data folder by the address of each store.

The address that is configured may be that of one node, and this node may be down just when a worker, a service or a
command begins. It then asks those that were known before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from ledger.store.cluster_map import MOST_NODES, Node
from ops.opening.key_files import alone, read_text, replace
from ops.settings.settings import Settings, without_password

log = logging.getLogger("syncledger.known")

FILE: Final = "nodes.json"
MOST_STORES: Final = 16
"""Of how many stores nodes are noted: those noted last."""


class NotedNodes(msgspec.Struct, frozen=True):
    """The note of one data folder, for one store; where there is no folder nothing is noted."""

    folder: str
    address: str

    @classmethod
    def of(cls, settings: Settings) -> NotedNodes | None:
        """Give the note for the store that settings name; None where that is the embedded one."""
        return None if settings.redis_url is None else cls(str(settings.data_dir), without_password(settings.redis_url))

    def read(self) -> Sequence[Node]:
        """Return the nodes noted last; none where the note cannot be read, for it only helps."""
        return self._all().get(self.address, [])

    def note(self, nodes: Sequence[Node]) -> None:
        """Note all nodes."""
        some = list(nodes[:MOST_NODES])
        folder = Path(self.folder)
        if not folder.is_dir() or self.read() == some:
            return
        try:
            with alone(folder):
                known = {name: noted for name, noted in self._all().items() if name != self.address}
                kept = dict(list(known.items())[-(MOST_STORES - 1) :])
                text = msgspec.json.format(msgspec.json.encode({**kept, self.address: some})).decode()
                replace(folder / FILE, text)
        except OSError as error:
            log.warning("the nodes of the store cannot be noted: %s", error)

    def _all(self) -> dict[str, list[Node]]:
        try:
            return msgspec.json.decode(read_text(Path(self.folder) / FILE), type=dict[str, list[Node]])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, msgspec.DecodeError) as error:
            log.warning("the note of the store's nodes cannot be read, and is passed over: %s", error)
            return {}
