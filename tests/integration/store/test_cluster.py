"""A cluster while it changes: slots that move, nodes that die, a replica that takes over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ledger.errors import StoreUnavailable
from ledger.store.cluster import ClusterStore
from ledger.store.interface import Script, Store, open_store
from tests.support.stores.servers import RedisCluster, RedisServer, free_port, valkey_binary, wait_until

PUSH = Script("push", "return redis.call('RPUSH', KEYS[1], ARGV[1])")
BOTH = Script("both", "return {redis.call('INCR', KEYS[1]), redis.call('INCR', KEYS[2])}")
LIST, OTHER = b"{p17}:list", b"{p17}:other"


@pytest.fixture
async def store(cluster: RedisCluster) -> AsyncIterator[Store]:
    store = await open_store(cluster.url, timeout_s=2.0)
    yield store
    await store.close()


def slot_of(cluster: RedisCluster, key: bytes) -> int:
    return int(cluster.nodes[0].command("CLUSTER", "KEYSLOT", key))


def node_id(node: RedisServer) -> str:
    return str(node.command("CLUSTER", "MYID").decode())


def two_ends(cluster: RedisCluster, key: bytes) -> tuple[RedisServer, RedisServer]:
    """Return the node that owns the key's slot and one that does not."""
    source = cluster.node_of(key)
    return source, next(node for node in cluster.nodes if node is not source)


def begin_move(cluster: RedisCluster, key: bytes) -> tuple[RedisServer, RedisServer]:
    """Begin to move the key's slot; its keys stay where they are."""
    source, target = two_ends(cluster, key)
    slot = slot_of(cluster, key)
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(target))
    return source, target


def move_key(source: RedisServer, target: RedisServer, key: bytes) -> None:
    source.command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)


def end_move(cluster: RedisCluster, key: bytes, source: RedisServer, target: RedisServer) -> None:
    for node in (target, source):
        node.command("CLUSTER", "SETSLOT", slot_of(cluster, key), "NODE", node_id(target))


async def test_a_cluster_is_recognised_and_read_from_any_node(cluster: RedisCluster) -> None:
    for node in cluster.nodes:
        store = await open_store(node.url)
        assert isinstance(store, ClusterStore)
        assert len(await store.each_primary("PING")) == 3
        await store.close()


async def test_a_slot_that_moves_is_followed_and_nothing_is_done_twice(cluster: RedisCluster, store: Store) -> None:
    pushed: list[bytes] = []
    stop = False

    async def device(d: int) -> None:
        i = 0
        while not stop:
            value = b"%d-%d" % (d, i)
            await store.script(PUSH, [LIST], [value])
            pushed.append(value)
            i += 1

    tasks = [asyncio.create_task(device(d)) for d in range(8)]
    await asyncio.sleep(0.1)
    source, target = await asyncio.to_thread(begin_move, cluster, LIST)
    await asyncio.sleep(0.1)
    await asyncio.to_thread(move_key, source, target, LIST)
    await asyncio.sleep(0.1)
    during = len(pushed)
    await asyncio.to_thread(end_move, cluster, LIST, source, target)
    await asyncio.sleep(0.2)
    stop = True
    await asyncio.gather(*tasks)
    assert len(pushed) > during, "writes went on after the move"
    stored = await store.command("LRANGE", LIST, 0, -1, key=LIST)
    assert sorted(stored) == sorted(pushed)
    assert target.command("EXISTS", LIST) == 1


async def test_a_key_that_already_moved_is_asked_for_at_the_other_node(cluster: RedisCluster, store: Store) -> None:
    await store.command("SET", OTHER, "stays", key=OTHER)
    source, target = begin_move(cluster, LIST)
    # Absent at the source, so it belongs to the target, which does not know the script yet either.
    replies = await asyncio.gather(*(store.script(PUSH, [LIST], [i]) for i in range(100)))
    assert sorted(replies) == list(range(1, 101))
    assert await store.command("GET", OTHER, key=OTHER) == b"stays"
    other_slot = b"{p18}:text"
    await asyncio.gather(
        *(store.command("APPEND", LIST + b":%d" % (i % 3), "x", key=LIST) for i in range(50)),
        *(store.command("APPEND", other_slot, "x", key=other_slot) for i in range(50)),
    )
    assert await store.command("STRLEN", other_slot, key=other_slot) == 50
    assert source.command("CLUSTER", "COUNTKEYSINSLOT", slot_of(cluster, LIST)) == 1
    assert target.command("CLUSTER", "COUNTKEYSINSLOT", slot_of(cluster, LIST)) == 4


async def test_keys_torn_between_two_nodes_are_waited_for(cluster: RedisCluster, store: Store) -> None:
    await store.script(BOTH, [LIST, OTHER], [])
    await store.command("SET", b"{p17}:stays", 1, key=LIST)
    source, target = begin_move(cluster, LIST)
    move_key(source, target, LIST)
    waiting = asyncio.create_task(store.script(BOTH, [LIST, OTHER], []))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await asyncio.to_thread(move_key, source, target, OTHER)
    assert await waiting == [2, 2]
    with pytest.raises(StoreUnavailable, match="TRYAGAIN") as caught:
        await store.script(BOTH, [b"{p17}:stays", b"{p17}:absent"], [])
    assert caught.value.maybe_done is False, "it is given up after a while, and was not done"


async def test_a_dead_node_takes_only_its_own_slots_with_it(cluster: RedisCluster, store: Store) -> None:
    keys = [b"{p%d}:n" % p for p in range(64)]
    await asyncio.gather(*(store.command("INCR", key, key=key) for key in keys))
    dead = cluster.node_of(LIST)
    mine = {key for key in keys if cluster.node_of(key) is dead}
    dead.kill()
    results = await asyncio.gather(*(store.command("INCR", key, key=key) for key in keys), return_exceptions=True)
    for key, result in zip(keys, results, strict=True):
        assert isinstance(result, StoreUnavailable) if key in mine else result == 2
    with pytest.raises(StoreUnavailable):
        await store.each_primary("PING")
    await asyncio.to_thread(dead.start)
    deadline = time.monotonic() + 10
    while True:
        try:
            assert await store.command("GET", LIST, key=LIST) is None
            break
        except StoreUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    assert await store.each_primary("PING") == [b"PONG"] * 3


async def test_a_replica_that_takes_over_is_found(cluster: RedisCluster, tmp_path: Path) -> None:
    for node in cluster.nodes:
        node.command("CONFIG", "SET", "cluster-node-timeout", 500)
    bus_port = free_port()
    options = ("--cluster-enabled", "yes", "--cluster-port", str(bus_port), "--cluster-node-timeout", "500")
    primary = cluster.node_of(LIST)
    with RedisServer(valkey_binary(), tmp_path / "replica", options=options) as replica:
        replica.command("CLUSTER", "MEET", "127.0.0.1", primary.port, cluster.bus_ports[cluster.nodes.index(primary)])
        primary_id = node_id(primary)
        wait_until(lambda: primary_id.encode() in replica.command("CLUSTER", "NODES"), "the replica to join")
        wait_until(lambda: replicates(replica, primary_id), "the replica to follow its primary")
        wait_until(lambda: b"master_link_status:up" in info(replica), "the replica to be in step")
        store = await open_store(cluster.url, timeout_s=1.0)
        assert await store.script(PUSH, [LIST], ["a"]) == 1
        assert await store.command("WAIT", 1, 5000, key=LIST) == 1
        primary.kill()
        failures: list[StoreUnavailable] = []
        deadline = time.monotonic() + 20
        while True:
            try:
                assert await store.script(PUSH, [LIST], ["b"]) == 2
                break
            except StoreUnavailable as exc:
                failures.append(exc)
                assert time.monotonic() < deadline, "the replica was not found"
                await asyncio.sleep(0.05)
        assert sum(failure.maybe_done for failure in failures) <= 1, "only the first may have left"
        assert replica.command("LRANGE", LIST, 0, -1) == [b"a", b"b"]
        assert await store.each_primary("PING") == [b"PONG"] * 3
        await store.close()


def replicates(replica: RedisServer, primary_id: str) -> bool:
    if b"role:slave" in info(replica):
        return True
    replica.command("CLUSTER", "REPLICATE", primary_id)
    return False


def info(node: RedisServer) -> bytes:
    with node.client() as client:
        client.response_callbacks.clear()
        reply: bytes = client.execute_command("INFO", "replication")
        return reply


@pytest.mark.parametrize("kill", [False, True])
async def test_close_while_the_map_is_being_read(cluster: RedisCluster, kill: bool) -> None:
    store = await open_store(cluster.url, timeout_s=1.0)
    act: Callable[[], None] = cluster.kill if kill else cluster.nodes[0].pause
    act()
    waiting = [asyncio.create_task(store.command("PING", key=b"{p%d}" % p)) for p in range(16)]
    await asyncio.sleep(0.1)
    await store.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert any(isinstance(result, StoreUnavailable) for result in results)
    assert asyncio.all_tasks() == {asyncio.current_task()}
