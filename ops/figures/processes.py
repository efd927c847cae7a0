"""The processes of a service as the system sees them, by the metrics library, and which build this is."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from endpoints.figures.printed import PREFIX


class Processes(Collector):
    """CPU, memory and descriptors of each process of a service, by what it does in it."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        """`pids` tells the processes by the value of their label."""
        self._pids = pids

    def collect(self) -> Iterator[Metric]:
        """Yield the library's metrics of a process, each with all processes; of one that is gone, none."""
        joined: dict[str, Metric] = {}
        for name, pid in self._pids().items():
            collector = ProcessCollector(namespace="syncledger", pid=partial(int, pid), registry=CollectorRegistry())
            for metric in collector.collect():
                if metric.name not in joined:
                    kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
                    joined[metric.name] = kind(metric.name, metric.documentation, labels=["process"])
                for sample in metric.samples:
                    joined[metric.name].add_metric([name], sample.value)  # type: ignore[attr-defined]
        yield from joined.values()


class Build(Collector):
    """Which version runs."""

    def collect(self) -> Iterator[Metric]:
        """Yield one metric, which is always 1."""
        build = GaugeMetricFamily(PREFIX + "build_info", "Which version runs; always 1.", labels=["version", "python"])
        build.add_metric([metadata.version("syncledger"), platform.python_version()], 1)
        yield build


def alone() -> Mapping[str, int]:
    """Tell the processes of a service that is this process alone."""
    return {"worker-0": os.getpid()}
