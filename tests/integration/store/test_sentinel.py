"""A primary that Sentinels know: found, followed through failovers under load, and by whom it cannot be found."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from ledger.commands import CreateSession
from ledger.errors import LayoutError, StoreUnavailable
from ledger.log.replicas import Replicas
from ledger.log.service import Ledger
from ledger.log.whole import mark_new
from ledger.store.addresses import with_sentinel_password
from ledger.store.interface import Store, open_store
from ledger.store.standalone import StandaloneStore
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.stores.replicated import binary_of
from tests.support.stores.sentinels import Sentinels
from tests.support.stores.servers import free_port, wait_until

KEY = b"{p1}:a"


async def until_it_works(store: Store, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            await store.command("SET", KEY, "1", key=KEY)
        except StoreUnavailable:
            assert time.monotonic() < deadline, "the store did not come back"
            await asyncio.sleep(0.05)
        else:
            return


@pytest.mark.parametrize("kind", ["redis7", pytest.param("valkey", marks=pytest.mark.soak)])
async def test_a_failover_is_followed_and_sentinels_may_be_away(tmp_path: Path, kind: str) -> None:
    with Sentinels(binary_of(kind), tmp_path, replicas=1, password="p@ss/w") as sentinels:
        url = with_sentinel_password(sentinels.url, "p@ss/w")
        store = await open_store(url, timeout_s=2.0)
        assert isinstance(store, StandaloneStore)
        await until_it_works(store)
        with pytest.raises(StoreUnavailable) as caught:
            await open_store(sentinels.url, timeout_s=1.0)
        assert "Authentication" in str(caught.value)
        assert "p@ss/w" not in str(caught.value)
        await asyncio.to_thread(sentinels.fail_over)
        await until_it_works(store)
        assert sentinels.primary.command("GET", KEY) == b"1"
        sentinels.processes[0].kill()
        sentinels.processes[0].wait()
        other = await open_store(url, timeout_s=2.0)
        await until_it_works(other)
        await other.close()
        await store.close()


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["redis7", "valkey"])
async def test_under_load_no_confirmed_session_is_lost_when_primaries_end_hang_and_are_exchanged(
    tmp_path: Path, kind: str
) -> None:
    """Sign-ins are answered when both replicas have them; the primary is exchanged in order, killed, and stopped.

    With one of two it would not hold: the other may become the primary, while the one still follows the old one.
    """
    with Sentinels(binary_of(kind), tmp_path) as sentinels:
        store = await open_store(sentinels.url, timeout_s=2.0)
        await mark_new(store, 4)
        replicas = await Replicas.open(sentinels.url, 2, wait_s=1.0, timeout_s=2.0)
        ledger = Ledger(store, 4, Clock(), replicas=replicas)
        answered: list[tuple[str, str]] = []
        longest_s, failed, over = 0.0, 0, False

        async def phone(number: int) -> None:
            nonlocal longest_s, failed
            turn = 0
            while not over:
                turn += 1
                user, began_s = f"user{number}", time.monotonic()
                sid = sid_of(f"{number} {turn}")
                try:
                    await ledger.execute(user, sid, CreateSession(user, "lib"))
                    answered.append((user, sid))
                except StoreUnavailable:
                    failed += 1
                longest_s = max(longest_s, time.monotonic() - began_s)
                await asyncio.sleep(0.02)

        async def goes_on() -> None:
            before, deadline_s = len(answered), time.monotonic() + 60
            while len(answered) < before + 20:
                assert time.monotonic() < deadline_s, "nothing is answered any more"
                await asyncio.sleep(0.05)

        phones = [asyncio.create_task(phone(number)) for number in range(8)]
        await goes_on()
        await asyncio.to_thread(sentinels.fail_over)
        await goes_on()
        for end in ("kill", "pause"):
            await asyncio.to_thread(wait_until, sentinels.ready, "all to be in step", 90)
            primary = sentinels.primary
            getattr(primary, end)()
            await asyncio.to_thread(sentinels.wait_for_another_than, primary)
            if end == "kill":
                await asyncio.to_thread(primary.start)
            else:
                primary.resume()
            await goes_on()
        over = True
        await asyncio.gather(*phones)
        assert failed
        assert longest_s < 5, "a request waited longer than it may"
        lost = [sid for user, sid in answered if await ledger.look(ledger.partition_of(user), sid) is None]
        assert lost == []
        await replicas.close()
        await store.close()


async def test_without_a_sentinel_or_a_name_it_is_told() -> None:
    port = free_port()
    with pytest.raises(StoreUnavailable, match="no Sentinel names a primary for 'mymaster'") as caught:
        await open_store(f"redis+sentinel://:hidden@127.0.0.1:{port}/mymaster?sentinel_password=secret", timeout_s=1.0)
    assert str(caught.value).endswith(f"127.0.0.1:{port} does not answer (network:ConnectionError)")
    assert "hidden" not in str(caught.value)
    assert "secret" not in str(caught.value)
    for url in (f"redis+sentinel://127.0.0.1:{port}", f"redis+sentinel://127.0.0.1:{port}/name/one"):
        with pytest.raises(LayoutError, match="the name of the primary"):
            await open_store(url)
    with pytest.raises(LayoutError, match="several hosts"):
        await open_store("redis://a:1,b:2")
