"""The statistics of the benchmarks, and what they print."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from ops.bench.rig.results import BENCHMARKS, Bound, Comparison, Result, as_json, chosen
from ops.bench.rig.rounds import alternate
from ops.bench.rig.table import show
from ops.bench.stampede import overtaken


def comparison(floor: tuple[float, ...], ours: tuple[float, ...], at_least: float | None = None) -> Comparison:
    return Comparison(name="acks", unit="acks/s", floor=floor, ours=ours, at_least=at_least)


def test_the_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    # The machine was twice as slow in the second round: both halves of it were.
    found = comparison((100.0, 50.0, 90.0), (40.0, 20.0, 45.0))
    assert found.ratios == (0.4, 0.4, 0.5)
    assert found.ratio == 0.4


def test_an_even_number_of_rounds_has_the_mean_of_the_middle_two() -> None:
    assert comparison((100.0, 100.0), (30.0, 50.0)).ratio == pytest.approx(0.4)


@pytest.mark.parametrize(("wanted", "holds"), [(0.35, True), (0.4, True), (0.41, False), (None, None)])
def test_a_ratio_holds_from_what_is_wanted_on(wanted: float | None, holds: bool | None) -> None:
    assert comparison((100.0,), (40.0,), wanted).holds is holds


@pytest.mark.parametrize(("value", "holds"), [(249.9, True), (250.0, True), (250.1, False)])
def test_a_bound_holds_up_to_its_limit(value: float, holds: bool) -> None:
    assert Bound(name="ack event", unit="bytes", value=value, at_most=250).holds is holds


@pytest.mark.parametrize(("floor", "ours"), [((), ()), ((1.0,), ()), ((1.0, 2.0), (1.0,)), ((0.0,), (1.0,))])
def test_rounds_that_are_no_pairs_are_refused(floor: tuple[float, ...], ours: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="floor"):
        comparison(floor, ours)


def test_rounds_alternate_and_begin_with_the_floor() -> None:
    calls: list[str] = []

    def measure(name: str, value: float) -> float:
        calls.append(name)
        return value

    said: list[str] = []
    pairs = alternate(2, lambda: measure("floor", 10.0), lambda: measure("ours", 4.0), said.append)
    assert calls == ["floor", "ours", "floor", "ours"]
    assert pairs == ((10.0, 10.0), (4.0, 4.0))
    assert said == ["round 1/2: 4 of 10 (0.400)", "round 2/2: 4 of 10 (0.400)"]


def test_only_keeps_the_order_in_which_the_benchmarks_run() -> None:
    assert chosen(None) == BENCHMARKS
    assert chosen("verify, acks") == ("acks", "verify")


@pytest.mark.parametrize("only", ["", ",", "ack", "acks,streams"])
def test_only_refuses_what_is_no_benchmark(only: str) -> None:
    with pytest.raises(ValueError, match="there are acks, poll, reads, mixed, stream, verify, rebuild, seg"):
        chosen(only)


def test_json_holds_the_rounds_and_what_follows_from_them() -> None:
    bound = Bound(name="ack event", unit="bytes", value=251.0, at_most=250)
    document = msgspec.json.decode(as_json([comparison((100.0,), (40.0,), 0.35), bound]))
    assert [(row["kind"], row["holds"]) for row in document["results"]] == [("comparison", True), ("bound", False)]
    assert document["results"][0]["ratio"] == 0.4
    assert document["results"][0]["ours"] == [40.0]


def test_the_table_judges_a_full_run_and_not_a_quick_one() -> None:
    bound = Bound(name="event", unit="bytes", value=9, at_most=250, notes=("x=1",))
    found: list[Result] = [comparison((100.0,), (30.0,), 0.35), bound]
    for verdicts, marks in ((True, ("≥ 0.35 ✗", "≤ 250 bytes ✓")), (False, ("≥ 0.35 ", "≤ 250 bytes "))):
        out = io.StringIO()
        show(found, Console(file=out, width=160), verdicts=verdicts)
        assert all(mark in out.getvalue() for mark in marks)
        assert ("✗" in out.getvalue()) is verdicts
        assert "event: x=1" in out.getvalue()


@pytest.mark.parametrize(
    ("value", "at_most", "shown"),
    [(0.934, 0.7, ("0.93", "≤ 0.7 ✗")), (1.437, 1.5, ("1.44", "≤ 1.5 ✓")), (1234.5, 2e6, ("1,234.5", "≤ 2,000,000 ✓"))],
)
def test_a_limit_is_shown_as_it_is(value: float, at_most: float, shown: tuple[str, str]) -> None:
    out = io.StringIO()
    show([Bound(name="share", unit="", value=value, at_most=at_most)], Console(file=out, width=160))
    assert all(text in out.getvalue() for text in shown)


@pytest.mark.parametrize(
    ("places", "count"),
    [((), 0), ((0, 1, 2), 0), ((0, 3, 5), 0), ((1, 0, 2), 1), ((2, 0, 1), 1), ((1, 2, 0), 2), ((2, 1, 0), 2)],
)
def test_those_are_counted_that_a_later_one_has_overtaken(places: tuple[int, ...], count: int) -> None:
    assert overtaken(places) == count
