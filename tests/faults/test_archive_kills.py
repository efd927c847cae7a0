"""Archivers killed or stopped at random points: nothing is lost, nothing is there twice, nothing half is seen."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ledger import keys
from ledger.log.reader import Entry
from ledger.log.whole import mark_new
from ledger.state import State
from ledger.store.interface import Store, open_store
from ops.settings.places import StoragePlace
from projections.archive.catalog import Archive
from projections.archive.objects import Objects
from projections.archive.segment import Segment
from tests.support.ledger.archives import PHONE, checked, everything, histories, length, past, stream
from tests.support.ledger.given import NOW, offered
from tests.support.ledger.ledgers import PARTITION, Log
from tests.support.processes.archiver import Archivers
from tests.support.stores.s3_server import ENVIRONMENT, S3Server

CHECKED: Final = 5
"""After every so many kills all is read again; what was lost once stays lost."""
LEASE_S: Final = 0.25
HOT: Final = 5
OPTIONS: Final = {"hot_events": HOT, "segment_events": 40, "lease_s": LEASE_S}


class Scene(NamedTuple):
    """A store, a place for segments, and archivers at both."""

    url: str
    place: StoragePlace
    archivers: Archivers
    others: Archivers


@pytest.fixture(params=["file-valkey", pytest.param("s3-redis7", marks=pytest.mark.soak)])
def scene(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    kind, server = request.param.split("-")
    url: str = request.getfixturevalue(f"{server}_url")
    with ExitStack() as stack:
        place = StoragePlace(url=f"file://{tmp_path / 'archive'}")
        if kind == "s3":
            s3: S3Server = request.getfixturevalue("s3")
            bucket = f"b{random.getrandbits(64):x}"
            s3.make_bucket(bucket)
            place = StoragePlace(url=f"s3://{bucket}/segments", endpoint=s3.endpoint, path_style=True)
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        archivers, others = (stack.enter_context(Archivers(url, place, PARTITION, ENVIRONMENT)) for _ in range(2))
        yield Scene(url, place, archivers, others)


async def grow(log: Log, state: State, dice: random.Random) -> tuple[State, list[Entry]]:
    """Let a device act; gives its state and what the stream holds since."""
    name = keys.stream(PARTITION)
    (last,) = await log.store.command("XREVRANGE", name, "+", "-", "COUNT", 1, key=name)
    for _ in range(dice.randrange(40, 130)):
        state = await log.append(state, offered("AssetV1", snapshot_us=NOW + state.seq * 1000), at_us=NOW + 10**8)
    return state, [entry for entry in await stream(log.store) if place_of(entry.id) > place_of(last[0].decode())]


def place_of(stream_id: str) -> tuple[int, ...]:
    return tuple(map(int, stream_id.split("-")))


async def assert_nothing_lost(store: Store, objects: Objects, expected: list[Entry]) -> None:
    """All events are there, once, for those who read now; and every object that is seen is whole."""
    found = Archive(store, objects)
    held = await everything(store, found)
    # Between the noting and the trimming the last segment's events are in the stream as well, for nobody to read.
    assert list({entry.id: entry for entry in held}.values()) == expected
    history = (await histories(store, found, [PHONE]))[PHONE]
    assert history == [entry for entry in expected if entry.recorded.sid == PHONE][::-1]
    report = await checked(found)
    assert report.differences == []


async def assert_nothing_half(objects: Objects, seen: set[str]) -> None:
    """Every object that is seen is whole, also one that does not count; each is looked at once."""
    for name in await Archive(None, objects).objects_of(PARTITION):  # type: ignore[arg-type]
        if str(name) not in seen:
            await (await Segment.open(objects, str(name))).check_frames()
            seen.add(str(name))


@pytest.mark.parametrize("kills", [6, pytest.param(30, marks=pytest.mark.soak)])
async def test_kills_lose_nothing_and_leave_nothing_half(scene: Scene, kills: int) -> None:
    dice = random.Random(30)
    store, objects = await open_store(scene.url), scene.place.open()
    await mark_new(store, PARTITION + 1)
    log = await past(store)
    expected = await stream(store)
    state = await log.load(PHONE)
    assert state is not None
    started = time.monotonic()
    scene.archivers.start(**OPTIONS)
    assert await asyncio.to_thread(scene.archivers.wait) == 0
    seen: set[str] = set()
    took_s, killed, halfway, kept_lease = time.monotonic() - started, 0, 0, False
    while killed < kills or (halfway <= kills / 3 and killed < 4 * kills):
        state, more = await grow(log, state, dice)
        expected += more
        pid = scene.archivers.start(**OPTIONS)
        await asyncio.sleep(dice.uniform(0, took_s) + (LEASE_S if kept_lease else 0))
        os.kill(pid, signal.SIGKILL)
        code = await asyncio.to_thread(scene.archivers.wait)
        assert code in (0, -signal.SIGKILL)
        kept_lease = code != 0
        killed += kept_lease
        halfway += kept_lease and await length(store) > HOT
        await assert_nothing_half(objects, seen)
        if kept_lease and killed % CHECKED == 0:
            await assert_nothing_lost(store, objects, expected)
    assert halfway > kills / 3, "most were killed before or while they worked"
    scene.archivers.start(**OPTIONS)
    assert await asyncio.to_thread(scene.archivers.wait) == 0
    assert len(await stream(store)) == HOT
    found = Archive(store, objects)
    assert await everything(store, found) == expected, "each once"
    assert [str(name) for name in await found.segments(PARTITION)] == [
        str(name) for name in await found.objects_of(PARTITION)
    ]
    await assert_nothing_lost(store, objects, expected)
    await store.close()


@pytest.mark.parametrize("stops", [2, pytest.param(8, marks=pytest.mark.soak)])
async def test_an_archiver_that_was_stopped_and_overtaken_changes_nothing(scene: Scene, stops: int) -> None:
    dice = random.Random(8)
    store, objects = await open_store(scene.url), scene.place.open()
    await mark_new(store, PARTITION + 1)
    log = await past(store)
    expected = await stream(store)
    state = await log.load(PHONE)
    assert state is not None
    codes: list[int] = []
    for stop in range(stops):
        state, more = await grow(log, state, dice)
        expected += more
        pid = scene.archivers.start(**{**OPTIONS, "segment_events": 7})
        await asyncio.sleep(dice.uniform(0, 0.4))
        os.kill(pid, signal.SIGSTOP)
        scene.others.start(**OPTIONS)
        assert await asyncio.to_thread(scene.others.wait) == 0, "it took over when the lease had run out"
        assert len(await stream(store)) == HOT, stop
        await assert_nothing_lost(store, objects, expected)
        os.kill(pid, signal.SIGCONT)
        codes.append(await asyncio.to_thread(scene.archivers.wait))
        await assert_nothing_lost(store, objects, expected)
    assert set(codes) <= {0, 1, 2}
    assert await everything(store, Archive(store, objects)) == expected
    await store.close()
