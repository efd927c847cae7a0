"""Servers that die, hang and come back: what a caller is told, and that nothing is done twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from ledger.errors import StoreUnavailable
from ledger.store.interface import Script, Store, open_store
from ledger.store.standalone import StandaloneStore
from tests.integration.store.proxy import Proxy
from tests.support.stores.servers import RedisServer, free_port

Open = Callable[..., Awaitable[StandaloneStore]]
PUSH = Script("push", "return redis.call('RPUSH', KEYS[1], ARGV[1])")
KEY = b"{p1}:list"


async def until_it_works(store: Store, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            await store.command("PING", key=KEY)
        except StoreUnavailable:
            assert time.monotonic() < deadline, "the store did not come back"
            await asyncio.sleep(0.01)
        else:
            return


async def test_nobody_there_at_the_start() -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await open_store(f"redis://:hidden@127.0.0.1:{free_port()}")
    assert caught.value.maybe_done is False
    assert "hidden" not in str(caught.value)


async def test_a_server_that_dies_in_the_middle_does_nothing_twice(
    valkey_server: RedisServer, open_standalone: Open
) -> None:
    store = await open_standalone(valkey_server.url)
    done: list[bytes] = []
    unknown: list[bytes] = []
    not_done: list[bytes] = []
    stop = False

    async def device(d: int) -> None:
        i = 0
        while not stop:
            value = b"%d-%d" % (d, i)
            i += 1
            try:
                await store.script(PUSH, [KEY], [value])
                done.append(value)
            except StoreUnavailable as exc:
                (unknown if exc.maybe_done else not_done).append(value)
                await asyncio.sleep(0.002)

    tasks = [asyncio.create_task(device(d)) for d in range(32)]
    for _ in range(4):
        await asyncio.sleep(0.15)
        valkey_server.kill()
        await asyncio.sleep(0.05)
        await asyncio.to_thread(valkey_server.start)
        await until_it_works(store)
    stop = True
    await asyncio.gather(*tasks)
    stored = await store.command("LRANGE", KEY, 0, -1, key=KEY)
    assert len(stored) == len(set(stored)), "no command was carried out twice"
    assert set(done) <= set(stored), "what was answered is there"
    assert not set(not_done) & set(stored), "what was told as not done is not there"
    assert set(stored) <= set(done) | set(unknown)
    assert done
    assert not_done


async def test_a_hanging_server_is_given_up_in_time(valkey_server: RedisServer, open_standalone: Open) -> None:
    store = await open_standalone(valkey_server.url, timeout_s=0.5)
    await store.script(PUSH, [KEY], ["first"])
    valkey_server.pause()
    began = time.monotonic()
    results = await asyncio.gather(*(store.script(PUSH, [KEY], [b"%d" % i]) for i in range(10)), return_exceptions=True)
    assert 0.4 <= time.monotonic() - began < 1.5
    assert all(isinstance(result, StoreUnavailable) and result.maybe_done for result in results)
    valkey_server.resume()
    await until_it_works(store)
    assert await store.command("ECHO", "mine", key=KEY) == b"mine", "late replies reach nobody"
    assert await store.command("LLEN", KEY, key=KEY) == 11, "what was written to the hanging server was done once"


async def test_a_busy_server_is_not_given_up(valkey_server: RedisServer, open_standalone: Open) -> None:
    """Replies keep coming, though each waits longer than the one before: only silence counts."""
    store = await open_standalone(valkey_server.url, timeout_s=1.0)
    slow = Script("slow", "local t = redis.call('TIME')[1] + 0 for i = 1, 3e6 do t = t + i end return 1")
    began = time.monotonic()
    assert await asyncio.gather(*(store.script(slow, [KEY], []) for _ in range(10))) == [1] * 10
    assert time.monotonic() - began > 0.05


async def test_while_a_server_is_down_commands_fail_at_once(valkey_server: RedisServer, open_standalone: Open) -> None:
    store = await open_standalone(valkey_server.url)
    valkey_server.kill()
    await asyncio.sleep(0.3)
    for _ in range(20):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            await store.command("PING", key=KEY)
        assert caught.value.maybe_done is False
        assert time.monotonic() - began < 0.2
        await asyncio.sleep(0.02)
    await asyncio.to_thread(valkey_server.start)
    await until_it_works(store, timeout_s=3.0)


async def test_attempts_to_reconnect_are_spaced(
    proxy: Proxy, valkey_server: RedisServer, open_standalone: Open
) -> None:
    store = await open_standalone(f"redis://127.0.0.1:{proxy.port}")
    valkey_server.kill()
    proxy.cut()
    before = proxy.accepted
    await asyncio.sleep(2.0)
    assert 3 <= proxy.accepted - before <= 12
    await store.close()


async def test_commands_wait_for_the_connection_that_is_being_made(proxy: Proxy, open_standalone: Open) -> None:
    store = await open_standalone(f"redis://127.0.0.1:{proxy.port}", timeout_s=5.0)
    proxy.hold()
    proxy.cut()
    await asyncio.sleep(0.05)
    waiting = [asyncio.create_task(store.script(PUSH, [KEY], [b"%d" % i])) for i in range(10)]
    await asyncio.sleep(0.1)
    waiting[3].cancel()
    assert not any(task.done() for task in waiting if task is not waiting[3])
    proxy.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[3], asyncio.CancelledError)
    assert sorted(result for result in results if isinstance(result, int)) == list(range(1, 10))
    assert b"3" not in await store.command("LRANGE", KEY, 0, -1, key=KEY), "what nobody waits for is not sent"


async def test_commands_wait_for_a_connection_no_longer_than_the_timeout(proxy: Proxy, open_standalone: Open) -> None:
    store = await open_standalone(f"redis://127.0.0.1:{proxy.port}", timeout_s=0.5)
    proxy.hold()
    proxy.cut()
    await asyncio.sleep(0.05)
    began = time.monotonic()
    results = await asyncio.gather(*(store.script(PUSH, [KEY], [i]) for i in range(3)), return_exceptions=True)
    assert time.monotonic() - began < 1.0
    assert all(isinstance(result, StoreUnavailable) and not result.maybe_done for result in results)
    proxy.gate.set()
    await until_it_works(store)
    assert await store.command("EXISTS", KEY, key=KEY) == 0


async def test_an_idle_store_notices_a_restart(valkey_server: RedisServer, open_standalone: Open) -> None:
    store = await open_standalone(valkey_server.url)
    await store.script(PUSH, [KEY], ["x"])
    valkey_server.kill()
    await asyncio.to_thread(valkey_server.start)
    await asyncio.sleep(1.2)
    assert await store.script(PUSH, [KEY], ["y"]) == 2, "the script is loaded again, the first call works"
