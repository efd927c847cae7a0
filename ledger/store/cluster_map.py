"""Which node of a cluster owns which slot, asked of all nodes that are known.

Nodes may disagree: one that was cut off tells of the past, one that was reset of nothing, and where a known address
leads by now may be another cluster's. So all are asked together, each one that serves is heard, and of one cluster's
nodes the newest word counts. A cluster is known by its nodes' ids; only the addresses that are configured may lead to
another one, as when all of it was replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from ledger.errors import StoreUnavailable
from ledger.store.connect import Address, Target
from ledger.store.error_replies import NotPermitted

PATIENCE_S: Final = 0.25
"""How long others are waited for once one has answered."""
MOST_NODES: Final = 128
"""How many nodes are asked, at most."""
_QUESTIONS: Final = (("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))
_NO_HOST: Final = (b"", b"?", None)


class Node(NamedTuple):
    """A node of a cluster: its id, and where it is."""

    id: str
    host: str
    port: int

    @property
    def address(self) -> Address:
        """Where it is."""
        return self.host, self.port


class ClusterMap(NamedTuple):
    """What one node says: the primary of each slot (None: nobody's), and all nodes; `epoch` grows with changes."""

    serves: bool
    epoch: int
    owners: list[Address | None]
    nodes: frozenset[Node]

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all nodes."""
        return frozenset(node.id for node in self.nodes)


async def discover(
    target: Target, configured: Sequence[Address], known: Iterable[Node], timeout_s: float
) -> ClusterMap:
    """Ask all nodes, configured and known; raises StoreUnavailable if none tells who owns which slot."""
    known = list(known)[:MOST_NODES]
    addresses = dict.fromkeys([*configured, *(node.address for node in known)])
    asked = {asyncio.create_task(_ask(target.at(*address), timeout_s)): address for address in addresses}
    found: list[tuple[bool, ClusterMap]] = []
    troubles: list[StoreUnavailable] = []
    loop = asyncio.get_running_loop()
    waiting, deadline_s = set(asked), loop.time() + timeout_s
    try:
        while waiting and (left_s := deadline_s - loop.time()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if isinstance(error := task.exception(), StoreUnavailable):
                    troubles.append(error)
                    continue
                found.append((asked[task] in configured, task.result()))
                if found[-1][1].serves:
                    deadline_s = min(deadline_s, loop.time() + PATIENCE_S)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    best = _best(found, frozenset(node.id for node in known))
    if best is None:
        reason = "; ".join(dict.fromkeys(map(str, troubles))) or "no answer in time"
        kind = NotPermitted if any(isinstance(each, NotPermitted) for each in troubles) else StoreUnavailable
        raise kind(f"no node of the store tells who owns which slot: {reason}", maybe_done=False)
    return best


def _best(found: Sequence[tuple[bool, ClusterMap]], known: frozenset[str]) -> ClusterMap | None:
    """Choose the newest word of the cluster that a configured address leads to, or else of the one that is known."""
    configured = [each for is_configured, each in found if is_configured and each.nodes]
    same = [each for each in configured if each.serves and known & each.ids]
    first = max(same or configured, key=_weight, default=None)
    if first is not None and first.serves:
        known = first.ids
    akin = [each for _, each in found if each.nodes and known & each.ids]
    return max(akin or configured, key=_weight, default=None)


def _weight(found: ClusterMap) -> tuple[bool, int, int]:
    return found.serves, found.epoch, sum(owner is not None for owner in found.owners)


async def _ask(target: Target, timeout_s: float) -> ClusterMap:
    info, slots = await target.ask(*_QUESTIONS, timeout_s=timeout_s)
    try:
        return read_map(info, slots, target.address[0])
    except (TypeError, ValueError, IndexError, AttributeError, KeyError):
        raise StoreUnavailable(f"{target.name} does not tell of its cluster", maybe_done=False) from None


def read_map(info: bytes, slots: Sequence[Any], asked: str) -> ClusterMap:
    """Read the replies to CLUSTER INFO and CLUSTER SLOTS of a node at a host; raises what reading nonsense does."""
    facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    nodes = set()
    for first, last, *replicated in slots:
        members = [
            Node(
                bytes(node_id).decode(),
                asked if host in _NO_HOST else bytes(host).decode(),
                int(port),
            )
            for host, port, node_id, *_ in replicated
        ]
        nodes.update(members)
        owners[int(first) : int(last) + 1] = [members[0].address] * (int(last) + 1 - int(first))
    return ClusterMap(facts["cluster_state"] == "ok", int(facts["cluster_current_epoch"]), owners, frozenset(nodes))
