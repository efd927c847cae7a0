"""What scripts say on channels is heard, on every kind of store, and what may be missing is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from ledger.store.channels import Channels
from ledger.store.cluster import ClusterStore
from ledger.store.interface import Script, open_store
from ledger.store.standalone import StandaloneStore
from tests.support.stores.servers import RedisCluster, RedisServer, wait_until

SAY = Script("say", "redis.call('SPUBLISH', KEYS[1], ARGV[1]) return 1")
CHANNELS = [b"{p%d}:ended" % number for number in range(12)]
"""On a cluster they lie on all nodes."""


class Ears:
    """What was heard, in its order, and which channels were told to be open."""

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, bytes]] = []
        self.joined: list[bytes] = []
        self._news = asyncio.Event()

    def hear(self, channel: bytes, message: bytes) -> None:
        self.heard.append((channel, message))
        self._news.set()

    def join(self, channel: bytes) -> None:
        self.joined.append(channel)
        self._news.set()

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not what():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def listening(
    url: str, timeout_s: float = 2.0
) -> AsyncIterator[tuple[StandaloneStore | ClusterStore, Channels, Ears]]:
    store = await open_store(url, timeout_s=timeout_s)
    assert isinstance(store, StandaloneStore | ClusterStore)
    ears = Ears()
    channels = Channels(store, ears.hear, ears.join, timeout_s=timeout_s)
    yield store, channels, ears
    await channels.close()
    await store.close()


@pytest.mark.each_store
async def test_what_a_script_says_is_heard_until_it_is_left(store_url: str) -> None:
    async with listening(store_url) as (store, channels, ears):
        for channel in CHANNELS:
            channels.join(channel)
            assert not channels.is_open(channel)
        await ears.until(lambda: len(ears.joined) == len(CHANNELS))
        assert sorted(ears.joined) == sorted(CHANNELS)
        assert all(map(channels.is_open, CHANNELS))
        for channel in CHANNELS:
            await store.script(SAY, [channel], [b"first"])
        await ears.until(lambda: len(ears.heard) == len(CHANNELS))
        for channel in CHANNELS[1:]:
            channels.leave(channel)
        for channel in [*CHANNELS[1:], CHANNELS[0]]:
            await store.script(SAY, [channel], [b"second"])
        await ears.until(lambda: (CHANNELS[0], b"second") in ears.heard)
        assert len(ears.heard) == len(CHANNELS) + 1
        assert not any(map(channels.is_open, CHANNELS[1:]))
        channels.join(CHANNELS[5])  # whose connection may have been closed with the last that was left there
        await ears.until(lambda: channels.is_open(CHANNELS[5]))
        await store.script(SAY, [CHANNELS[5]], [b"third"])
        await ears.until(lambda: ears.heard[-1] == (CHANNELS[5], b"third"))


async def test_after_a_server_was_away_channels_are_told_to_be_open_again(valkey_server: RedisServer) -> None:
    async with listening(valkey_server.url, timeout_s=1.0) as (_, channels, ears):
        channels.join(CHANNELS[0])
        await ears.until(lambda: len(ears.joined) == 1)
        valkey_server.kill()
        await asyncio.to_thread(wait_until, lambda: not channels.is_open(CHANNELS[0]), "the loss to be noticed")
        channels.join(CHANNELS[1])
        await asyncio.to_thread(valkey_server.start)
        await ears.until(lambda: len(ears.joined) == 3)
        await asyncio.to_thread(valkey_server.command, "SPUBLISH", CHANNELS[1], b"again")
        await ears.until(lambda: ears.heard == [(CHANNELS[1], b"again")])


async def test_a_server_that_hangs_is_noticed(valkey_server: RedisServer) -> None:
    async with listening(valkey_server.url, timeout_s=0.5) as (_, channels, ears):
        channels.join(CHANNELS[0])
        await ears.until(lambda: len(ears.joined) == 1)
        valkey_server.pause()
        await asyncio.to_thread(wait_until, lambda: not channels.is_open(CHANNELS[0]), "the loss to be noticed")
        valkey_server.resume()
        await ears.until(lambda: len(ears.joined) == 2)


async def test_a_slot_that_moves_is_followed(cluster: RedisCluster) -> None:
    channel = CHANNELS[0]
    async with listening(cluster.url) as (store, channels, ears):
        channels.join(channel)
        await ears.until(lambda: len(ears.joined) == 1)
        source = cluster.node_of(channel)
        target = next(node for node in cluster.nodes if node is not source)
        slot = cluster.nodes[0].command("CLUSTER", "KEYSLOT", channel)
        owner = target.command("CLUSTER", "MYID").decode()
        for node in (target, source, *cluster.nodes):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", owner)
        await ears.until(lambda: len(ears.joined) == 2)
        await store.script(SAY, [channel], [b"moved"])
        await ears.until(lambda: ears.heard == [(channel, b"moved")])


async def test_a_user_who_may_not_listen_is_told_so_and_writes_all_the_same(
    valkey_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    valkey_server.command("ACL", "SETUSER", "ledger", "on", ">secret", "~*", "+@all", "resetchannels")
    url = valkey_server.url.replace("redis://", "redis://ledger:secret@")
    with caplog.at_level(logging.WARNING):
        async with listening(url) as (_, channels, ears):
            channels.join(CHANNELS[0])
            await asyncio.to_thread(wait_until, lambda: "does not let us hear" in caplog.text, "a word of it")
            assert ears.joined == []
            valkey_server.command("ACL", "SETUSER", "ledger", "allchannels")
            await ears.until(lambda: len(ears.joined) == 1)
    assert "secret" not in caplog.text
