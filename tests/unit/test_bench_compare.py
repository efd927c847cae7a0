"""What `bench --compare` says of two runs."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from ops.bench.rig.about import About, about
from ops.bench.rig.compare import Change, changes, read
from ops.bench.rig.results import Bound, Comparison, as_json
from ops.bench.rig.table import show_changes

HERE = About("a processor", 2, 1024, "Linux", "3.11.7", "1", "abc")


def ratios(*ours: float, name: str = "acks") -> Comparison:
    return Comparison(name=name, unit="/s", floor=(100.0,) * len(ours), ours=ours)


BEFORE = ratios(40, 41, 42, 43, 44)


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        ((45, 46, 47, 48, 49), "better"),
        ((35, 36, 37, 38, 39), "worse"),
        ((30, 31, 32, 33, 40), "noise"),  # one of them is no worse than one before
        ((44, 50, 51, 52, 53), "noise"),
        ((50, 50, 50), "too few rounds"),
    ],
)
def test_a_ratio_differs_where_no_round_lies_among_those_before(now: tuple[float, ...], verdict: str) -> None:
    (change,) = changes([BEFORE], [ratios(*now)])
    assert change.verdict == verdict
    assert change.before == 0.42


def test_of_one_value_no_noise_is_known_and_what_only_one_run_has_is_told() -> None:
    bound = Bound(name="memory", unit="KiB", value=10, at_most=64)
    grown = Bound(name="memory", unit="KiB", value=12, at_most=64)
    found = changes([bound, ratios(1, name="gone")], [grown, ratios(1, name="new")])
    assert [(change.name, change.verdict) for change in found] == [
        ("memory", "one value"), ("new", "only now"), ("gone", "only before")
    ]  # fmt: skip
    assert found[0].by == pytest.approx(0.2)


def took(*ms: float) -> Bound:
    return Bound(name="page", unit="ms", value=sorted(ms)[len(ms) // 2], at_most=100, rounds=ms)


@pytest.mark.parametrize(
    ("now", "same_machine", "verdict"),
    [
        ((12, 13, 14, 15), True, "worse"),
        ((5, 6, 7, 8), True, "better"),
        ((11, 12, 13, 14), True, "noise"),  # one of them took no longer than one before
        ((12, 13, 14), True, "too few rounds"),
        ((12, 13, 14, 15), False, "another machine"),
    ],
)
def test_a_value_of_several_rounds_is_the_better_the_less_it_is(
    now: tuple[float, ...], same_machine: bool, verdict: str
) -> None:
    (change,) = changes([took(9, 10, 10, 11)], [took(*now)], same_machine=same_machine)
    assert change.verdict == verdict


def test_another_unit_is_another_figure() -> None:
    found = changes([Bound(name="page", unit="s", value=1, at_most=1)], [took(9, 10, 10, 11)])
    assert [change.verdict for change in found] == ["only now", "only before"]


def test_what_was_printed_is_read_and_nothing_else() -> None:
    run = read(as_json([BEFORE], about=HERE))
    assert (run.results, run.about) == ((BEFORE,), HERE)
    assert read(as_json([BEFORE])).about is None  # as earlier versions print it
    for other in (b"", b"{}", b'{"results": [{"kind": "bound", "name": "\xff"}]}', b'{"results": [{"kind": "speed"}]}'):
        with pytest.raises(ValueError, match="bench --json"):
            read(other)


def test_another_machine_is_told() -> None:
    told = io.StringIO()
    show_changes(
        changes([BEFORE], [BEFORE]), HERE, msgspec.structs.replace(HERE, cores=4), Console(file=told, width=200)
    )
    assert "noise" in told.getvalue()
    assert "another machine (cores)" in told.getvalue()


def test_how_many_of_each_verdict_there_are_is_told_and_names_are_only_printed() -> None:
    told = io.StringIO()
    found = changes([BEFORE, took(9, 10, 10, 11)], [ratios(45, 46, 47, 48), took(9, 10, 10, 12)])
    show_changes(
        [*found, Change("[/x] \x1b[2J", None, 1.0, None, "only now")], HERE, HERE, Console(file=told, width=200)
    )
    assert "1 better by more than the noise, 1 within the noise, 1 only now" in told.getvalue()
    assert "[/x] \\x1b[2J" in told.getvalue()


def test_a_run_tells_of_what_machine_and_version_it_is() -> None:
    found = about()
    assert found.cores >= 1
    assert found.memory_mib > 0
    assert found.version
