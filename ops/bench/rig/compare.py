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

Verdict = Literal["better", "worse", "noise", "too few rounds", "one value", "only before", "only now"]


class Run(msgspec.Struct, frozen=True):
    """What `bench --json` printed; `about` is None of earlier versions, which did not tell."""

    results: tuple[Result, ...]
    about: About | None = None


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
    except msgspec.DecodeError as error:
        raise ValueError(f"this is not what `syncledger bench --json` prints: {error}") from None


def changes(before: Sequence[Result], now: Sequence[Result]) -> list[Change]:
    """Compare by name, in the order of `now`; what only one of them has comes too.

    A ratio differs by more than the noise where no round of one run lies among those of the other. Of a single value
    no noise is known.
    """
    known = {result.name: result for result in before}
    found = [_change(known.pop(result.name, None), result) for result in now]
    return found + [Change(name, _value(result), None, None, "only before") for name, result in known.items()]


def _change(before: Result | None, now: Result) -> Change:
    value = _value(now)
    if before is None or type(before) is not type(now):
        return Change(now.name, None, value, None, "only now")
    earlier = _value(before)
    by = (value - earlier) / earlier if earlier else None
    return Change(now.name, earlier, value, by, _verdict(before, now))


def _verdict(before: Result, now: Result) -> Verdict:
    if isinstance(before, Bound) or isinstance(now, Bound):
        return "one value"
    if min(len(before.ratios), len(now.ratios)) < FEWEST:
        return "too few rounds"
    if min(now.ratios) > max(before.ratios):
        return "better"
    return "worse" if max(now.ratios) < min(before.ratios) else "noise"


def _value(result: Result) -> float:
    return result.ratio if isinstance(result, Comparison) else result.value
