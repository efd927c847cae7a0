"""The results as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ops.bench.rig.results import Bound, Comparison, Result


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
            console.print(f"{result.name}: {note}", highlight=False)


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
    base = "" if bound.base is None else f"{bound.base:,.1f} {bound.unit}"
    wanted = f"≤ {bound.at_most:,.0f} {bound.unit}"
    return bound.name, f"{bound.value:,.1f} {bound.unit}", base, _judged(wanted, bound.holds, verdicts)


def _judged(wanted: str, holds: bool | None, verdicts: bool) -> str:
    if holds is None or not verdicts:
        return wanted
    return f"[green]{wanted} ✓[/]" if holds else f"[red]{wanted} ✗[/]"
