"""What a benchmark found: pairs of floor and ours, or values beside a limit. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, Final

import msgspec

BENCHMARKS: Final = (
    "acks",
    "poll",
    "reads",
    "mixed",
    "stream",
    "verify",
    "rebuild",
    "segments",
    "log",
    "history",
    "devices",
    "rss",
    "sizes",
    "sockets",
    "postgres",
    "beside",
    "stampede",
    "observing",
    "growth",
    "sizing",
)


class Comparison(msgspec.Struct, frozen=True, kw_only=True, tag="comparison", tag_field="kind"):
    """Rates of ours and of its floor, measured in turn; `floor[n]` and `ours[n]` are of the same round.

    The ratio is the median of the rounds' own ratios: what slows the machine for a while slows both halves of a round.
    """

    name: str
    unit: str
    floor: tuple[float, ...]
    ours: tuple[float, ...]
    at_least: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.floor) != len(self.ours) or not self.floor:
            raise ValueError("a comparison needs as many floor rounds as own rounds, and at least one")
        if min(self.floor) <= 0:
            raise ValueError("a floor of zero measures nothing")

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours over floor, round by round."""
        return tuple(ours / floor for floor, ours in zip(self.floor, self.ours, strict=True))

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return median(self.ratios)

    @property
    def holds(self) -> bool | None:
        """Whether the ratio is what is asked for; None when nothing is asked."""
        return None if self.at_least is None else self.ratio >= self.at_least


class Bound(msgspec.Struct, frozen=True, kw_only=True, tag="bound", tag_field="kind"):
    """A value that must not exceed `at_most`; `base` is what it was measured against (an idle worker), if anything.

    `rounds` are the values whose median it is, where it was measured several times.
    """

    name: str
    unit: str
    value: float
    at_most: float
    base: float | None = None
    notes: tuple[str, ...] = ()
    rounds: tuple[float, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the value keeps its limit."""
        return self.value <= self.at_most


Result = Comparison | Bound


def percentile(values: Sequence[float], part: float) -> float:
    """The value that so many of a hundred values do not exceed; there must be one."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part / 100), len(ordered) - 1)]


def chosen(only: str | None) -> tuple[str, ...]:
    """The benchmarks named by a comma-separated list, in the order they run; all of them for None.

    Raises ValueError for an unknown name or an empty list.
    """
    if only is None:
        return BENCHMARKS
    named = {part.strip() for part in only.split(",") if part.strip()}
    unknown = sorted(named - set(BENCHMARKS))
    if unknown or not named:
        raise ValueError(
            f"no benchmark is called {', '.join(unknown) or repr(only)}; there are {', '.join(BENCHMARKS)}"
        )
    return tuple(name for name in BENCHMARKS if name in named)


def as_json(results: Sequence[Result], **more: Any) -> bytes:
    """The results as a JSON document, with the ratios and verdicts beside what they follow from, and `more`."""
    rows = []
    for result in results:
        row = msgspec.to_builtins(result)
        row["holds"] = result.holds
        if isinstance(result, Comparison):
            row |= {"ratio": result.ratio, "ratios": result.ratios}
        rows.append(row)
    return msgspec.json.format(msgspec.json.encode({"results": rows, **more}), indent=2)
