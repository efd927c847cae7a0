"""`growth`: whether what one request costs stays the same as a user, a session or a library grows, at three sizes each.

Measured is CPU time of the store and of this process, which does what a worker does without HTTP. The smallest size is
the floor of each larger one: they are asked in turn, so that other work on the machine slows both.
The shapes:

- devices: users with so many living sessions, of which one acknowledges; each has one checkpoint.
- events: sessions with so many events, all acks but the first two, each in a partition of its own: a page of 100 of
  them in the middle, the states at instants all over them, and the session rebuilt. That folds every event, so there
  it is what one of them costs.
- entities: libraries with one owner and so many assets with random ids, the smallest in a store of its own, so that
  what a large store costs shows too; so many more are imported at its end.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from statistics import median
from typing import Final

import msgspec

from ledger import keys
from ledger.acks import Ack
from ledger.commands import OfferStream, RecordAcks
from ledger.entity_types import COMPLETE, mask_of
from ledger.positions import Position
from ops.bench import rebuild
from ops.bench.rig import assets, filling
from ops.bench.rig.cpu import cpu_s, store_pid
from ops.bench.rig.results import Bound, Comparison, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Scene, scene
from ops.commands.devices.creating import sign_in
from ops.opening.ledger import Opened
from projections.checking.rebuild import Rebuild
from projections.entities.catalog.ingest import ingest
from projections.history.event_pages import EventPages
from projections.history.state_at import fold_at

AT_LEAST: Final = 2 / 3
"""How much of the smallest size's rate a larger one must have."""
STATE_AT_MOST_MS: Final = 50.0
_LIBRARY: Final = "growth"
_PAGE: Final = 100
_TIMES: Final = 20
_CHUNK: Final = 1000


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure what grows with devices, events and entities."""
    return [
        *_of_devices(rounds, scale, progress),
        *_of_events(rounds, scale, progress),
        *_of_rows(rounds, scale, progress),
    ]


class _Spent:
    """CPU time of the store and of this process since it was made."""

    def __init__(self, found: Scene) -> None:
        self._pid = store_pid(found.url)
        self._store_s, self._own_s = cpu_s([self._pid]), time.process_time()

    def seconds(self) -> float:
        """Tell it in all."""
        return cpu_s([self._pid]) - self._store_s + time.process_time() - self._own_s


def _beside(
    what: str, of: str, small: int, large: int, rate: Callable[[int], float], rounds: int, progress: Progress
) -> Comparison:
    """Compare two sizes by how many are done in a second of CPU."""
    progress(f"{what} with {large:,} {of} beside {small:,}")
    floors, ours = alternate(rounds, lambda: rate(small), lambda: rate(large), progress)
    return Comparison(
        name=f"growth: {what}, {large:,} {of} (beside {small:,})",
        unit="/s of CPU",
        floor=floors,
        ours=ours,
        at_least=AT_LEAST,
        notes=(f"CPU of store and process: {1e6 / median(ours):,.0f} µs, beside {1e6 / median(floors):,.0f} µs",),
    )


def _of_devices(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    small, *larger = scale.growth_devices
    with scene() as found:
        first = {
            size: found.with_ledger(partial(_signed_in, found=found, devices=size)) for size in scale.growth_devices
        }

        def rate(size: int) -> float:
            return found.with_ledger(partial(_acks, found=found, sid=first[size], devices=size, scale=scale))

        return [_beside("an ack", "living devices of its user", small, size, rate, rounds, progress) for size in larger]


def _user(devices: int) -> str:
    return f"{_LIBRARY}-user-of-{devices}"


async def _signed_in(opened: Opened, found: Scene, devices: int) -> str:
    issued = [await sign_in(opened, found.settings, _user(devices), _LIBRARY) for _ in range(devices)]
    return issued[0].sid


async def _acks(opened: Opened, found: Scene, sid: str, devices: int, scale: Scale) -> float:
    ledger, user = opened.ledger, _user(devices)
    now_us = ledger.clock()
    await ledger.execute(user, sid, OfferStream(now_us, mask_of([assets.TYPE, COMPLETE])))

    async def ack(number: int) -> None:
        at = Position(now_us - 2 * scale.growth_measured + number, f"{number}")
        await ledger.execute(user, sid, RecordAcks((Ack(assets.TYPE, at),)))

    await ack(0)
    spent = _Spent(found)
    for number in range(scale.growth_measured):
        await ack(number + 1)
    return scale.growth_measured / spent.seconds()


def _of_events(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    small, *larger = scale.growth_events
    with scene() as found:
        progress(f"writing sessions of {', '.join(f'{size:,}' for size in scale.growth_events)} events")
        rebuild.fill_sessions(found, scale.growth_events)
        rebuild.rebuild(found, sum(scale.growth_events), len(scale.growth_events))
        at = {size: _At(number, size, found.settings.partitions) for number, size in enumerate(scale.growth_events)}

        def pages(size: int) -> float:
            return found.with_ledger(partial(_pages, found=found, at=at[size]))

        def folded(size: int) -> float:
            return found.with_ledger(partial(_rebuilt, found=found, at=at[size]))

        results: list[Result] = []
        for size in larger:
            of = "events of its session"
            results.append(_beside(f"a page of {_PAGE} events", of, small, size, pages, rounds, progress))
            few = min(rounds, rebuild.MAX_ROUNDS)
            results.append(_beside("an event in `rebuild --session`", of, small, size, folded, few, progress))
        states = [
            tuple(found.with_ledger(partial(_states, found=found, at=at[size])) for _ in range(rounds))
            for size in scale.growth_events
        ]
    for size, ms in zip(scale.growth_events, states, strict=True):
        name = f"growth: CPU of the state at an instant of a session of {size:,} events"
        base = median(states[0])
        results.append(Bound(name=name, unit="ms", value=median(ms), at_most=STATE_AT_MOST_MS, base=base, rounds=ms))
    return results


class _At(msgspec.Struct, frozen=True):
    """A session that was filled: its number, how many events it has, and how many partitions there are."""

    number: int
    events: int
    partitions: int

    @property
    def sid(self) -> str:
        """Its id."""
        return filling.sid(self.number)

    @property
    def partition(self) -> int:
        """Where it lies."""
        return keys.partition_of(filling.user(self.number), self.partitions)


async def _pages(opened: Opened, found: Scene, at: _At) -> float:
    past = EventPages(opened.store)

    async def page(number: int) -> None:
        found = await past.page(at.partition, at.sid, top_seq=at.events // 2 + _PAGE // 2 + number, count=_PAGE)
        assert len(found.entries) == _PAGE

    return 1 / await _each(found, page)


async def _states(opened: Opened, found: Scene, at: _At) -> float:
    past = EventPages(opened.store)

    async def state(number: int) -> None:
        seq = at.events - number * at.events // (_TIMES + 1)
        moment = await fold_at(past, at.partition, at.sid, filling.at_us(seq))
        assert moment.state.seq == seq

    return await _each(found, state) * 1e3


async def _each(found: Scene, work: Callable[[int], Awaitable[None]]) -> float:
    await work(0)
    spent = _Spent(found)
    for number in range(_TIMES):
        await work(number)
    return spent.seconds() / _TIMES


async def _rebuilt(opened: Opened, found: Scene, at: _At) -> float:
    made = Rebuild(opened.store, "growth")
    spent = _Spent(found)
    await made.session(at.partition, at.sid)
    assert (made.report.events, made.report.broken) == (at.events, 0)
    return at.events / spent.seconds()


def _of_rows(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    small, *larger = scale.growth_entities
    with scene() as alone, scene() as found:
        floor, growing = _Library(alone, _LIBRARY), _Library(found, _LIBRARY)
        floor.grow(small)
        results: list[Result] = []
        for size in larger:
            progress(f"importing up to {size:,} rows")
            growing.grow(size)
            found.settle()

            def rate(of: int) -> float:
                return (floor if of == small else growing).imported_per_s(scale.growth_measured)

            results.append(_beside("an imported row", "rows of its library", small, size, rate, rounds, progress))
        return results


class _Library:
    """A library with one owner that grows at its end."""

    def __init__(self, found: Scene, name: str) -> None:
        self._found, self._name, self._rows = found, name, 0

    def grow(self, rows: int) -> None:
        """Import until there are so many rows."""
        self.imported_per_s(rows - self._rows)

    def imported_per_s(self, rows: int) -> float:
        """Import so many more rows; tells how many are taken in a second of CPU."""
        start = self._rows
        self._rows += rows
        return self._found.with_ledger(partial(self._import, start=start, end=start + rows))

    async def _import(self, opened: Opened, start: int, end: int) -> float:
        async def chunks() -> AsyncIterator[bytes]:
            if not start:
                yield assets.owner()
            for at in range(start, end, _CHUNK):
                yield assets.ndjson(at, min(at + _CHUNK, end))

        spent = _Spent(self._found)
        await ingest(opened.catalog, self._name, chunks())
        return (end - start) / spent.seconds()
