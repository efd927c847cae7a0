"""The simulated load of a large ledger: what must hold of any shares of it, and what the sizing page says of it."""

from __future__ import annotations

import pytest

from ops.bench.load_model import BUSIEST, DAY_S, EVENTS_A_DAY, MOST_A_DAY, simulate

DEVICES = 100_000_000


@pytest.mark.parametrize(("partitions", "primaries"), [(4096, 64), (4096, 16), (256, 8)])
def test_all_events_are_shared_and_the_busiest_is_no_less_than_the_mean(partitions: int, primaries: int) -> None:
    shares = simulate(DEVICES, partitions, primaries, 1)
    assert shares.total == pytest.approx(DEVICES * EVENTS_A_DAY / DAY_S * BUSIEST, rel=0.02)
    assert shares.mean_primary * primaries == pytest.approx(shares.total)
    assert shares.mean_partition * partitions == pytest.approx(shares.total)
    assert shares.mean_primary < shares.primary < shares.total
    assert max(shares.mean_partition, shares.user) < shares.partition < shares.primary
    assert 0 < shares.user <= MOST_A_DAY / DAY_S * BUSIEST


def test_a_seed_gives_the_same_and_another_one_much_the_same() -> None:
    one, again, other = (simulate(DEVICES, 4096, 64, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert one.primary == pytest.approx(other.primary, rel=0.15)


def test_more_primaries_are_less_even() -> None:
    spread = [(one := simulate(DEVICES, 4096, primaries, 1)).primary / one.mean_primary for primaries in (8, 64, 512)]
    assert spread == sorted(spread)


@pytest.mark.parametrize(("primaries", "times"), [(64, 1.16), (256, 1.4), (4096, 4.2)])
def test_the_busiest_primary_is_as_far_from_the_mean_as_the_sizing_page_says(primaries: int, times: float) -> None:
    shares = simulate(DEVICES, 4096, primaries, 18)
    assert shares.primary / shares.mean_primary == pytest.approx(times, rel=0.03)
