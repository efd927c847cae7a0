"""Figures in plain lists: counted, shared by workers, and printed as the metrics library reads them."""

from __future__ import annotations

from array import array
from time import perf_counter

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from endpoints.figures.of_http import HttpFigures
from endpoints.figures.printed import Gathered
from endpoints.figures.worker import WorkerFigures
from ledger.figures.families import Family, Part
from ops.figures.shared import MOST, SharedFigures

TIMES = Family("took_seconds", "histogram", "How long.", bounds=(1.0, 2.0))
DONE = Family("done_total", "counter", "What was done.", ("what",), [("a",), ("b",)])
NOW = Family("now", "gauge", "What is.")
WORST = Family("worst", "gauge", "What is worst.", join="max")


class Counting(WorkerFigures):
    """A worker that counts one part alone."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Part(TIMES, DONE, NOW, WORST)
        self.parts = [self.part]


def printed(*collectors: Collector) -> dict[str, Metric]:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return {metric.name: metric for metric in text_string_to_metric_families(generate_latest(registry).decode())}


def value(metric: Metric, suffix: str = "", **labels: str) -> float:
    (found,) = [s.value for s in metric.samples if s.name == metric.name + suffix and s.labels == labels]
    return found


def test_a_histogram_counts_what_is_at_its_bound_below_it() -> None:
    worker = Counting()
    times = worker.part.times("took_seconds")
    for amount in (0.5, 1.0, 1.5, 7.0):
        times.note(amount)
    metric = printed(Gathered(worker))["syncledger_took_seconds"]
    assert [value(metric, "_bucket", le=le) for le in ("1.0", "2.0", "+Inf")] == [2, 3, 4]
    assert (value(metric, "_count"), value(metric, "_sum")) == (4, 10)


def test_figures_of_workers_are_joined_and_those_of_the_ended_stay() -> None:
    shared = SharedFigures(3)
    workers = [Counting() for _ in range(3)]
    shared.lay_out(list(workers[0].families()))
    for slot, worker in enumerate(workers):
        shared.begin(slot)
        worker.part.add("done_total", "a", by=slot + 1)
        worker.part.set("now", to=10)
        worker.part.set("worst", to=slot)
        worker.part.times("took_seconds").note(1)
        shared.hand_over(slot, 100 + slot, worker.numbers())
    workers[0].all_workers = lambda: shared.all_workers(0, workers[0].numbers())

    def read() -> tuple[float, ...]:
        found = printed(Gathered(workers[0]), shared)
        return (
            value(found["syncledger_done"], "_total", what="a"),
            value(found["syncledger_now"]),
            value(found["syncledger_worst"]),
            value(found["syncledger_took_seconds"], "_count"),
            value(found["syncledger_workers"]),
            value(found["syncledger_workers_ended"], "_total", how="lost"),
        )

    assert read() == (6, 30, 2, 3, 3, 0)
    shared.end(2)  # killed
    assert read() == (6, 20, 1, 3, 2, 1)
    shared.ends_in_order(1)
    shared.end(1)
    assert read() == (6, 10, 0, 3, 1, 1)
    shared.begin(2)
    shared.hand_over(2, 200, Counting().numbers())  # its successor begins at nothing
    assert read() == (6, 10, 0, 3, 2, 1)


def test_a_worker_that_ended_before_it_counted_anything_changes_nothing() -> None:
    shared = SharedFigures(2)
    shared.begin(1)
    shared.end(1)
    assert shared.all_workers(0, array("d", [1.0])) == [array("d", [1.0]), [0.0]]


def test_requests_are_bounded_by_routes_and_statuses() -> None:
    figures = HttpFigures([("GET", "/a/{id}"), ("POST", "/a/{id}")])
    before = len(figures.values)
    for method, route, status in (
        ("GET", "/a/{id}", "200 OK"),
        ("GET", "/a/{id}", "299 Odd"),
        ("BREW", "/a/{id}", "405 Method Not Allowed"),
        ("GET", None, "404 Not Found"),
    ):
        figures.answered(method, route, status, 0.0)
    counted = {
        labels: figures.values[place]
        for labels, place in figures.places("http_requests_total").items()
        if figures.values[place]
    }
    assert counted == {
        ("GET", "/a/{id}", "200"): 1,
        ("GET", "/a/{id}", "other"): 1,
        ("other", "other", "405"): 1,
        ("other", "other", "404"): 1,
    }
    assert len(figures.values) == before


def test_what_is_counted_in_one_place_and_by_name_is_the_same() -> None:
    figures = HttpFigures([("POST", "/a")])
    figures.answers("POST", "/a", "204").note(perf_counter())
    figures.answered("POST", "/a", "204 No Content", perf_counter())
    assert figures.values[figures.place("http_requests_total", "POST", "/a", "204")] == 2
    for status in range(600, 700):
        figures.answered("POST", "/a", status, perf_counter())
    assert figures.values[figures.place("http_requests_total", "POST", "/a", "other")] == 100
    assert len({id(figures.answers("POST", "/a", str(status))) for status in range(600, 700)}) == 1


def test_there_is_room_for_all_figures_of_a_worker() -> None:
    figures = WorkerFigures()
    figures.take(HttpFigures([(method, f"/{number}") for method in ("GET", "POST") for number in range(100)]))
    assert len(figures.numbers()) < MOST


def test_an_unknown_figure_is_an_error() -> None:
    with pytest.raises(KeyError):
        Counting().part.add("done_total", "c")
