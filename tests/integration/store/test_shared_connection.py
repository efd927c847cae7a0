"""Many tasks on one connection: shared writes, order under cancellation, bounds, and the end."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import warnings
from collections.abc import Awaitable, Callable

import pytest

from ledger.errors import StoreUnavailable
from ledger.store import shared_connection
from ledger.store.interface import Script, open_store
from ledger.store.standalone import StandaloneStore
from tests.integration.store.proxy import Proxy
from tests.support.stores.servers import RedisServer

Open = Callable[..., Awaitable[StandaloneStore]]
COUNT = Script("count", "return redis.call('INCR', KEYS[1])")
KEY = b"{p1}:n"


async def test_commands_of_one_turn_share_a_write(valkey_url: str, open_standalone: Open) -> None:
    store = await open_standalone(valkey_url)
    await store.script(COUNT, [KEY], [])
    before = store.mux.writes
    replies = await asyncio.gather(*(store.script(COUNT, [KEY], []) for _ in range(10_000)))
    assert replies == list(range(2, 10_002)), "replies come in the order of the commands"
    assert store.mux.writes - before <= 2


async def test_tasks_that_go_on_share_writes(valkey_url: str, open_standalone: Open) -> None:
    store = await open_standalone(valkey_url)

    async def device() -> None:
        for _ in range(100):
            await store.script(COUNT, [KEY], [])

    before = store.mux.writes
    await asyncio.gather(*(device() for _ in range(64)))
    assert await store.command("GET", KEY, key=KEY) == b"6400"
    assert store.mux.writes - before <= 6400 / 8


async def test_cancelled_waiters_do_not_shift_the_replies(valkey_url: str, open_standalone: Open) -> None:
    store = await open_standalone(valkey_url)
    choose = random.Random(7)

    async def echo(i: int) -> bytes:
        reply: bytes = await store.command("ECHO", i, key=KEY)
        return reply

    cancelled = 0
    for _ in range(50):
        tasks = [asyncio.create_task(echo(i)) for i in range(200)]
        for _ in range(choose.randrange(4)):  # before the write, after it, among the replies
            await asyncio.sleep(0)
        for task in choose.sample(tasks, 60):
            task.cancel()
        replies = await asyncio.gather(*tasks, return_exceptions=True)
        for i, reply in enumerate(replies):
            assert isinstance(reply, asyncio.CancelledError) or reply == b"%d" % i
        cancelled += sum(isinstance(reply, asyncio.CancelledError) for reply in replies)
    assert cancelled > 1000
    assert await echo(7) == b"7"


async def test_waiters_beyond_the_bound_are_refused(
    valkey_server: RedisServer, open_standalone: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_connection, "MAX_PENDING", 100)
    store = await open_standalone(valkey_server.url)
    valkey_server.pause()
    waiting = [asyncio.create_task(store.script(COUNT, [KEY], [])) for _ in range(120)]
    _, refused = await asyncio.wait(waiting, timeout=0.1)
    refused = set(waiting) - refused
    assert len(refused) == 20
    for task in refused:
        error = task.exception()
        assert isinstance(error, StoreUnavailable)
        assert error.maybe_done is False
    valkey_server.resume()
    done = await asyncio.gather(*(task for task in waiting if task not in refused), return_exceptions=True)
    # All of them first met a server without the script, which came back to a free queue.
    assert set(done) == set(range(1, 101))
    assert await store.script(COUNT, [KEY], []) == 101


async def test_bytes_that_the_server_does_not_take_are_bounded(
    valkey_server: RedisServer, open_standalone: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_connection, "MAX_HELD_BYTES", 4 << 20)
    store = await open_standalone(valkey_server.url)
    valkey_server.pause()
    large = b"x" * (1 << 20)
    waiting = []
    for i in range(64):
        waiting.append(asyncio.create_task(store.command("RPUSH", KEY, large, key=KEY)))
        await asyncio.sleep(0.001 if i < 32 else 0)
    valkey_server.resume()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    assert errors
    assert all(isinstance(error, StoreUnavailable) and not error.maybe_done for error in errors)
    assert await store.command("LLEN", KEY, key=KEY) == 64 - len(errors), "what was refused was not done"


async def test_close_fails_those_who_wait(valkey_server: RedisServer) -> None:
    store = await open_store(valkey_server.url)
    valkey_server.pause()
    written = [asyncio.create_task(store.command("INCR", KEY, key=KEY)) for _ in range(3)]
    await asyncio.sleep(0.05)
    fresh = [asyncio.create_task(store.command("INCR", KEY, key=KEY)) for _ in range(3)]
    await asyncio.sleep(0)
    await store.close()
    errors = await asyncio.gather(*written, *fresh, return_exceptions=True)
    assert [isinstance(e, StoreUnavailable) and e.maybe_done for e in errors] == [True] * 3 + [False] * 3
    await store.close()


async def test_close_leaves_nothing_behind(valkey_url: str) -> None:
    gc.collect()  # what tests before this one left
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for _ in range(3):
            store = await open_store(valkey_url)
            await store.command("INCR", KEY, key=KEY)
            await store.close()
        del store
        await asyncio.sleep(0.01)
        gc.collect()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_reply_nobody_asked_for_breaks_the_connection_not_the_order(
    proxy: Proxy, open_standalone: Open
) -> None:
    """A server that answers twice would shift every later reply; the connection is given up instead."""
    store = await open_standalone(f"redis://127.0.0.1:{proxy.port}")
    before = proxy.accepted
    proxy.inject(b"+SURPLUS\r\n")
    await asyncio.sleep(0.2)
    assert await store.command("ECHO", "mine", key=KEY) == b"mine"
    assert proxy.accepted == before + 1


async def test_a_loop_that_stood_still_blames_nobody(valkey_url: str, open_standalone: Open) -> None:
    store = await open_standalone(valkey_url, timeout_s=0.4)
    waiting = asyncio.create_task(store.command("ECHO", "x", key=KEY))
    for _ in range(3):
        await asyncio.sleep(0)
    time.sleep(1.0)  # noqa: ASYNC251 - the loop stands still
    assert await waiting == b"x"
