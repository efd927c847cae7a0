"""How much happened when: counts of all workers of a ledger, second by second, in a ring in the store.

Each worker adds what it counted since it last did so. Two rings keep it: slots of 10 s for an hour, and of 1 min for a
day, so that the hash has so many fields at most, whoever writes to it.
"""

from __future__ import annotations

from typing import Final

import msgspec

SPANS_S: Final = {10: 3600, 60: 86_400}
"""How long a slot is in seconds -> for how long slots of that length are kept."""
MOST_BUCKETS: Final = 400


class Rate(msgspec.Struct, rename="camel"):
    """What all workers counted in one span of time, which begins at `at`.

    `acks`: requests that were put on record; `moved`: positions that they moved, `stale`: those that came late;
    `refused`: acks that were refused. `streams`: sync streams that ended, `failed`: those of them that were broken off
    or refused here, `left`: by the device; `rows`: what they sent. `errors`: requests answered 500 or more, of all
    `requests`.
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
