"""`growth`: whether what one request costs stays the same as a user, a session or a library grows, at three sizes each.

Measured is CPU time of the store and of this process, which does what a worker does without HTTP. The shapes:

- devices: one user with so many living sessions, of which one acknowledges; each has one checkpoint.
- events: one session of one partition with so many events, all acks but the first two; its state at an instant near its
  end, folded from its events, and a page of 100 of them in the middle.
- entities: one library with one owner and so many assets with random ids; so many more are imported at its end.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final

from ledger.acks import Ack
from ledger.commands import OfferStream, RecordAcks
from ledger.entity_types import COMPLETE, mask_of
from ledger.positions import Position
from ops.bench import rebuild
from ops.bench.rig import assets, filling
from ops.bench.rig.cpu import cpu_s, store_pid
from ops.bench.rig.results import Bound, Result
from ops.bench.rig.rounds import Progress
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Scene, scene
from ops.commands.devices.creating import sign_in
from ops.opening.ledger import Opened
from projections.entities.catalog.ingest import ingest
from projections.history.event_pages import EventPages
from projections.history.state_at import fold_at

AT_MOST: Final = 1.5
"""By how much the largest size may cost more than the smallest."""
STATE_AT_MOST_MS: Final = 50.0
_LIBRARY: Final = "growth"
_PAGE: Final = 100
_TIMES: Final = 20


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure each size once, of what is done many times."""
    acks = _Costs("an ack", "living devices of its user", AT_MOST)
    for devices in scale.growth_devices:
        with scene() as found:
            us = found.with_ledger(partial(_acks, found=found, devices=devices, scale=scale))
            acks.note(devices, us, progress)
    states = _Costs("the state at an instant", "events of its session", None)
    pages = _Costs(f"a page of {_PAGE} events", "events of its session", AT_MOST)
    for events in scale.growth_events:
        with scene(partitions=1) as found:
            rebuild.fill(found, 1, events)
            rebuild.rebuild(found, events, 1)
            state_us, page_us = found.with_ledger(partial(_past, found=found, events=events))
            states.note(events, state_us, progress)
            pages.note(events, page_us, progress)
    rows = _Costs("an imported row", "rows of its library", AT_MOST)
    with scene() as found:
        at = 0
        for size in scale.growth_entities:
            last = size - scale.growth_measured
            found.with_ledger(partial(_import, start=at, end=last))
            found.settle()
            rows.note(size, found.with_ledger(partial(_rows, found=found, start=last, end=size)), progress)
            at = size
    state = Bound(
        name=f"growth: CPU of the state at an instant of a session of {scale.growth_events[-1]:,} events",
        unit="ms",
        value=states.last_us / 1e3,
        at_most=STATE_AT_MOST_MS,
        base=states.first_us / 1e3,
    )
    return [acks.result(), state, pages.result(), rows.result()]


class _Costs:
    """What one thing costs at each size."""

    def __init__(self, what: str, of: str, at_most: float | None) -> None:
        self._what, self._of, self._at_most = what, of, at_most
        self._found: list[tuple[int, float]] = []

    def note(self, size: int, us: float, progress: Progress) -> None:
        """Note the CPU time at one size."""
        self._found.append((size, us))
        progress(f"{self._what}: {us:.0f} µs of CPU with {size:,} {self._of}")

    @property
    def first_us(self) -> float:
        """The cost at the smallest size."""
        return self._found[0][1]

    @property
    def last_us(self) -> float:
        """The cost at the largest size."""
        return self._found[-1][1]

    def result(self) -> Bound:
        """Compare the largest size with the smallest."""
        told = ", ".join(f"{us:.0f} µs at {size:,}" for size, us in self._found)
        sizes = f"{self._found[0][0]:,} to {self._found[-1][0]:,}"
        return Bound(
            name=f"growth: CPU of {self._what} from {sizes} {self._of}",
            unit="times",
            value=self.last_us / self.first_us,
            at_most=self._at_most or AT_MOST,
            notes=(f"CPU of store and process: {told}",),
        )


class _Spent:
    """CPU time of the store and of this process since it was made."""

    def __init__(self, found: Scene) -> None:
        self._pid = store_pid(found.url)
        self._store_s, self._own_s = cpu_s([self._pid]), time.process_time()

    def us(self, times: int) -> float:
        """Tell it for each of so many times."""
        return (cpu_s([self._pid]) - self._store_s + time.process_time() - self._own_s) / times * 1e6


async def _acks(opened: Opened, found: Scene, devices: int, scale: Scale) -> float:
    user = "growth-user"
    issued = [await sign_in(opened, found.settings, user, _LIBRARY) for _ in range(devices)]
    ledger, sid = opened.ledger, issued[0].sid
    now_us = ledger.clock()
    await ledger.execute(user, sid, OfferStream(now_us, mask_of([assets.TYPE, COMPLETE])))

    async def ack(number: int) -> None:
        at = Position(now_us - scale.growth_measured - 200 + number, f"{number}")
        await ledger.execute(user, sid, RecordAcks((Ack(assets.TYPE, at),)))

    for number in range(100):
        await ack(number)
    spent = _Spent(found)
    for number in range(100, 100 + scale.growth_measured):
        await ack(number)
    return spent.us(scale.growth_measured)


async def _past(opened: Opened, found: Scene, events: int) -> tuple[float, float]:
    past, sid = EventPages(opened.store), filling.sid(0)
    last = int(filling.stream_id(0, events).partition("-")[0]) * 1000

    async def state(number: int) -> None:
        moment = await fold_at(past, 0, sid, last - number * 1000)
        assert moment.state.seq == events - number

    async def page(number: int) -> None:
        await past.page(0, sid, top_seq=events // 2 + _PAGE // 2 + number, count=_PAGE)

    return await _each(found, state), await _each(found, page)


async def _each(found: Scene, work: Callable[[int], Awaitable[None]]) -> float:
    await work(0)
    spent = _Spent(found)
    for number in range(_TIMES):
        await work(number)
    return spent.us(_TIMES)


async def _import(opened: Opened, start: int, end: int) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        if not start:
            yield assets.owner()
        for at in range(start, end, 1000):
            yield assets.ndjson(at, min(at + 1000, end))

    await ingest(opened.catalog, _LIBRARY, chunks())


async def _rows(opened: Opened, found: Scene, start: int, end: int) -> float:
    spent = _Spent(found)
    await _import(opened, start, end)
    return spent.us(end - start)
