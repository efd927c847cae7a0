"""Alternating rounds: floor, ours, floor, ours …, so that both halves of a round see the same machine."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]


def alternate(
    rounds: int, floor: Callable[[], float], ours: Callable[[], float], progress: Progress
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure `rounds` pairs and return the floors and ours, round by round."""
    floors, own = [], []
    for number in range(1, rounds + 1):
        floors.append(floor())
        own.append(ours())
        progress(f"round {number}/{rounds}: {own[-1]:,.0f} of {floors[-1]:,.0f} ({own[-1] / floors[-1]:.3f})")
    return tuple(floors), tuple(own)
