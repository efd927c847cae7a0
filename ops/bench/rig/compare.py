"""Two runs of the benchmarks side by side: what differs by more than the noise. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from ops.bench.rig.about import About
from ops.bench.rig.results import Bound, Comparison, Result

FEWEST: Final = 4
"""So many rounds on each side are needed: of fewer the chance is more than 1 in 35 that none of ours lies among theirs
though nothing changed."""

Verdict = Literal[
    "better", "worse", "noise", "too few rounds", "one value", "another machine", "only before", "only now"
]


class Run(msgspec.Struct, frozen=True):
    """What `bench --json` printed; `about` is None of earlier versions, which did not tell. `quick`: of tiny counts."""

    results: tuple[Result, ...]
    about: About | None = None
    quick: bool = False


class Change(msgspec.Struct, frozen=True):
    """One figure before and now: a ratio to its floor, or a value; `by` is how much more it is now, as a share."""

    name: str
    before: float | None
    now: float | None
    by: float | None
    verdict: Verdict


def read(document: bytes) -> Run:
    """Read what `bench --json` printed; raises ValueError for anything else."""
    try:
        return msgspec.json.decode(document, type=Run)
    except ValueError as error:  # also of what is no UTF-8
        raise ValueError(f"this is not what `syncledger bench --json` prints: {error}") from None


def changes(before: Sequence[Result], now: Sequence[Result], *, same_machine: bool = True) -> list[Change]:
    """Compare by name, in the order of `now`; what only one of them has comes too, also what changed its unit.

    A figure differs by more than the noise where no round of one run lies among those of the other. Of a single value
    no noise is known, and what is no ratio to a floor is that of a machine.
    """
    known = {(result.name, type(result), result.unit): result for result in before}
    found = []
    for result in now:
        earlier = known.pop((result.name, type(result), result.unit), None)
        found.append(_change(earlier, result, same_machine))
    return found + [Change(result.name, _value(result), None, None, "only before") for result in known.values()]


def _change(before: Result | None, now: Result, same_machine: bool) -> Change:
    value = _value(now)
    if before is None:
        return Change(now.name, None, value, None, "only now")
    earlier = _value(before)
    by = (value - earlier) / earlier if earlier else None
    if isinstance(now, Bound) and not same_machine:
        return Change(now.name, earlier, value, by, "another machine")
    return Change(now.name, earlier, value, by, _verdict(_rounds(before), _rounds(now)))


def _verdict(before: Sequence[float], now: Sequence[float]) -> Verdict:
    if not (before and now):
        return "one value"
    if min(len(before), len(now)) < FEWEST:
        return "too few rounds"
    if min(now) > max(before):
        return "better"
    return "worse" if max(now) < min(before) else "noise"


def _rounds(result: Result) -> Sequence[float]:
    """The rounds of a result, the more the better."""
    return result.ratios if isinstance(result, Comparison) else [-value for value in result.rounds]


def _value(result: Result) -> float:
    return result.ratio if isinstance(result, Comparison) else result.value
