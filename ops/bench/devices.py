"""`devices`: what a page of all devices and a search take of the service's CPU, and the plot of a long history."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib import resources
from statistics import median
from time import process_time
from typing import Any, Final

from redis import Redis

from ledger import keys
from ops.bench import rebuild
from ops.bench.rig import filling
from ops.bench.rig.results import Bound, Result
from ops.bench.rig.rounds import Progress
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Scene, scene
from ops.opening.ledger import Opened
from projections.devices.health import health
from projections.devices.listing import Asked, Devices
from projections.devices.plot import MOST_BUCKETS, plot

LIBRARY: Final = "photos"
OF_A_USER: Final = 4
ASSETS: Final = 2_000
AT_MOST_MS: Final = 100
ONE_AT_MOST_MS: Final = 1000
_BEGAN_MS: Final = 1_700_000_000_000
_BATCH: Final = 500
_DEEP_PAGES: Final = 20


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Fill an index with devices, ask for pages of it; then plot the history of one device."""
    results: list[Result] = []
    with scene() as found:
        found.load_assets(LIBRARY, ASSETS)
        found.with_ledger(_nothing)
        progress(f"writing {scale.listed_devices:,} devices")
        some = _fill(found, scale.listed_devices)
        found.settle()
        results += found.with_ledger(lambda opened: _lists(opened, some, scale.listed_devices, rounds, progress))
    with scene(partitions=1) as found:
        progress(f"writing {scale.plotted_events:,} events")
        rebuild.fill(found, 1, scale.plotted_events)
        rebuild.rebuild(found, scale.plotted_events, 1)
        results += found.with_ledger(lambda opened: _of_one(opened, scale.plotted_events, rounds, progress))
    return results


def _fill(found: Scene, count: int) -> tuple[str, str]:
    """Put devices into the store; gives one of their users, and its first device."""
    text = resources.files("ops.bench.rig").joinpath("many_devices.lua").read_text("utf-8")
    with Redis.from_url(found.url) as redis:
        redis.config_set("appendonly", "no")  # what is measured reads only
        sha = redis.script_load(text)
        pipe = redis.pipeline(transaction=False)
        for number in range(count // OF_A_USER):
            user = f"user-{number}"
            partition = keys.partition_of(user, found.settings.partitions)
            sids = [sid_of(user, each) for each in range(OF_A_USER)]
            names = [
                keys.order(partition),
                keys.sids(partition),
                keys.activity(partition),
                keys.devices(partition, user),
            ]
            for sid in sids:
                names += (keys.session(partition, sid), keys.checkpoints(partition, sid))
            pipe.evalsha(sha, len(names), *names, user, LIBRARY, _BEGAN_MS, *sids)
            if number % _BATCH == 0:
                pipe.execute()
        pipe.execute()
    user = f"user-{count // OF_A_USER // 2}"
    return user, sid_of(user, 0)


def sid_of(user: str, number: int) -> str:
    """Tell the id of a user's device."""
    return sha256(f"{user} {number}".encode()).hexdigest()


async def _lists(opened: Opened, some: tuple[str, str], count: int, rounds: int, progress: Progress) -> list[Result]:
    user, sid = some
    devices = Devices(opened.ledger, opened.past, opened.catalog)

    async def deep() -> Any:
        page = await devices.page(Asked(), None)
        for _ in range(_DEEP_PAGES - 1):
            page = await devices.page(Asked(), page.next)
        return page

    async def seen() -> Any:
        return await devices.page(Asked(order="seen"))

    async def of_user() -> Any:
        return await devices.page(Asked(user=user, ended=True))

    async def by_id() -> Any:
        return await devices.page(Asked(session=sid[:12], ended=True))

    asked: dict[str, tuple[Callable[[], Awaitable[Any]], int]] = {
        "page of 50 devices, who needs help first": (lambda: devices.page(Asked()), 1),
        f"each of {_DEEP_PAGES} such pages, one behind the other": (deep, _DEEP_PAGES),
        "page of 50 devices, heard of last first": (seen, 1),
        "devices of a user": (of_user, 1),
        "devices by the start of an id": (by_id, 1),
    }
    results: list[Result] = []
    for name, (ask, times) in asked.items():
        page = await ask()
        spent = [await _cpu_ms(ask, times) for _ in range(3 * rounds)]
        progress(f"{name}: {median(spent):.1f} ms")
        found = f"{len(page.devices)} devices, {sum(one.behind is not None for one in page.devices)} counted"
        results.append(
            Bound(
                name=f"{name}, of {count:,}",
                unit="ms",
                value=median(spent),
                at_most=AT_MOST_MS,
                notes=(found,),
                rounds=tuple(spent),
            )
        )
    return results


async def _of_one(opened: Opened, events: int, rounds: int, progress: Progress) -> list[Result]:
    sid = filling.sid(0)

    async def plotted() -> Any:
        return await plot(opened.past, 0, sid, [], None, None, MOST_BUCKETS)

    async def looked() -> Any:
        return await health(opened.ledger, opened.past, opened.catalog, 0, sid)

    asked: dict[str, Callable[[], Awaitable[Any]]] = {f"plot in {MOST_BUCKETS} buckets": plotted, "health": looked}
    results: list[Result] = []
    for name, ask in asked.items():
        await ask()
        spent = [await _cpu_ms(ask, 1) for _ in range(rounds)]
        progress(f"{name}: {median(spent):.0f} ms")
        what = f"{name} of a device with {events:,} events"
        results.append(Bound(name=what, unit="ms", value=median(spent), at_most=ONE_AT_MOST_MS, rounds=tuple(spent)))
    return results


async def _cpu_ms(ask: Callable[[], Awaitable[Any]], times: int) -> float:
    """Tell what asking takes of this process' CPU, of each of so many."""
    before = process_time()
    await ask()
    return (process_time() - before) * 1000 / times


async def _nothing(_: Opened) -> None:
    """Have the ledger begun."""
