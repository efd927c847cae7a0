"""A cluster of primaries with a replica each, which tests fail over, move and reshape as operators do."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import redis

from tests.support.stores.servers import CLUSTER_SLOTS, RedisServer, free_port, wait_until

NODE_TIMEOUT_MS: Final = 1500
PRIMARIES: Final = 3


class Facts(NamedTuple):
    """What a node says of one node."""

    id: str
    port: int
    flags: frozenset[str]
    primary: str
    slots: tuple[str, ...]


class ReplicatedCluster:
    """Three primaries and three replicas; `name_port` leads to one of the nodes, whichever `lead_to` says."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        self.nodes: list[RedisServer] = []
        self._bus: dict[RedisServer, int] = {}
        self.name = Forward()

    def node(self) -> RedisServer:
        """Make a node that knows no other, and start it."""
        bus = free_port()
        node = RedisServer(self._binary, self._folder / f"node{len(self._bus)}", durable=True, options=_options(bus))
        self._bus[node] = bus
        self.nodes.append(node)
        return node.start()

    def __enter__(self) -> Self:
        try:
            self._form()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _form(self) -> None:
        nodes = [self.node() for _ in range(2 * PRIMARIES)]
        bounds = [CLUSTER_SLOTS * n // PRIMARIES for n in range(PRIMARIES + 1)]
        for number, node in enumerate(nodes):
            if number < PRIMARIES:
                node.command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            self.meet(node, nodes[0])
        for number in range(PRIMARIES):
            self.replicate(nodes[PRIMARIES + number], nodes[number])
        self.name.lead_to(nodes[0].port)
        wait_until(self.settled, "the cluster to form", 60)

    def meet(self, node: RedisServer, other: RedisServer) -> None:
        """Have two nodes know each other, and with that all."""
        other.command("CLUSTER", "MEET", "127.0.0.1", node.port, self._bus[node])

    def replicate(self, node: RedisServer, primary: RedisServer) -> None:
        """Make a node a replica of another, once it knows it."""
        primary_id = self.id_of(primary)

        def replicates() -> bool:
            try:
                return node.command("CLUSTER", "REPLICATE", primary_id) in (True, b"OK")
            except redis.RedisError:
                return False

        wait_until(replicates, "the replica to know its primary", 30)

    def id_of(self, node: RedisServer) -> str:
        """A node's id."""
        return str(node.command("CLUSTER", "MYID").decode())

    def facts(self, node: RedisServer) -> list[Facts]:
        """What a node says of all that it knows."""
        with node.client() as client:
            client.response_callbacks.clear()
            lines = client.execute_command("CLUSTER", "NODES").decode().splitlines()
        found = []
        for line in lines:
            node_id, address, flags, primary, _, _, _, _, *slots = line.split()
            port = int(address.partition("@")[0].rpartition(":")[2])
            found.append(Facts(node_id, port, frozenset(flags.split(",")), primary, tuple(slots)))
        return found

    def alive(self) -> RedisServer:
        """Any node that answers."""
        for node in self.nodes:
            with contextlib.suppress(redis.RedisError):
                if node.alive and not node._paused and node.command("PING"):
                    return node
        raise AssertionError("no node answers")

    def primary(self, number: int = 0) -> RedisServer:
        """A primary with slots: of those in the order of their ports."""
        facts = [each for each in self.facts(self.alive()) if "master" in each.flags and each.slots]
        usable = sorted(each.port for each in facts if not each.flags & {"fail", "fail?", "noaddr"})
        return next(node for node in self.nodes if node.port == usable[number % len(usable)])

    def replica_of(self, primary: RedisServer) -> RedisServer:
        """A replica of a primary."""
        primary_id = self.id_of(primary)
        port = next(each.port for each in self.facts(self.alive()) if each.primary == primary_id)
        return next(node for node in self.nodes if node.port == port)

    def settled(self) -> bool:
        """Tell whether all nodes serve all slots and each primary has a replica that has all it wrote."""
        try:
            for node in self.nodes:
                with node.client() as client:
                    client.response_callbacks.clear()
                    told = client.execute_command("CLUSTER", "INFO")
                    replication = client.execute_command("INFO", "replication")
                known = [each for each in self.facts(node) if not each.flags & {"fail", "fail?", "handshake", "noaddr"}]
                if b"cluster_state:ok" not in told or b"cluster_slots_ok:16384" not in told:
                    return False
                if len(known) != len(self.nodes):
                    return False
                if b"role:master" in replication and b"state=online" not in replication:
                    return False
                if b"role:slave" in replication and b"master_link_status:up" not in replication:
                    return False
        except (redis.RedisError, OSError):
            return False
        return True

    def wait_settled(self) -> None:
        wait_until(self.settled, "the cluster to be whole", 90)

    def move_slots(self, source: RedisServer, target: RedisServer, slots: list[int]) -> None:
        """Move slots with all their keys while they are used."""
        ids = {node: self.id_of(node) for node in (source, target)}
        primaries = [node for node in self.nodes if b"role:master" in _info(node)]
        with contextlib.ExitStack() as stack:
            clients = {node: stack.enter_context(node.client()) for node in primaries}
            for client in clients.values():
                client.response_callbacks.clear()
            for slot in slots:
                clients[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
                clients[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
                while keys := clients[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 50):
                    clients[source].execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
                for node in (target, source, *(node for node in primaries if node not in (target, source))):
                    clients[node].execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    def slots_of(self, node: RedisServer) -> list[int]:
        """The slots that a node owns."""
        (mine,) = [each for each in self.facts(node) if "myself" in each.flags]
        found: list[int] = []
        for span in mine.slots:
            if not span.startswith("["):
                first, _, last = span.partition("-")
                found += range(int(first), int(last or first) + 1)
        return found

    def forget(self, nodes: list[RedisServer]) -> None:
        """Take nodes without slots out of the cluster, and end them."""
        ids = [self.id_of(node) for node in nodes]
        for node in nodes:
            self.nodes.remove(node)
        for node in self.nodes:
            for node_id in ids:
                with contextlib.suppress(redis.RedisError):  # a replica of one that is forgotten too
                    node.command("CLUSTER", "FORGET", node_id)
        for node in nodes:
            node.stop()

    def move_all(self) -> None:
        """Stop all nodes and start them under other addresses, of which none knows the others'."""
        ids = {self.id_of(node): node for node in self.nodes}
        facts = [each for each in self.facts(self.alive()) if each.primary in ids]
        pairs = [(ids[each.id], ids[each.primary]) for each in facts]
        for node in self.nodes:
            node.stop()
        for node in self.nodes:
            node.port, self._bus[node] = free_port(), free_port()
            node._options = (*node._options[:-4], *_options(self._bus[node])[-4:])
            node.start()
        for node in self.nodes[1:]:
            self.meet(node, self.nodes[0])
        self.name.lead_to(self.nodes[0].port)
        for replica, primary in pairs:
            wait_until(functools.partial(self._knows, replica, primary.port), "the new addresses", 30)
            if b"master_port:%d\r" % primary.port not in _info(replica):  # Redis 7 goes on to look at the old address
                replica.stop()
                replica.start()

    def _knows(self, node: RedisServer, port: int) -> bool:
        """Tell whether a node knows another one at a port."""
        return any(each.port == port and "handshake" not in each.flags for each in self.facts(node))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.name.close()
        for node in self._bus:
            node.kill()


def _options(bus: int) -> tuple[str, ...]:
    """The options of a node; the last four change with its address."""
    return (
        *("--cluster-enabled", "yes", "--cluster-replica-validity-factor", "0"),
        *("--repl-diskless-sync-delay", "0", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
        *("--cluster-allow-replica-migration", "no", "--cluster-port", str(bus)),
    )


def _info(node: RedisServer) -> bytes:
    with node.client() as client:
        client.response_callbacks.clear()
        reply: bytes = client.execute_command("INFO", "replication")
        return reply


class Forward:
    """A name: a port that leads to another one, which may be exchanged."""

    def __init__(self) -> None:
        self._to = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._run, daemon=True).start()

    def lead_to(self, port: int) -> None:
        """Lead new connections to a port."""
        self._to = port

    def close(self) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._to), 5)
            except OSError:
                client.close()
                continue
            for pair in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
