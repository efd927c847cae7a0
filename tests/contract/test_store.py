"""What every backend of the `Store` promises: Valkey 9, Redis 7, a cluster, and fakeredis."""

from __future__ import annotations

import asyncio

import pytest

from ledger.errors import StoreFull, StoreReplyError, StoreUnavailable
from ledger.store.interface import Script, Store

pytestmark = pytest.mark.each_store

ECHO = Script("echo", "return {KEYS[1], ARGV[1], #ARGV, false, redis.call('INCR', KEYS[1])}")
FILL = Script("fill", "return redis.call('SET', KEYS[1], ARGV[1])")
FREE = Script("free", "redis.call('SET', KEYS[2], ARGV[1]) return redis.call('DEL', KEYS[1])", allow_oom=True)


async def test_replies_are_raw_resp2_values(store: Store) -> None:
    key = b"{p1}:hash"
    assert await store.command("HSET", key, "a", 1, b"b", b"\x00\r\n\xff", key=key) == 2
    assert await store.command("HGETALL", key, key=key) == [b"a", b"1", b"b", b"\x00\r\n\xff"]
    assert await store.command("HMGET", key, "a", "none", key=key) == [b"1", None]
    assert await store.command("GET", b"{p1}:none", key=key) is None
    assert await store.command("SET", b"{p1}:text", "é", key=key) == b"OK"
    assert await store.command("GET", b"{p1}:text", key=key) == "é".encode()
    assert await store.command("ZADD", b"{p1}:zset", "GT", "CH", 1_700_000_000_123_456, "m", key=key) == 1
    assert await store.command("ZSCORE", b"{p1}:zset", "m", key=key) == b"1700000000123456"
    assert await store.command("TYPE", key, key=key) == b"hash"
    assert await store.command("SMEMBERS", b"{p1}:none", key=key) == []


async def test_streams_are_read_as_lists(store: Store) -> None:
    key = b"{p1}:stream"
    assert await store.command("XADD", key, "5-1", "sid", b"\x00\x01", "seq", 7, key=key) == b"5-1"
    assert await store.command("XRANGE", key, "-", "+", "COUNT", 10, key=key) == [
        [b"5-1", [b"sid", b"\x00\x01", b"seq", b"7"]]
    ]
    assert await store.command("XREVRANGE", key, "+", "(5-1", key=key) == []


async def test_a_script_is_loaded_when_it_is_first_needed(store: Store) -> None:
    assert await store.script(ECHO, [b"{p1}:n"], ["x", 2, b"z"]) == [b"{p1}:n", b"x", 3, None, 1]
    assert await store.script(ECHO, [b"{p1}:n"], ["x"]) == [b"{p1}:n", b"x", 1, None, 2]


async def test_scripts_are_loaded_again_after_they_were_forgotten(store: Store) -> None:
    await store.script(ECHO, [b"{p1}:n"], ["x"])
    await store.each_primary("SCRIPT", "FLUSH")
    replies = await asyncio.gather(*(store.script(ECHO, [b"{p%d}:n" % (i % 7)], [i]) for i in range(500)))
    assert [reply[1] for reply in replies] == [b"%d" % i for i in range(500)]
    counts = [int(await store.command("GET", b"{p%d}:n" % p, key=b"{p%d}:n" % p)) for p in range(7)]
    assert sum(counts) == 501, "every call ran exactly once"


async def test_a_script_that_does_not_compile_is_an_error(store: Store) -> None:
    with pytest.raises(StoreReplyError):
        await store.script(Script("broken", "return ("), [b"{p1}:n"], [])


async def test_a_refused_command_is_an_error_and_the_next_ones_work(store: Store) -> None:
    key = b"{p1}:text"
    await store.command("SET", key, "x", key=key)
    with pytest.raises(StoreReplyError, match="WRONGTYPE"):
        await store.command("XADD", key, "*", "a", "b", key=key)
    with pytest.raises(StoreReplyError, match="unknown command"):
        await store.command("NOSUCH", key, key=key)
    with pytest.raises(StoreReplyError, match="my own"):
        await store.script(Script("refuse", "return redis.error_reply('ERR my own')"), [key], [])
    assert await store.command("GET", key, key=key) == b"x"


async def test_an_argument_of_a_wrong_type_is_refused_before_anything_is_sent(store: Store) -> None:
    with pytest.raises((TypeError, StoreReplyError, ValueError)):
        await store.command("SET", b"{p1}:a", None, key=b"{p1}:a")  # type: ignore[arg-type]
    assert await store.command("GET", b"{p1}:a", key=b"{p1}:a") is None


async def test_replies_belong_to_their_commands_when_many_are_under_way(store: Store) -> None:
    async def write_and_read(i: int) -> None:
        key = b"{p%d}:%d" % (i % 50, i)
        assert await store.command("SET", key, i, key=key) == b"OK"
        assert await store.command("GET", key, key=key) == b"%d" % i

    await asyncio.gather(*(write_and_read(i) for i in range(2000)))


async def test_large_replies_and_arguments(store: Store) -> None:
    key, large = b"{p1}:large", bytes(range(256)) * 8192  # 2 MiB
    await store.command("SET", key, large, key=key)
    assert await asyncio.gather(*(store.command("GET", key, key=key) for _ in range(5))) == [large] * 5


async def test_every_primary_answers(store: Store) -> None:
    before = sum(await store.each_primary("DBSIZE"))
    for i in range(100):
        key = b"{p%d}:text" % i
        await store.command("SET", key, i, key=key)
    assert sum(await store.each_primary("DBSIZE")) == before + 100


async def test_nothing_works_after_close(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable) as caught:
        await store.command("GET", b"{p1}:a", key=b"{p1}:a")
    assert caught.value.maybe_done is False
    await store.close()


async def test_at_the_memory_limit_writes_are_refused_but_for_scripts_that_free(real_store: Store) -> None:
    key, other = b"{p1}:large", b"{p1}:small"
    await real_store.script(FILL, [key], [b"x" * 1_000_000])
    await real_store.each_primary("CONFIG", "SET", "maxmemory", 1_000_000)
    with pytest.raises(StoreFull):
        await real_store.script(FILL, [other], ["y"])
    with pytest.raises(StoreFull):
        await real_store.command("SET", other, "y", key=other)
    assert await real_store.command("GET", other, key=other) is None
    assert await real_store.script(FREE, [key, other], ["y"]) == 1
    assert await real_store.command("GET", other, key=other) == b"y"
    await real_store.each_primary("CONFIG", "SET", "maxmemory", 0)
