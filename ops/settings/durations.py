"""Durations as people write them: `500ms`, `10s`, `15m`, `2h`, `30d`."""

from __future__ import annotations

import re

UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
LONGEST_MS = 36_525 * UNIT_MS["d"]

_DURATION = re.compile(r"(\d{1,15})(?:\.(\d{1,3}))?(ms|s|m|h|d)", re.ASCII)


def parse_duration(text: str) -> float:
    """Return the seconds that `text` names; one number and one unit, whole milliseconds, at most a hundred years.

    Raises ValueError with a message that shows how a duration is written.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 500ms, 10s, 15m, 2h or 30d")
    whole, fraction, unit = match.groups()
    thousandths = int(whole) * 1000 + int((fraction or "").ljust(3, "0"))
    duration_ms, rest = divmod(thousandths * UNIT_MS[unit], 1000)
    if rest:
        raise ValueError(f"{text!r} is finer than a millisecond")
    if duration_ms > LONGEST_MS:
        raise ValueError(f"{text!r} is longer than {format_duration(LONGEST_MS / 1000)}")
    return duration_ms / 1000


def format_duration(duration_s: float) -> str:
    """Return the shortest exact form in the largest unit that divides it; `parse_duration` reads it back."""
    duration_ms = round(duration_s * 1000)
    for unit in ("d", "h", "m", "s"):
        if duration_ms and duration_ms % UNIT_MS[unit] == 0:
            return f"{duration_ms // UNIT_MS[unit]}{unit}"
    return f"{duration_ms}ms" if duration_ms else "0s"
