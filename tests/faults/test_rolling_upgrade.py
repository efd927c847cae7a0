"""Two versions on one store, one machine replaced after the other: both serve, and nothing newer is written before."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from ledger.log.formats import FORMAT, Formats, Runs
from ledger.store.interface import open_store
from tests.support.phones.load import Client, Load
from tests.support.processes.newer_version import NEWER
from tests.support.processes.running import RunningService
from tests.support.processes.services import Service
from tests.support.sources.samples import USER_ID, sample
from tests.support.stores.servers import RedisServer, wait_until


def finish(url: str) -> tuple[int, list[Runs]]:
    """Do what `syncledger upgrade --finish` of the newer version does; gives the format, and who is too old for it."""

    async def work() -> tuple[int, list[Runs]]:
        store = await open_store(url)
        try:
            formats = Formats(store, NEWER)
            older = await formats.finish(time.time_ns() // 1000)
            return formats.current, older
        finally:
            await store.close()

    return asyncio.run(work())


@pytest.mark.soak
def test_machines_are_upgraded_one_after_the_other(tmp_path: Path, valkey_server: RedisServer) -> None:
    factory = "tests.support.processes.newer_version:create"
    with RunningService(tmp_path / "old", workers=2, redis_url=valkey_server.url) as old:
        tokens = old.sign_in_many(2)
        old.put("lib", [{"type": "UserV1", "id": USER_ID, "data": sample("UserV1")}])
        shared = {"redis": valkey_server.url, "partitions": "16"}  # and the folder, as of machines one place of keys
        with Load(old.port, tokens, old.entities_key) as load, Service(old.data_dir, factory, **shared) as new:
            client = Client(new.port, Authorization=f"Bearer {tokens[0]}")
            for _ in range(20):
                status, data = client.ask("GET", "/api/sessions")
                assert (status, len(json.loads(data))) == (200, 2)
            told = json.loads(old.command("upgrade", "--json").stdout)
            assert told["format"] == FORMAT
            assert {each["newestFormat"] for each in told["running"]} == {FORMAT, NEWER}
            current, older = finish(valkey_server.url)
            assert (current, len(older)) == (FORMAT, 2)
            served = sum(load.done.values())
            wait_until(lambda: load.failures or sum(load.done.values()) > served + 20, "the old version to serve on")
            load.stop()
            assert load.failures == []
            old.stop()
            forced = old.command("upgrade", "--finish", check=False)
            assert forced.returncode == 0, "an old command raises nothing that it does not know"
            assert len(client.ask("GET", "/api/sessions")[1]) > 2
            asyncio.run(raise_format(valkey_server.url))
            assert client.ask("GET", "/api/sessions")[0] == 200
            with pytest.raises(RuntimeError, match="upgrade the service"):
                old.start()
            assert client.ask("GET", "/api/sessions")[0] == 200


async def raise_format(url: str) -> None:
    """Raise the format, as five minutes after the old version's end, or with `--whoever-runs`."""
    store = await open_store(url)
    try:
        formats = Formats(store, NEWER)
        await formats.finish(time.time_ns() // 1000, whoever_runs=True)
        assert formats.current == NEWER
    finally:
        await store.close()
