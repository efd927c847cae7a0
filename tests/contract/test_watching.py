"""Who asks a source that tells nothing by itself: when, for whom, and that nothing is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from ledger.errors import StoreUnavailable
from ledger.log.service import Ledger
from ledger.log.store_check import open_layout
from ledger.store.cluster import ClusterStore
from ledger.store.interface import open_store
from ledger.store.standalone import StandaloneStore
from projections.entities.gumnut.source import GumnutSource
from projections.entities.source import SourceUnavailable
from projections.live.feeds import Feeds
from projections.live.signals import Library, Place, Signals
from projections.live.watching import BACK_US, Watching
from tests.support.gumnut.phone import A, Phone, at_gumnut
from tests.support.gumnut.server import GumnutServer

NOW_US = 1_700_000_000_000_000


class Written:
    """A source whose answers the test gives: which libraries have rows, by their instants."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.horizon_us = NOW_US
        self.asked: list[tuple[list[str], int, int]] = []
        self.away = False

    async def horizon(self, library: str) -> int:
        if self.away:
            raise SourceUnavailable("away")
        return self.horizon_us

    async def written(self, libraries: Sequence[str], since: int, before: int) -> list[str]:
        self.asked.append((list(libraries), since, before))
        return [library for library in libraries if since <= self.rows.get(library, 0) < before]


class Machine(NamedTuple):
    """A machine that hears, and takes turns."""

    signals: Signals
    watching: Watching
    told: list[str]


class Ground:
    """A ledger on a store, a source, and machines; the clock is the test's."""

    def __init__(self, store: StandaloneStore | ClusterStore) -> None:
        self.store = store
        self.now_us = NOW_US
        self.source = Written()
        self.machines: list[Machine] = []

    def machine(self) -> Machine:
        signals, told = Signals(self.store, 4), list[str]()

        def tell(place: Place, _: str) -> None:
            assert isinstance(place, Library)
            told.append(place.library)

        signals.listen(tell, lambda place: None)
        ledger = Ledger(self.store, 4, lambda: self.now_us)
        self.machines.append(Machine(signals, Watching(ledger, self.source, signals), told))
        return self.machines[-1]

    async def second(self) -> None:
        """Let a second pass and all machines take their turn."""
        self.now_us += 1_000_000
        self.source.horizon_us = self.now_us
        for machine in self.machines:
            await machine.watching.turn()
        await asyncio.sleep(0.05)


@pytest.fixture
async def ground(store_url: str) -> AsyncIterator[Ground]:
    store = await open_store(store_url)
    assert isinstance(store, StandaloneStore | ClusterStore)
    await open_layout(store, 4, NOW_US)
    ground = Ground(store)
    yield ground
    for machine in ground.machines:
        await machine.signals.close()
    await store.close()


async def hears(machine: Machine, *libraries: str) -> None:
    for library in libraries:
        machine.signals.join(Library(library))
    async with asyncio.timeout(20):
        while not all(machine.signals.hears(Library(library)) for library in libraries):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_one_question_a_second_for_all_and_none_without_listeners(ground: Ground) -> None:
    first, second = ground.machine(), ground.machine()
    await ground.second()
    assert ground.source.asked == [], "nobody listens"
    await hears(first, "ann", "bob")
    await hears(second, "bob", "cleo d.-é")
    ground.source.rows = {"bob": ground.now_us, "stranger": ground.now_us}
    await ground.second()
    ((libraries, since, before),) = ground.source.asked
    assert libraries == ["ann", "bob", "cleo d.-é"]
    assert (since, before) == (ground.now_us - BACK_US, ground.now_us)
    assert (first.told, second.told) == (["bob"], ["bob"]), "on all machines"
    await ground.second()
    assert ground.source.asked[1][1] == before, "from where the last question ended"
    assert (first.told, second.told) == (["bob"], ["bob"]), "and it is told once"


async def test_what_was_written_while_the_source_was_away_is_told_of(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = ground.machine()
    await hears(machine, "ann")
    await ground.second()
    ground.source.away = True
    ground.source.rows = {"ann": ground.now_us + 1}
    await ground.second()
    await ground.second()
    assert machine.told == []
    ground.source.away = False
    with monkeypatch.context() as patch:

        async def lost(libraries: object) -> None:
            raise StoreUnavailable("lost", maybe_done=True)

        patch.setattr(machine.signals, "tell", lost)
        with pytest.raises(StoreUnavailable):
            await ground.second()
    await ground.second()
    assert machine.told == ["ann"], "what could not be told is asked for again"


@pytest.fixture
def gumnut() -> Iterator[GumnutServer]:
    with GumnutServer().running() as server:
        yield server


async def test_a_feed_at_gumnut_tells_what_is_new_once(valkey_url: str, gumnut: GumnutServer, tmp_path: Path) -> None:
    store = await open_store(valkey_url)
    async with at_gumnut(store, gumnut) as at:
        phone = await Phone.sign_in(at, gumnut, tmp_path / "phone.db")
        told: list[str] = []
        here = {A: ("ann", phone.device.sid)}
        source = phone.service.services.source
        assert isinstance(source, GumnutSource)
        feeds = Feeds(source, lambda: here, told.append, every_s=0.0)
        await feeds.turn()
        await feeds.turn()
        assert told == []
        gumnut.photos.now = datetime.now(UTC)
        gumnut.photos.add_asset(A)
        await feeds.turn()
        await feeds.turn()
        assert told == [A]
        here.clear()
        await feeds.turn()
        assert feeds._newest == {}, "nothing is kept of libraries that nobody syncs here"
    await store.close()
