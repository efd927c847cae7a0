"""The geometry of what the console draws: a device's history in lanes, its types as bars, counts over time; pure.

Each lane is a picture of its own that is stretched to the width there is, so words stand beside it and stay readable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Final, NamedTuple
from urllib.parse import urlencode

from endpoints.console.words import SECOND_US, colour, minute, number, span
from ledger.entity_types import COMPLETE
from ledger.positions import MAX_US, iso_from_us, us_from_iso
from projections.devices.health import TypeHealth
from projections.devices.plot import Bucket, Plot
from projections.sent.words import ENDS

WIDTH: Final = 1000
HEIGHT: Final = 26
_LOWEST: Final = 4
_FAILED: Final = tuple(how for how in ENDS if colour(how) == "bad")
_LANES: Final[tuple[tuple[str, str, Callable[[Bucket], int]], ...]] = (
    ("Offers", "calm", lambda bucket: bucket.offers),
    ("Acks taken", "good", lambda bucket: bucket.acks),
    ("Late acks", "late", lambda bucket: bucket.stale),
    ("Refused acks", "bad", lambda bucket: bucket.refused),
    ("Resets", "late", lambda bucket: bucket.resets),
    ("Streams completed", "good", lambda bucket: bucket.streams.get("completed", 0)),
    ("Streams broken off", "bad", lambda bucket: sum(bucket.streams.get(how, 0) for how in _FAILED)),
    ("All else", "calm", lambda bucket: bucket.others),
)


class Bar(NamedTuple):
    """A bar of a lane: where it is, how high, and what it says when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    says: str


class Lane(NamedTuple):
    """One kind of thing over time: its name, its colour's name, its bars, how much in all, and all of it in words."""

    name: str
    kind: str
    bars: list[Bar]
    total: int
    says: str


class Drawn(NamedTuple):
    """A plot: its lanes, the time it covers, where else one can look, and what is missing of it."""

    lanes: list[Lane]
    since_us: int
    until_us: int
    first_us: int
    last_us: int
    events: int
    whole: bool
    cut: bool
    below_floor: bool
    broken: str
    links: list[tuple[str, str]]


class TypeBar(NamedTuple):
    """How far a device has one entity type, of 0 to 100; `known` where that could be counted."""

    health: TypeHealth
    percent: float
    known: bool


def drawn(plot: Plot, place: str) -> Drawn:
    """Lay a plot out; `place` is the path of its page."""
    since_us, until_us = us_from_iso(plot.since), us_from_iso(plot.until)
    first_us = since_us if plot.first_at is None else us_from_iso(plot.first_at)
    last_us = us_from_iso(plot.last_at)
    length_us = max(int(plot.bucket_s * SECOND_US), 1)
    span_us = max(until_us - since_us + 1, 1)
    lanes = []
    for name, kind, count in _LANES:
        counts = [(bucket, count(bucket)) for bucket in plot.buckets]
        found = [(bucket, times) for bucket, times in counts if times]
        most = max((times for _, times in found), default=0)
        bars = [_bar(bucket, times, most, length_us / span_us * WIDTH, span(length_us)) for bucket, times in found]
        total = sum(times for _, times in found)
        lanes.append(Lane(name, kind, bars, total, _says(name, total, [bucket for bucket, _ in found])))
    return Drawn(
        lanes=lanes,
        since_us=since_us,
        until_us=until_us,
        first_us=first_us,
        last_us=last_us,
        events=plot.events,
        whole=since_us <= first_us and until_us >= last_us,
        cut=plot.cut,
        below_floor=plot.below_floor,
        broken=plot.broken or "",
        links=_links(place, since_us, until_us, first_us, last_us),
    )


def _bar(bucket: Bucket, times: int, most: int, width: float, length: str) -> Bar:
    height = round(_LOWEST + (HEIGHT - _LOWEST) * sqrt(times / most), 1)
    at = minute(us_from_iso(bucket.at))
    left = round(bucket.index * width, 1)
    return Bar(
        left, round(HEIGHT - height, 1), round(max(width - 1, 2), 1), height, f"{number(times)} from {at}, {length}"
    )


def _says(name: str, total: int, buckets: Sequence[Bucket]) -> str:
    if not buckets:
        return f"{name}: none"
    first, last = minute(us_from_iso(buckets[0].at)), minute(us_from_iso(buckets[-1].at))
    return f"{name}: {number(total)}, from {first} to {last}"


def _links(place: str, since_us: int, until_us: int, first_us: int, last_us: int) -> list[tuple[str, str]]:
    """Name the other times to look at: nearer, farther, earlier, later, the last day, all."""
    length = max(until_us - since_us, 4 * SECOND_US)
    middle = (since_us + until_us) // 2
    found = []
    if length > 8 * SECOND_US:
        found.append(("Zoom in", (middle - length // 4, middle + length // 4)))
    if since_us > first_us or until_us < last_us:
        found.append(("Zoom out", (middle - length, middle + length)))
    if since_us > first_us:
        found.append(("Earlier", (since_us - length // 2, until_us - length // 2)))
    if until_us < last_us:
        found.append(("Later", (since_us + length // 2, until_us + length // 2)))
    links = []
    for name, (start, end) in found:
        within = {"from": iso_from_us(min(max(start, 0), MAX_US)), "to": iso_from_us(min(max(end, 0), MAX_US))}
        links.append((name, f"{place}?{urlencode(within)}#plot"))
    return [*links, ("All", f"{place}?whole=true#plot")]


def bars(types: Sequence[TypeHealth]) -> list[TypeBar]:
    """Lay out how far a device has each type, in the order of streams; those that there is nothing of are left out."""
    return [_type_bar(one) for one in types if one.type != COMPLETE and not _is_empty(one)]


def nothing_of(types: Sequence[TypeHealth]) -> list[str]:
    """Name the types that a library has nothing of, in the order of streams."""
    return [one.type for one in types if one.type != COMPLETE and _is_empty(one)]


def _is_empty(one: TypeHealth) -> bool:
    return one.total == 0 and not (one.behind or one.stale or one.refused)


def _type_bar(one: TypeHealth) -> TypeBar:
    if one.total is None or one.has is None:
        return TypeBar(one, 0.0, known=False)
    return TypeBar(one, 100.0 if not one.total else round(100 * one.has / max(one.total, one.has), 1), known=True)


def line(values: Sequence[float]) -> tuple[str, str]:
    """Lay values out as the points of a line, and of the area below it, in WIDTH by HEIGHT."""
    if not values:
        return "", ""
    most, step = max(*values, 1e-9), WIDTH / max(len(values) - 1, 1)
    points = " ".join(
        f"{round(at * step, 1)},{round(HEIGHT - (HEIGHT - 2) * value / most, 1)}" for at, value in enumerate(values)
    )
    return points, f"0,{HEIGHT} {points} {round((len(values) - 1) * step, 1)},{HEIGHT}"
