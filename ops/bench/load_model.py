"""Where hot users and partitions would break a large ledger: a simulation of how many events each primary gets. Pure.

Each user's events of a day are drawn from a power law with the exponent 2.09: that of the calls which each of 51
million customers of a telephone company received in a day (Clauset, Shalizi and Newman, "Power-law distributions in
empirical data", SIAM Review 51, 2009, table 6.1). Its mean is barely finite, so few users do much of everything: a
heavier tail than is to be expected of phones that sync. What one user can do is cut off at MOST_A_DAY.

The most active users are drawn one by one; of all others, of whom each partition has thousands, only the sum, as a
normal distribution has it. Partitions get users by their hash, so at random.
"""

from __future__ import annotations

from random import Random
from typing import Final

import msgspec

EXPONENT: Final = 2.09
DEVICES_A_USER: Final = 1.6
EVENTS_A_DAY: Final = 40.0
"""Of a device, as `ops/docs/sizing.md` takes it."""
MOST_A_DAY: Final = 86_400.0 * 20
"""What a user may make at most: twenty events a second, day and night; one session's acks come one after the other."""
BUSIEST: Final = 5.0
"""How many times the mean the busiest hour has."""
DRAWN: Final = 200_000
DAY_S: Final = 86_400.0
_TAIL: Final = EXPONENT - 1


class Shares(msgspec.Struct, frozen=True):
    """Events a second in the busiest hour: of all, of the busiest user, partition and primary, and of mean ones."""

    total: float
    user: float
    partition: float
    mean_partition: float
    primary: float
    mean_primary: float


def simulate(devices: int, partitions: int, primaries: int, seed: int) -> Shares:
    """Share the events of so many devices among partitions and primaries, by a seed."""
    random = Random(seed)  # noqa: S311 - no secret
    users = devices / DEVICES_A_USER
    least = _least(EVENTS_A_DAY * DEVICES_A_USER)
    drawn = min(DRAWN, int(users))
    edge = least * (users / drawn) ** (1 / _TAIL)
    mean, square = _below(least, edge)
    body = users / partitions
    load = [max(random.gauss(body * mean, (body * square) ** 0.5), 0.0) for _ in range(partitions)]
    busiest = 0.0
    for _ in range(drawn):
        events = min(edge * (1 - random.random()) ** (-1 / _TAIL), MOST_A_DAY)
        load[random.randrange(partitions)] += events
        busiest = max(busiest, events)
    per_s = BUSIEST / DAY_S
    every = [sum(load[at::primaries]) * per_s for at in range(primaries)]
    total = sum(load) * per_s
    return Shares(total, busiest * per_s, max(load) * per_s, total / partitions, max(every), total / primaries)


def _least(mean: float) -> float:
    """Find where the power law begins, for its mean, cut off at MOST_A_DAY, to be this."""
    low, high = 1e-6, mean
    for _ in range(100):
        middle = (low + high) / 2
        if _below(middle, MOST_A_DAY)[0] + MOST_A_DAY * (middle / MOST_A_DAY) ** _TAIL < mean:
            low = middle
        else:
            high = middle
    return high


def _below(least: float, edge: float) -> tuple[float, float]:
    """Tell what users below an edge add to the mean of all users, and to the mean of squares."""
    mean = _TAIL * least**_TAIL * (least ** (1 - _TAIL) - edge ** (1 - _TAIL)) / (_TAIL - 1)
    square = _TAIL * least**_TAIL * (edge ** (2 - _TAIL) - least ** (2 - _TAIL)) / (2 - _TAIL)
    return mean, square
