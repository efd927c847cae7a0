"""How much time passed while the ledger was served: what ends sessions and purges counts that, and no clock alone.

Who serves notes every minute in `ledger:meta` how late it is. A longer step between two notes is a jump: of a clock
that is wrong, or was; or nobody served meanwhile, and no device can have been heard. What lies in a jump makes nobody
idle or expired, and nothing old.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ledger import keys
from ledger.store.interface import Script, Store

JUMP_US: Final = 600_000_000
"""A longer step between two notes is a jump."""
MOST_JUMPS: Final = 16
"""How many are remembered; the oldest are counted as one."""
_NOTE: Final = Script.load("ledger.clocks", "note_time.lua", allow_oom=True)
_MS: Final = 1000


class Jump(NamedTuple):
    """A step of the clock: when it was made, by the clock before it, and how far it went."""

    from_us: int
    far_us: int


class Passed(NamedTuple):
    """How late it is, and the jumps on the way there, oldest first; `stepped_us`: how far this last note jumped."""

    now_us: int
    jumps: tuple[Jump, ...] = ()
    stepped_us: int = 0

    def before(self, age_us: int) -> int:
        """Tell the latest instant since which `age_us` have passed without what was jumped."""
        until_us = self.now_us
        for from_us, far_us in reversed(self.jumps):
            lived_us = until_us - (from_us + far_us)
            if lived_us >= age_us:
                break
            age_us -= max(0, lived_us)
            until_us = min(until_us, from_us)
        return until_us - age_us

    def reached(self, at_us: int) -> bool:
        """Tell whether an instant was reached by time that passed, and not by a jump."""
        return at_us <= self.now_us - sum(far_us for from_us, far_us in self.jumps if from_us < at_us)


async def note_time(store: Store, now_us: int) -> Passed:
    """Note how late it is; raises StoreUnavailable. In a ledger where nothing is noted yet the newest event counts."""
    name = keys.meta()
    noted, partitions = await store.command("HMGET", name, "noted_ms", "partitions", key=name)
    newest: int | str = ""
    if noted is None and partitions is not None:
        newest = await _newest_ms(store, int(partitions))
    stepped, text = await store.script(_NOTE, (name,), (now_us // _MS, JUMP_US // _MS, newest, MOST_JUMPS))
    pairs = (jump.split(b":") for jump in text.split(b",") if jump)
    return Passed(now_us, tuple(Jump(int(at) * _MS, int(far) * _MS) for at, far in pairs), int(stepped) * _MS)


async def _newest_ms(store: Store, partitions: int) -> int | str:
    """Tell when a session was last seen, in ms; '' if there is none."""
    newest = 0.0
    for partition in range(partitions):
        activity = keys.activity(partition)
        found = await store.command("ZRANGE", activity, 0, 0, "REV", "WITHSCORES", key=activity)
        newest = max(newest, float(found[1]) if found else 0.0)
    return int(newest) or ""
