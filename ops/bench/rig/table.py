"""The results as a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.bench.rig.about import About, of_another_machine
from ops.bench.rig.compare import FEWEST, Change, Verdict
from ops.bench.rig.results import Bound, Comparison, Result
from ops.commands.tables import plain


def show(results: Sequence[Result], console: Console, *, verdicts: bool = True) -> None:
    """Print comparisons first, then bounds, then the notes; without `verdicts` nothing is judged (a quick run)."""
    comparisons = [result for result in results if isinstance(result, Comparison)]
    bounds = [result for result in results if isinstance(result, Bound)]
    if comparisons:
        table = Table("", "floor", "ours", "ratio", "rounds", "wanted", title="beside the floor (medians)")
        for comparison in comparisons:
            table.add_row(*_comparison_row(comparison, verdicts))
        console.print(table)
    if bounds:
        table = Table("", "measured", "base", "wanted", title="bounded")
        for bound in bounds:
            table.add_row(*_bound_row(bound, verdicts))
        console.print(table)
    for result in results:
        for note in result.notes:
            console.print(f"{result.name}: {note}", highlight=False, markup=False)


def show_changes(changes: Sequence[Change], before: About | None, now: About, console: Console) -> None:
    """Print what differs from an earlier run, and whether that was of another machine."""
    table = Table("", "before", "now", "", "", title="beside the earlier run (ratios to the floor, or values)")
    for change in changes:
        by = "" if change.by is None else f"{change.by:+.1%}"
        table.add_row(Text(plain(change.name)), _shown(change.before), _shown(change.now), by, change.verdict)
    console.print(table)
    counts = Counter(change.verdict for change in changes)
    console.print(", ".join(f"{counts[verdict]} {_MEANS[verdict]}" for verdict in _MEANS if counts[verdict]))
    if before is None:
        console.print("the earlier run does not tell of which machine and commit it is", highlight=False)
        return
    console.print(f"before: {before.commit or before.version}, now: {now.commit or now.version}", highlight=False)
    if other := of_another_machine(before, now):
        console.print(
            f"another machine ({', '.join(other)}): only ratios to the floor can be compared", highlight=False
        )


_MEANS: Final[dict[Verdict, str]] = {
    "better": "better by more than the noise",
    "worse": "worse by more than the noise",
    "noise": "within the noise",
    "too few rounds": f"of fewer than {FEWEST} rounds",
    "one value": "measured once, so that no noise is known",
    "another machine": "of another machine",
    "only before": "only before",
    "only now": "only now",
}
"""What is said of the figures of each verdict, behind how many there are."""


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:,.3f}" if value < 10 else f"{value:,.1f}"


def _comparison_row(comparison: Comparison, verdicts: bool) -> tuple[str, ...]:
    middle = len(comparison.floor) // 2
    ratios = sorted(comparison.ratios)
    wanted = "" if comparison.at_least is None else f"≥ {comparison.at_least:.2f}"
    return (
        comparison.name,
        f"{sorted(comparison.floor)[middle]:,.0f} {comparison.unit}",
        f"{sorted(comparison.ours)[middle]:,.0f} {comparison.unit}",
        f"{comparison.ratio:.3f}",
        f"{len(ratios)}: {ratios[0]:.3f} to {ratios[-1]:.3f}",
        _judged(wanted, comparison.holds, verdicts),
    )


def _bound_row(bound: Bound, verdicts: bool) -> tuple[str, ...]:
    base = "" if bound.base is None else f"{_figure(bound.base)} {bound.unit}"
    wanted = f"≤ {bound.at_most:,.10g} {bound.unit}".rstrip()
    return bound.name, f"{_figure(bound.value)} {bound.unit}", base, _judged(wanted, bound.holds, verdicts)


def _figure(value: float) -> str:
    """Write so many digits that a figure and its limit are told apart."""
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}"


def _judged(wanted: str, holds: bool | None, verdicts: bool) -> str:
    if holds is None or not verdicts:
        return wanted
    return f"[green]{wanted} ✓[/]" if holds else f"[red]{wanted} ✗[/]"
