"""Counts over time: what a worker counted since the last time, and rings that keep so much and no more."""

from __future__ import annotations

from random import Random

import pytest

from endpoints.figures.of_http import HttpFigures
from endpoints.figures.rates import WorkerRates
from endpoints.figures.summed import Summed
from endpoints.figures.worker import WorkerFigures
from ledger import keys
from projections.census import rates
from projections.census.rates import MOST_SLOTS, NAMES, SPANS_S
from tests.support.stores.fake_store import FakeStore

SECOND_US = 1_000_000
NOW_US = 1_790_000_003 * SECOND_US
ONE = [1] * len(NAMES)


def test_a_worker_tells_what_it_counted_since_the_last_time() -> None:
    figures = WorkerFigures()
    http = HttpFigures([("POST", "/api/sync/ack")])
    figures.take(http)
    worker = WorkerRates(figures)
    assert not any(worker.taken())
    http.answered("POST", "/api/sync/ack", "204 No Content", 0.0)
    http.answered("POST", "/api/sync/ack", "503 Service Unavailable", 0.0)
    figures.log.add("events_total", "acks_recorded", by=3)
    figures.log.add("events_total", "checkpoints_cleared")
    figures.log.add("acks_total", "moved", by=5)
    for how in ("completed", "gone", "stalled", "broken", "refused", "ended", "reset"):
        figures.streams.add("streams_total", how)
    figures.streams.sent(7, 100)
    counted = worker.taken()
    assert {name: count for name, count in zip(NAMES, counted, strict=True) if count} == {
        "events": 4, "acks": 3, "moved": 5, "resets": 1, "streams": 7, "failed": 2, "left": 2, "rows": 7,
        "requests": 2, "errors": 1,
    }  # fmt: skip
    assert not any(worker.taken())
    worker.give_back(counted)
    assert worker.taken() == counted


def test_percentiles_are_the_bounds_of_their_classes() -> None:
    figures = WorkerFigures()
    for seconds in [0.0004] * 90 + [0.004] * 9 + [99.0]:
        figures.log.appends.note(seconds)
    by_what = {one.what: one for one in Summed(figures).latencies()}
    found = by_what["append"]
    assert (found.count, found.p50, found.p90, found.p99) == (100, 0.0005, 0.0005, 0.005)
    figures.log.appends.note(99.0)
    assert {one.what: one for one in Summed(figures).latencies()}["append"].p99 is None, "beyond the last bound"
    assert by_what["ack"].count == 0


async def test_the_rings_keep_so_many_slots_however_long_it_goes_on() -> None:
    store = FakeStore()
    for hour in range(60):
        for step_s in (0, 7, 61, 1801):
            await rates.add(store, ONE, NOW_US + (hour * 3600 + step_s) * SECOND_US)
    for step_s in range(0, 3700, 5):
        await rates.add(store, ONE, NOW_US + (100 * 3600 + step_s) * SECOND_US)
    fields = await store.command("HLEN", keys.rates(), key=keys.rates())
    assert fields <= sum(span_s // length_s for length_s, span_s in SPANS_S.items())
    value = await store.command("HVALS", keys.rates(), key=keys.rates())
    assert max(map(len, value)) < 400


@pytest.mark.parametrize("most", [1, 10, 60, MOST_SLOTS])
async def test_what_is_read_is_what_was_counted_in_that_time(most: int) -> None:
    store, dice = FakeStore(), Random(most)
    counted = sorted(NOW_US - dice.randrange(100_000) * SECOND_US for _ in range(300))
    for at_us in counted:
        await rates.add(store, ONE, at_us)
    for span_s in (60, 600, 3500, 7200, 86_000):
        found = await rates.read(store, NOW_US - span_s * SECOND_US, NOW_US, NOW_US, most)
        assert len(found.rates) <= most
        end_us = found.since_us + len(found.rates) * found.length_s * SECOND_US
        assert end_us > NOW_US
        wanted = sum(found.since_us <= at_us < end_us for at_us in counted)
        assert sum(rate.events for rate in found.rates) == wanted
        assert abs(found.since_us - (NOW_US - span_s * SECOND_US)) <= found.length_s * SECOND_US


async def test_a_slot_that_cannot_be_read_counts_for_nothing() -> None:
    store = FakeStore()
    await rates.add(store, ONE, NOW_US)
    for field in await store.command("HKEYS", keys.rates(), key=keys.rates()):
        await store.command("HSET", keys.rates(), field, "x y", key=keys.rates())
    found = await rates.read(store, NOW_US - 600 * SECOND_US, NOW_US, NOW_US, 60)
    assert sum(rate.events for rate in found.rates) == 0
