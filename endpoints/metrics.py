"""What was counted, for Prometheus: GET /metrics, with an API key of scope `metrics.read`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

import falcon.asgi
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from endpoints.http.operations import KEY, Operation, Route, Text
from endpoints.http.request import Request
from endpoints.services import Services
from projections.counters import COUNTERS, Count

PREFIX: Final = "syncledger_"
SCOPE: Final = "metrics.read"

# The format for clients that ask for none; every scraper reads it.
_encode, CONTENT_TYPE = choose_encoder("")


class Counted(Collector):
    """The counters as they were read, in the words of the metrics library; it appends `_total` to their names."""

    def __init__(self, counts: Sequence[Count]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield one metric for each counter."""
        for name, values in groupby(self._counts, key=lambda count: count.name):
            known = COUNTERS[name]
            metric = CounterMetricFamily(PREFIX + name, known.help, labels=[known.label] if known.label else [])
            for count in values:
                metric.add_metric([count.label_value] if known.label else [], count.value)
            yield metric


class Metrics:
    """All counters."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._services.auth.key(req, SCOPE)
        registry = CollectorRegistry()
        registry.register(Counted(await self._services.counters.all()))
        resp.content_type = CONTENT_TYPE
        resp.set_header("cache-control", "no-store")
        resp.data = _encode(registry)


def routes(services: Services) -> Iterator[Route]:
    """List the one route, at the root as scrapers expect it."""
    lines = Text("text/plain", "Metrics in the text format of Prometheus")
    operation = Operation("GET", "getMetrics", "Tell what was counted", {200: lines}, KEY)
    yield Route("/metrics", Metrics(services), (operation,))
