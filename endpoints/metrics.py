"""All figures for Prometheus: GET /metrics, with an API key of scope `metrics.read`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import groupby
from typing import Final

import falcon.asgi
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from endpoints.accounts.auth import presented
from endpoints.figures.printed import PREFIX, Gathered, metric_of
from endpoints.http.operations import KEY, Operation, Route, Text
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.errors import StoreUnavailable, Unavailable
from ledger.figures.families import Family
from projections.census.record import FAMILIES, Kept
from projections.counters import COUNTERS, Count

SCOPE: Final = "metrics.read"
REMEMBERED_S: Final = 3600.0
"""For how long a key that was admitted may read while the store does not tell: then the figures matter most."""
REMEMBERED: Final = 16

# The format for clients that ask for none; every scraper reads it.
_encode, CONTENT_TYPE = choose_encoder("")


class Counted(Collector):
    """The counters as they were read, in the words of the metrics library; it appends `_total` to their names."""

    def __init__(self, counts: Sequence[Count]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield one metric for each counter; without values where none could be read."""
        read = {name: list(values) for name, values in groupby(self._counts, key=lambda count: count.name)}
        for name, known in COUNTERS.items():
            metric = CounterMetricFamily(PREFIX + name, known.help, labels=[known.label] if known.label else [])
            for count in read.get(name, ()):
                metric.add_metric([count.label_value] if known.label else [], count.value)
            yield metric


class WholeLedger(Collector):
    """The figures of the whole ledger as they were read."""

    def __init__(self, read: Sequence[tuple[Family, list[float]]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield one metric for each family; without values where none could be read."""
        for family, numbers in self._read:
            yield metric_of(family, numbers)


class Metrics:
    """All figures: of this service's workers as they count, and what is kept of the whole ledger in the store."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._kept = Kept(services.ledger.store)
        self._admitted_s: dict[bytes, float] = {}

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._admit(req)
        registry = CollectorRegistry()
        registry.register(Gathered(self._services.figures))
        for collector in self._services.figures.collectors:
            registry.register(collector)
        try:
            counts, whole = await self._services.counters.all(), await self._kept.read()
        except Unavailable:  # what this service counted itself tells of that
            counts, whole = [], [(family._replace(values=()), []) for family in FAMILIES]
        registry.register(Counted(counts))
        registry.register(WholeLedger(whole))
        resp.content_type = CONTENT_TYPE
        resp.set_header("cache-control", "no-store")
        resp.data = _encode(registry)

    async def _admit(self, req: Request) -> None:
        """Admit a key of the scope; one that was admitted lately also while the store does not tell."""
        digest, now_s = sha256(presented(req).value.encode()).digest(), time.monotonic()
        try:
            await self._services.auth.key(req, SCOPE)
        except StoreUnavailable:
            if now_s - self._admitted_s.get(digest, -REMEMBERED_S) >= REMEMBERED_S:
                raise
            return
        except Exception:  # it was taken away: not while the store is away either
            self._admitted_s.pop(digest, None)
            raise
        self._admitted_s.pop(digest, None)
        self._admitted_s[digest] = now_s
        while len(self._admitted_s) > REMEMBERED:
            del self._admitted_s[next(iter(self._admitted_s))]


def routes(services: Services) -> Iterator[Route]:
    """List the one route, at the root as scrapers expect it."""
    lines = Text("text/plain", "Metrics in the text format of Prometheus")
    operation = Operation("GET", "getMetrics", "Tell what was counted", {200: lines}, KEY)
    yield Route("/metrics", Metrics(services), (operation,))
