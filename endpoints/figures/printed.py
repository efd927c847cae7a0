"""Figures in the words of the metrics library, which prints them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from endpoints.figures.worker import WorkerFigures
from ledger.figures.families import Family

PREFIX: Final = "syncledger_"


class Gathered(Collector):
    """The figures of all workers of a service, added up."""

    def __init__(self, figures: WorkerFigures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield one metric for each family."""
        workers = self._figures.all_workers()
        for family, at in self._figures.families():
            yield metric_of(family, joined(family, at, workers))


def joined(family: Family, at: int, workers: Sequence[Sequence[float]]) -> list[float]:
    """Make one list of numbers of a family out of those of several workers."""
    end = at + family.width * len(family.values)
    join = max if family.join == "max" else sum
    return [join(numbers) for numbers in zip(*(worker[at:end] for worker in workers), strict=True)]


def metric_of(family: Family, numbers: Sequence[float]) -> Metric:
    """Say a family's numbers, child after child, in the words of the metrics library."""
    name, width = PREFIX + family.name, family.width
    children = [
        (labels, numbers[index * width : (index + 1) * width])
        for index, labels in enumerate(family.values)
        if not family.sparse or any(numbers[index * width : (index + 1) * width])
    ]
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
        bounds = [*map(floatToGoString, family.bounds), "+Inf"]
        for labels, (*buckets, total) in children:
            cumulative = list(accumulate(buckets))
            histogram.add_metric(list(labels), list(zip(bounds, cumulative, strict=True)), total)
        return histogram
    metric = (CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily)(
        name, family.help, labels=family.labels
    )
    for labels, (number,) in children:
        metric.add_metric(list(labels), number)
    return metric
