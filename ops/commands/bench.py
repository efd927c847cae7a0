"""`syncledger bench`."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click
from click import echo
from rich.console import Console

from ops.bench.rig.results import BENCHMARKS, as_json, chosen


@click.command("bench")
@click.option("--only", help=f"Which, comma-separated: {', '.join(BENCHMARKS)} [default: all].")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Rounds of floor and ours.")
@click.option("--quick", is_flag=True, help="Tiny counts: shows that everything runs, and measures nothing.")
@click.option("--json", "as_document", is_flag=True, help="Print JSON.")
def bench(only: str | None, rounds: int, quick: bool, as_document: bool) -> None:
    """Measure the service beside a floor: both on this machine, in alternating rounds, on servers of their own.

    Figures that miss what is wanted are marked; exits 1 only when something answered wrongly.
    """
    try:
        names = chosen(only)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--only") from None
    try:
        from ops.bench import runner
        from ops.bench.rig import scale, table
        from ops.bench.rig.processes import BenchFailed
    except ImportError as error:
        raise click.ClickException(f"bench needs psutil ({error}): pip install 'syncledger[bench]'") from None
    signal.signal(signal.SIGTERM, _interrupt)
    progress = Console(stderr=True, highlight=False)
    try:
        results = runner.run(
            names, rounds, scale.QUICK if quick else scale.FULL, lambda text: progress.print(text, markup=False)
        )
    except BenchFailed as error:
        raise click.ClickException(str(error)) from None
    if as_document:
        echo(as_json(results))
    else:
        table.show(results, Console(file=sys.stdout), verdicts=not quick)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Leave as on Ctrl-C, so that everything that was started is stopped."""
    raise KeyboardInterrupt
