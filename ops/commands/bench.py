"""`syncledger bench`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

import click
from click import echo
from rich.console import Console

from ops.bench.rig.results import BENCHMARKS, as_json, chosen


@click.command("bench")
@click.option("--only", help=f"Which, comma-separated: {', '.join(BENCHMARKS)} [default: all].")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Rounds of floor and ours.")
@click.option("--quick", is_flag=True, help="Tiny counts: shows that everything runs, and measures nothing.")
@click.option("--json", "as_document", is_flag=True, help="Print JSON: also the machine and the commit.")
@click.option(
    "--compare",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What --json printed before: tell what differs by more than the noise, which both need four rounds for.",
)
def bench(only: str | None, rounds: int, quick: bool, as_document: bool, compare: Path | None) -> None:
    """Measure the service beside a floor: both on this machine, in alternating rounds, on servers of their own.

    Figures that miss what is wanted are marked; exits 1 only when something answered wrongly, not when one got worse.
    """
    try:
        names = chosen(only)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--only") from None
    try:
        from ops.bench import runner
        from ops.bench.rig import scale, table
        from ops.bench.rig.about import about, of_another_machine
        from ops.bench.rig.compare import changes, read
        from ops.bench.rig.processes import BenchFailed
    except ImportError as error:
        raise click.ClickException(f"bench needs psutil ({error}): pip install 'syncledger[bench]'") from None
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        before = None if compare is None else read(compare.read_bytes())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--compare") from None
    if before is not None and before.quick != quick:
        raise click.BadParameter("a --quick run measures nothing that could be compared", param_hint="--compare")
    progress = Console(stderr=True, highlight=False)
    try:
        results = runner.run(
            names, rounds, scale.QUICK if quick else scale.FULL, lambda text: progress.print(text, markup=False)
        )
    except BenchFailed as error:
        raise click.ClickException(str(error)) from None
    now, found = about(), None
    if before is not None:
        same = before.about is None or not of_another_machine(before.about, now)
        found = changes(before.results, results, same_machine=same)
    if as_document:
        more = {} if found is None else {"changes": found}
        echo(as_json(results, about=now, quick=quick, **more))
        return
    console = Console(file=sys.stdout)
    table.show(results, console, verdicts=not quick)
    if before is not None and found is not None:
        table.show_changes(found, before.about, now, console)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Leave as on Ctrl-C, so that everything that was started is stopped."""
    raise KeyboardInterrupt
