"""What replicas must have is answered when they have it: a primary with real replicas, on both kinds of servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import redis
from msgspec.structs import replace

from ledger import keys
from ledger.commands import (
    ClearCheckpoints,
    CreateSession,
    EndSession,
    OfferStream,
    RecordAcks,
    RequestReset,
    RotateToken,
)
from ledger.entity_types import mask_of
from ledger.errors import NotReplicated, SessionEnded, StoreUnavailable
from ledger.log.replicas import Replicas, connected_replicas, promise_text
from ledger.log.service import Ledger
from ledger.personal import plain
from ledger.store.interface import Store, open_store
from tests.support.ledger.given import NOW, ack
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.stores.replicated import COUNT, Replicated, binary_of
from tests.support.stores.servers import RedisCluster, RedisServer, free_port, valkey_binary, wait_until

WAIT_S: Final = 0.4
SID: Final = sid_of("phone")
KINDS: Final = ["valkey", "redis7"]


def replicates(follower: RedisServer, node_id: str) -> bool:
    """Make a node of a cluster a replica; False while it does not know the other yet."""
    try:
        follower.command("CLUSTER", "REPLICATE", node_id)
    except redis.ResponseError:
        return False
    return True


def replica_count(primary: RedisServer) -> int:
    """Count a primary's replicas."""
    with primary.client() as client:
        return int(client.info("replication")["connected_slaves"])


def is_online(primary: RedisServer) -> bool:
    """Tell whether a primary's one replica has all it wrote."""
    with primary.client() as client:
        info = client.info("replication")
    return bool(info["connected_slaves"] == 1 and info["slave0"]["offset"] == info["master_repl_offset"])


@pytest.fixture(params=KINDS)
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replicated]:
    with Replicated(binary_of(request.param), tmp_path) as servers:
        yield servers


@pytest.fixture
async def store(servers: Replicated) -> AsyncIterator[Store]:
    store = await open_store(servers.primary.url)
    for partition in range(2):
        await store.command("SET", keys.whole(partition), "1", key=keys.whole(partition))
    yield store
    await store.close()


@pytest.fixture
async def ledger(servers: Replicated, store: Store) -> AsyncIterator[Ledger]:
    replicas = await Replicas.open(servers.primary.url, COUNT, wait_s=WAIT_S)
    yield Ledger(store, 2, Clock(), replicas=replicas)
    await replicas.close()


async def begin(ledger: Ledger) -> None:
    await ledger.execute("ann", SID, CreateSession("ann", "lib"))


async def refused(answer: Awaitable[object]) -> NotReplicated:
    with pytest.raises(NotReplicated) as caught:
        await answer
    assert caught.value.maybe_done
    assert "written, but not confirmed by 2 replicas" in str(caught.value)
    return caught.value


async def offer(ledger: Ledger, snapshot_us: int = NOW + 5) -> None:
    await ledger.execute("ann", SID, OfferStream(snapshot_us, mask_of(["AssetV2"])))


async def test_what_is_answered_is_on_every_replica(servers: Replicated, ledger: Ledger) -> None:
    await begin(ledger)
    await ledger.execute("ann", SID, RotateToken(bytes.fromhex(SID), b"t" * 32, 1))
    await offer(ledger)
    await ledger.execute("ann", SID, RequestReset(on=True, by=plain("ann")))
    await ledger.execute("ann", SID, ClearCheckpoints(None, "reset", reset=True))
    stream = keys.stream(ledger.partition_of("ann"))
    assert [replica.command("XLEN", stream) for replica in servers.replicas] == [5, 5]
    await ledger.execute("ann", SID, EndSession("logout"))
    assert [replica.command("XLEN", stream) for replica in servers.replicas] == [6, 6]
    ended = keys.ended(ledger.partition_of("ann"))
    assert [replica.command("HEXISTS", ended, SID) for replica in servers.replicas] == [1, 1]


async def test_one_replica_that_stands_still_is_one_too_few(servers: Replicated, ledger: Ledger, store: Store) -> None:
    await begin(ledger)
    await offer(ledger)
    stream = keys.stream(ledger.partition_of("ann"))
    servers.replicas[1].pause()
    for command in (
        RotateToken(bytes.fromhex(SID), b"t" * 32, 1),
        RequestReset(on=True, by=plain("ann")),
        ClearCheckpoints(None, "reset", reset=True),
    ):
        before = await store.command("XLEN", stream, key=stream)
        began_s = time.monotonic()
        error = await refused(ledger.execute("ann", SID, command))
        assert time.monotonic() - began_s < 4 * WAIT_S
        assert "but by 1" in str(error)
        assert await store.command("XLEN", stream, key=stream) == before + 1
    await refused(ledger.execute("ann", SID, EndSession("logout")))
    assert await store.command("HEXISTS", keys.ended(0), SID, key=keys.ended(0)) or await store.command(
        "HEXISTS", keys.ended(1), SID, key=keys.ended(1)
    )
    with pytest.raises(SessionEnded):  # it is written all the same: nothing lives on
        await ledger.load("ann", SID)
    servers.replicas[1].resume()
    await ledger.execute("ann", sid_of("next"), CreateSession("ann", "lib"))


def waits_of(servers: Replicated) -> int:
    """Tell how often the primary was asked to wait for replicas."""
    waits = servers.primary.command("INFO", "commandstats").get("cmdstat_wait", {"calls": 0})
    return int(waits["calls"])


async def test_acks_and_offers_wait_for_nobody(servers: Replicated, ledger: Ledger) -> None:
    await begin(ledger)
    waits = waits_of(servers)
    for replica in servers.replicas:
        replica.pause()
    for number in range(20):
        await offer(ledger, NOW + 10 + number)
        await ledger.execute("ann", SID, RecordAcks((ack("AssetV2", NOW + number),)))
    assert waits_of(servers) == waits > 0, "but a session's beginning did"


async def test_what_is_asked_again_is_confirmed_too(servers: Replicated, ledger: Ledger, store: Store) -> None:
    await begin(ledger)
    await offer(ledger)
    servers.replicas[0].pause()
    again = (RequestReset(on=True, by=plain("ann")), ClearCheckpoints(None, "deleted"))
    for command in again:
        await refused(ledger.execute("ann", SID, command))
    stream = keys.stream(ledger.partition_of("ann"))
    events = await store.command("XLEN", stream, key=stream)
    for command in again:  # nothing is appended, and nothing is answered that may be lost
        await refused(ledger.execute("ann", SID, command))
    servers.replicas[0].resume()
    for command in again:
        await ledger.execute("ann", SID, command)
    assert await store.command("XLEN", stream, key=stream) == events


async def test_many_at_once_share_rounds(servers: Replicated, ledger: Ledger) -> None:
    commands = [
        ledger.execute(user, sid_of(f"{user} {number}"), CreateSession(user, "lib"))
        for user in ("ann", "bob", "cat")
        for number in range(100)
    ]
    await asyncio.gather(*commands)
    assert waits_of(servers) < 100


async def test_some_fail_while_others_wait(servers: Replicated, ledger: Ledger) -> None:
    servers.replicas[0].pause()
    answers = await asyncio.gather(
        *(ledger.execute("ann", sid_of(str(number)), CreateSession("ann", "lib")) for number in range(10)),
        return_exceptions=True,
    )
    assert {type(answer) for answer in answers} == {NotReplicated}
    assert len(await ledger.devices("ann")) == 10


async def test_a_primary_that_has_not_got_the_event_confirms_nothing(
    servers: Replicated, ledger: Ledger, store: Store
) -> None:
    """As when a replica without the event became the primary between the append and the barrier."""
    state = await ledger.execute("ann", SID, CreateSession("ann", "lib"))
    partition = ledger.partition_of("ann")
    replicas = ledger.stored.replicas
    assert replicas is not None
    await replicas.confirm(partition, state)
    name = keys.session(partition, SID)
    await store.command("HSET", name, "hash", "another", key=name)
    assert "does not have it" in str(await refused(replicas.confirm(partition, state)))
    await store.command("DEL", name, key=name)
    assert "does not have it" in str(await refused(replicas.confirm(partition, state)))


async def test_a_primary_that_went_on_without_the_event_confirms_nothing(
    servers: Replicated, ledger: Ledger, store: Store
) -> None:
    """As when a replica without the event became the primary, and others wrote there before the barrier came."""
    await begin(ledger)
    await offer(ledger)
    state = await ledger.execute("ann", SID, RequestReset(on=True, by=plain("ann")))
    partition = ledger.partition_of("ann")
    replicas = ledger.stored.replicas
    assert replicas is not None
    for number in range(3):
        await offer(ledger, NOW + 10 + number)
    await replicas.confirm(partition, state)  # what follows it says that it is here
    forked = replace(state, hash=b"x" * 32)
    assert "does not have it" in str(await refused(replicas.confirm(partition, forked)))
    await ledger.execute("ann", SID, EndSession("logout"))
    await replicas.confirm(partition, state)
    assert "does not have it" in str(await refused(replicas.confirm(partition, forked)))


async def test_a_primary_that_is_gone_confirms_nothing(servers: Replicated, ledger: Ledger, store: Store) -> None:
    state = await ledger.execute("ann", SID, CreateSession("ann", "lib"))
    replicas = ledger.stored.replicas
    assert replicas is not None
    servers.primary.command("REPLICAOF", "127.0.0.1", servers.replicas[0].port)
    await refused(replicas.confirm(ledger.partition_of("ann"), state))
    servers.primary.kill()
    with pytest.raises(StoreUnavailable):
        await replicas.confirm(ledger.partition_of("ann"), state)


async def test_how_many_are_connected_is_told(servers: Replicated, store: Store) -> None:
    assert await connected_replicas(store) == 2
    servers.replicas[0].kill()
    await asyncio.to_thread(wait_until, lambda: replica_count(servers.primary) == 1, "its end")
    assert await connected_replicas(store) == 1
    assert promise_text(2, 1) == (
        "sign-ins, sign-outs, new tokens, resets, cleared checkpoints and entities are answered when 2 replicas have "
        "them (1 connected)"
    )


async def test_in_a_cluster_the_replicas_of_the_keys_primary_count(cluster: RedisCluster, tmp_path: Path) -> None:
    """Two of three primaries have a replica: their users' sessions are confirmed, the third's are not."""
    store = await open_store(cluster.url)
    partitions = 12
    for partition in range(partitions):
        await store.command("SET", keys.whole(partition), "1", key=keys.whole(partition))
    followers = []
    try:
        for number, node in enumerate(cluster.nodes[:2]):
            bus = free_port()
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "5000")
            follower = RedisServer(valkey_binary(), tmp_path / f"follower{number}", options=options).start()
            followers.append(follower)
            node_id = node.command("CLUSTER", "MYID").decode()
            follower.command("CLUSTER", "MEET", "127.0.0.1", node.port, cluster.bus_ports[number])

            wait_until(partial(replicates, follower, node_id), "the follower to know its primary")
            wait_until(partial(is_online, node), "the follower to be in sync")
        replicas = await Replicas.open(cluster.url, 1, wait_s=WAIT_S)
        ledger = Ledger(store, partitions, Clock(), replicas=replicas)
        seen = {True: 0, False: 0}
        for number in range(24):
            user = f"user{number}"
            node = cluster.node_of(keys.stream(ledger.partition_of(user)))
            alone = node is cluster.nodes[2]
            seen[alone] += 1
            answer = ledger.execute(user, sid_of(user), CreateSession(user, "lib"))
            if alone:
                with pytest.raises(NotReplicated, match="by 1 replica within"):
                    await answer
            else:
                await answer
        assert min(seen.values()) > 0
        assert await connected_replicas(store) == 0
        await replicas.close()
    finally:
        for follower in followers:
            follower.kill()
        await store.close()
