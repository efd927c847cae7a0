"""The limits on every kind of server: counted together, kept for their window only, never open when it is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import falcon.testing
import pytest
import redis

from endpoints.http.limits import AT_ONCE, Limited, LimitRules, Limits
from endpoints.http.request import Request
from ledger.errors import LayoutError, StoreUnavailable
from ledger.keys import LIMITS
from ledger.store.interface import open_store
from ops.opening.limits import open_limits
from tests.support.stores.servers import RedisCluster, RedisServer, free_port, valkey_binary, wait_until

WINDOW_S = 2
RULES = LimitRules(sign_in="3/2seconds", account="2/2seconds", bad_token="4/2seconds", refresh="1/2seconds")
EVERYTHING = LimitRules(sign_in="100000/hour", account="100000/hour", bad_token="4/minute")


def request(address: str = "192.0.2.1") -> Request:
    made = falcon.testing.create_asgi_req(req_type=Request, remote_addr=address)
    assert isinstance(made, Request)
    return made


@asynccontextmanager
async def opened(url: str, rules: LimitRules = RULES, timeout_s: float = 5.0) -> AsyncIterator[Limits]:
    limits = await open_limits(url, rules, timeout_s)
    yield limits
    await limits.close()


@pytest.fixture
async def limits(store_url: str) -> AsyncIterator[Limits]:
    async with opened(store_url) as limits:
        yield limits


async def passed(work: Callable[[], Awaitable[None]], times: int) -> int:
    """Do it so often and tell how often it was not too much."""
    count = 0
    for _ in range(times):
        try:
            await work()
            count += 1
        except Limited:
            pass
    return count


async def keys_at(url: str) -> dict[str, int]:
    """List the keys of all nodes with their time to live in ms."""
    store = await open_store(url)
    names = [name for names in await store.each_primary("KEYS", "*") for name in names]
    found = {name.decode(): await store.command("PTTL", name, key=name) for name in names}
    await store.close()
    return found


async def test_so_many_pass_in_a_window_and_again_after_it(limits: Limits) -> None:
    began = time.monotonic()
    assert await passed(lambda: limits.sign_in(request()), 5) == 3
    with pytest.raises(Limited, match=r"^Too many requests; try again in [12] seconds?$") as refused:
        await limits.sign_in(request())
    assert refused.value.what == "sign_in"
    assert 1 <= refused.value.retry_after_s <= WINDOW_S
    await asyncio.sleep(refused.value.retry_after_s)
    assert time.monotonic() - began >= 1
    await limits.sign_in(request())


async def test_the_window_moves(limits: Limits) -> None:
    """At most three in any two seconds, also across the border of two windows that begin with the first."""
    await limits.sign_in(request())
    await asyncio.sleep(WINDOW_S * 0.8)
    assert await passed(lambda: limits.sign_in(request()), 3) == 2
    await asyncio.sleep(WINDOW_S * 0.4)
    assert await passed(lambda: limits.sign_in(request()), 3) == 1


async def test_workers_share_one_count(store_url: str) -> None:
    async with opened(store_url) as one, opened(store_url) as other:
        turns = [limits for _ in range(10) for limits in (one, other)]
        outcomes = await asyncio.gather(*(each.sign_in(request()) for each in turns), return_exceptions=True)
        assert outcomes.count(None) == 3
        assert all(outcome is None or isinstance(outcome, Limited) for outcome in outcomes)


async def test_each_address_counts_alone_and_an_ipv6_network_is_one(limits: Limits) -> None:
    assert await passed(lambda: limits.sign_in(request("192.0.2.1")), 4) == 3
    assert await passed(lambda: limits.sign_in(request("192.0.2.2")), 4) == 3
    assert await passed(lambda: limits.sign_in(request("::ffff:192.0.2.1")), 4) == 0
    assert await passed(lambda: limits.sign_in(request("2001:db8:0:1::1")), 2) == 2
    assert await passed(lambda: limits.sign_in(request("2001:db8:0:1:ffff:ffff:ffff:ffff")), 2) == 1
    assert await passed(lambda: limits.sign_in(request("2001:db8:0:2::1")), 4) == 3


async def test_each_rule_counts_alone(limits: Limits) -> None:
    assert await passed(lambda: limits.sign_in(request()), 5) == 3
    assert await passed(lambda: limits.account("https://op.example\0ann"), 5) == 2
    assert await passed(lambda: limits.account("https://op.example\0bob"), 5) == 2
    assert await passed(lambda: limits.refresh("a" * 64), 5) == 1
    assert await passed(lambda: limits.bad_token(request(), None), 5) == 4


async def test_a_bad_token_counts_by_address_and_by_the_account_it_claims(limits: Limits) -> None:
    addresses = iter(range(1, 100))
    assert await passed(lambda: limits.bad_token(request(f"192.0.2.{next(addresses)}"), "ann"), 6) == 4
    accounts = iter("bcdefghij")
    assert await passed(lambda: limits.bad_token(request("198.51.100.1"), next(accounts)), 6) == 4


async def test_the_keys_tell_nobody_and_are_gone_after_the_window(store_url: str, limits: Limits) -> None:
    told = ("192.0.2.77", "2001:db8:0:9::77", "ann@example.test", "https://op.example\0ann", "a" * 64)
    for address in told[:2]:
        await passed(lambda address=address: limits.bad_token(request(address), told[2]), 6)  # type: ignore[misc]
        await passed(lambda address=address: limits.sign_in(request(address)), 6)  # type: ignore[misc]
    await passed(lambda: limits.account(told[3]), 3)
    await passed(lambda: limits.refresh(told[4]), 3)
    kept = await keys_at(store_url)
    assert len(kept) == 7
    for key, ms in kept.items():
        assert key.startswith(f"{LIMITS}:")
        assert not any(text in key for text in told)
        assert 0 < ms <= WINDOW_S * 1000
    await asyncio.sleep(WINDOW_S + 0.1)
    assert await keys_at(store_url) == {}


async def test_a_node_of_a_cluster_is_recognised(cluster_url: str) -> None:
    async with opened(cluster_url.replace("+cluster", "")) as plain, opened(cluster_url) as named:
        addresses = [f"192.0.2.{n}" for n in range(20)]  # on all nodes
        for address in addresses:
            assert await passed(lambda address=address: plain.sign_in(request(address)), 2) == 2  # type: ignore[misc]
            assert await passed(lambda address=address: named.sign_in(request(address)), 2) == 1  # type: ignore[misc]


async def test_a_flood_waits_for_few_connections(shared_valkey: RedisServer) -> None:
    url = shared_valkey.url
    async with opened(url, EVERYTHING, 60.0) as limits, redis.asyncio.Redis.from_url(url) as client:
        before = (await client.info("clients"))["connected_clients"]
        floods = asyncio.gather(*(limits.account(f"a{n}") for n in range(2000)))
        connected = []
        while not floods.done():
            connected.append((await client.info("clients"))["connected_clients"] - before)
        assert max(connected) <= AT_ONCE
        await floods


# Trouble --------------------------------------------------------------------------------------------------------------


async def refused_within(limits: Limits, seconds: float) -> None:
    began = time.monotonic()
    for work in (limits.sign_in(request()), limits.bad_token(request(), "ann"), limits.account("a")):
        with pytest.raises(StoreUnavailable):
            await work
    assert time.monotonic() - began < 3 * seconds


async def until_it_works(limits: Limits) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            await limits.account(f"{time.monotonic()}")
        except StoreUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        else:
            return


async def test_a_server_that_is_away_admits_nobody(valkey_server: RedisServer) -> None:
    async with opened(valkey_server.url, timeout_s=0.5) as limits:
        await limits.sign_in(request())
        valkey_server.pause()
        await refused_within(limits, 1)
        valkey_server.resume()
        await until_it_works(limits)
        valkey_server.kill()
        await refused_within(limits, 1)
        valkey_server.start()
        await until_it_works(limits)


async def test_a_cluster_whose_nodes_are_away_admits_nobody(cluster: RedisCluster) -> None:
    async with opened(cluster.url, timeout_s=0.5) as limits:
        await limits.sign_in(request())
        for node in cluster.nodes:
            node.pause()
        await refused_within(limits, 1)
        for node in cluster.nodes:
            node.resume()
        await until_it_works(limits)


async def test_a_cluster_that_loses_a_node_under_a_crowd_is_used_again(cluster: RedisCluster) -> None:
    async with opened(cluster.url, EVERYTHING, timeout_s=1) as limits:
        over = False

        async def crowd(number: int) -> None:
            turn = 0
            while not over:
                turn += 1
                try:
                    await limits.account(f"{number}-{turn}")
                except StoreUnavailable:
                    await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(crowd(number)) for number in range(20)]
        await asyncio.sleep(0.3)
        cluster.nodes[0].kill()
        await asyncio.sleep(0.3)
        await asyncio.to_thread(cluster.nodes[0].start)
        await asyncio.to_thread(wait_until, cluster.healthy, "the cluster to heal")
        await until_it_works(limits)
        over = True
        unexpected = [each for each in await asyncio.gather(*tasks, return_exceptions=True) if each is not None]
        assert unexpected == []
        assert await passed(lambda: limits.bad_token(request(), "ann"), 6) == 4


async def test_a_crowd_at_a_silent_server_is_let_go_in_time(valkey_server: RedisServer) -> None:
    async with opened(valkey_server.url, EVERYTHING, timeout_s=0.5) as limits:
        valkey_server.pause()
        began = time.monotonic()
        outcomes = await asyncio.gather(*(limits.account(f"a{n}") for n in range(500)), return_exceptions=True)
        assert time.monotonic() - began < 3
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}


async def test_a_full_server_admits_nobody(valkey_server: RedisServer) -> None:
    async with opened(valkey_server.url) as limits:
        await limits.sign_in(request())
        valkey_server.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="memory"):
            await limits.sign_in(request())


# Ways to reach it -----------------------------------------------------------------------------------------------------


async def test_password_and_unix_socket(tmp_path: Path) -> None:
    with RedisServer(valkey_binary(), tmp_path / "server", unix=True) as server:
        async with opened(server.url) as limits:
            assert await passed(lambda: limits.sign_in(request()), 4) == 3
        server.command("CONFIG", "SET", "requirepass", "p@ss w/rd")
        async with opened(f"{server.url}?password=p%40ss%20w%2Frd") as limits:
            assert await passed(lambda: limits.sign_in(request("192.0.2.2")), 4) == 3


async def test_password_of_a_cluster(cluster: RedisCluster) -> None:
    for node in cluster.nodes:
        node.command("CONFIG", "SET", "requirepass", "p@ss w/rd")
    async with opened(cluster.url.replace("://", "://:p%40ss%20w%2Frd@")) as limits:
        assert await passed(lambda: limits.sign_in(request()), 4) == 3
    with pytest.raises(StoreUnavailable) as refused:
        await open_limits(cluster.url.replace("://", "://:guessed@"), RULES, 5.0)
    assert "guessed" not in str(refused.value)


async def test_tls_is_spoken_to_a_cluster_where_the_url_says_so(cluster_url: str) -> None:
    with pytest.raises(StoreUnavailable):  # it waits for the server's part of a handshake
        await open_limits(cluster_url.replace("redis+", "rediss+"), RULES, 0.5)


async def test_nobody_there_at_the_start() -> None:
    with pytest.raises(StoreUnavailable) as refused:
        await open_limits(f"redis://:hidden@127.0.0.1:{free_port()}", RULES, 1.0)
    assert "hidden" not in str(refused.value)


async def test_an_unusable_url_or_rule_is_told() -> None:
    with pytest.raises(LayoutError):
        await open_limits("redis+cluster://127.0.0.1/0?no_such_option=1", RULES, 1.0)
    with pytest.raises(LayoutError):
        await open_limits("redis+cluster://127.0.0.1/1", RULES, 1.0)
    with pytest.raises(ValueError, match="often"):
        await open_limits("redis+cluster://127.0.0.1", LimitRules(sign_in="often"), 1.0)
