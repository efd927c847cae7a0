"""How much happened when: counts of all workers of a ledger, in rings of slots in the store.

Each worker adds what it counted since it last did so, every few seconds. One ring keeps slots of 10 s for an hour, one
slots of 1 min for a day, so the hash has so many fields at most, whoever writes to it. What a worker that dies had not
added yet is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from ledger import keys
from ledger.positions import iso_from_us
from ledger.store.interface import Arg, Script, Store

SPANS_S: Final = {10: 3600, 60: 86_400}
"""How long a slot is in seconds -> for how long slots of that length are kept."""
MOST_SLOTS: Final = 400
SECOND_US: Final = 1_000_000
_ADD: Final = Script.load("projections.census", "rates.lua", allow_oom=True)  # it never grows beyond its slots


class Rate(msgspec.Struct, frozen=True):
    """What all workers counted in one span of time, which begins at `at`.

    `acks`: requests with acks that were put on record; `moved`: positions that they moved, `stale`: those that came
    late; `refused`: acks that were refused. `offers`: streams that offered something new. `resets`: devices that began
    anew. `streams`: sync streams that ended, `failed` of them broken off or refused here, `left` by the device; `rows`:
    what they sent. `errors`: requests answered 500 or more, of all `requests`.
    """

    at: str
    events: int = 0
    acks: int = 0
    moved: int = 0
    stale: int = 0
    refused: int = 0
    offers: int = 0
    resets: int = 0
    streams: int = 0
    failed: int = 0
    left: int = 0
    rows: int = 0
    requests: int = 0
    errors: int = 0


NAMES: Final = Rate.__struct_fields__[1:]


class Slots(NamedTuple):
    """Spans of `length_s` from `since_us` on: so many of them as there are `rates`."""

    length_s: int
    since_us: int
    rates: list[Rate]


async def add(store: Store, counts: Sequence[int], now_us: int) -> None:
    """Add counts, in the order of NAMES, to what happened now; raises StoreUnavailable."""
    now_s = now_us // SECOND_US
    args: list[Arg] = [len(SPANS_S)]
    for length_s, kept_s in SPANS_S.items():
        args += (length_s, kept_s // length_s, now_s // length_s * length_s)
    await store.script(_ADD, [keys.rates()], (*args, *counts))


async def read(store: Store, since_us: int, until_us: int, now_us: int, most: int) -> Slots:
    """Read what happened between two instants in `most` slots at most, as fine as is kept; raises StoreUnavailable.

    What is older than is kept, or not over yet, has no counts.
    """
    since_s, until_s = max(since_us // SECOND_US, now_us // SECOND_US - 86_400), until_us // SECOND_US
    kept_s = min(length for length, span_s in SPANS_S.items() if length == 60 or now_us // SECOND_US - since_s < span_s)
    parts = -(-max(until_s - since_s, 1) // (kept_s * most))
    length_s = kept_s * parts
    begin_s = since_s // length_s * length_s
    if until_s // length_s - begin_s // length_s >= most:  # one more for where it does not begin at a whole slot
        begin_s += length_s
    begins = range(begin_s, until_s + 1, length_s)
    wanted = range(begin_s, begins[-1] + length_s, kept_s) if begins else range(0)
    slots = SPANS_S[kept_s] // kept_s
    fields = [f"{kept_s}:{begin // kept_s % slots}" for begin in wanted]
    held = await store.command("HMGET", keys.rates(), *fields, key=keys.rates()) if fields else []
    counted = [_counts(value, begin) for value, begin in zip(held, wanted, strict=True)]
    rates = []
    for number, begin in enumerate(begins):
        together = [sum(each) for each in zip(*counted[number * parts : (number + 1) * parts], strict=True)]
        rates.append(Rate(iso_from_us(begin * SECOND_US), *together))
    return Slots(length_s, begin_s * SECOND_US, rates)


def _counts(value: bytes | None, begin_s: int) -> list[int]:
    """Read a slot's counts; zeros where it holds those of another round, or cannot be read."""
    numbers = value.split() if value else []
    if not numbers or numbers[0] != b"%d" % begin_s or not all(map(bytes.isdigit, numbers)):
        return [0] * len(NAMES)
    counts = list(map(int, numbers[1 : 1 + len(NAMES)]))
    return counts + [0] * (len(NAMES) - len(counts))
