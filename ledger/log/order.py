"""The index of devices: each partition's living sessions by who needs help first, and the ids of all sessions.

A score of `keys.order` is a class and an instant in ms within it: SPAN_MS times the class, plus the instant.

- class 0: it is marked as stuck, by how its last streams ended (`projections.sent`); since when
- class 1: it was heard of since it last completed a stream (by `keys.activity`, to the hour); when it completed that,
  or began if it holds no completion
- class 2: it was not; the same instant

The append script keeps it where sessions begin, end, complete or lose a completion, the load script where one is noted
as seen. Beside them `place` writes what was looked at: marks, what is rebuilt, what an earlier version left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Final, NamedTuple, Self

from ledger import keys
from ledger.entity_types import COMPLETE
from ledger.state import State
from ledger.store.interface import Arg, Script, Store

SPAN_MS: Final = 2**43
FILLED: Final = b"@filled"
"""The member of `keys.sids` that tells that all sessions of the partition are in the index."""
INDEXED: Final = "indexed_at_us"
"""Field of `ledger:meta`: since when all who write keep the index, and all that was before is in it."""
INDEXED_FROM: Final = 2
"""The format of a ledger from which on all who write to it keep the index."""
PLACING: Final = resources.files("ledger.log").joinpath("placing.lua").read_text("utf-8")
"""What scripts begin with that write the order."""
_PLACE: Final = Script.load("ledger.log", "place.lua", allow_oom=True, behind=PLACING)  # a few bytes a session
_KEPT: Final = b"="


class Placing(NamedTuple):
    """Where a session belongs, as it was looked at.

    `seq` is the one that it had, 0 if it did not live. `counts_ms`: from when its place counts. `stuck_ms`: since when
    it is stuck, None if it is not; -1 leaves that as it is. `sent`: its newest record of a stream as it is stored, by
    which that was judged; empty for none.
    """

    sid: str
    seq: int
    counts_ms: int = 0
    stuck_ms: int | None = -1
    sent: bytes = b""

    @classmethod
    def of(cls, state: State, stuck_us: int | None, sent: Sequence[bytes]) -> Self:
        """Tell where a session belongs that is stuck since an instant, as was judged by these records of streams."""
        since_ms = None if stuck_us is None else stuck_us // 1000
        return cls(state.sid, state.seq, counts_ms(state), since_ms, sent[0] if sent else b"")

    @property
    def stuck(self) -> Arg:
        """Since when it is stuck, as scripts read it."""
        return b"" if self.stuck_ms is None else _KEPT if self.stuck_ms < 0 else self.stuck_ms


def counts_ms(state: State) -> int:
    """Tell from when a session's place in the order counts, in ms: its last completion, else its beginning."""
    completed = state.checkpoints.get(COMPLETE)
    return (state.created_at_us if completed is None else completed.acked_at_us) // 1000


async def place(store: Store, partition: int, placings: Sequence[Placing]) -> list[str]:
    """Put sessions of a partition in their places in the index, or out of it; at most about a hundred.

    Those that are not stored any more as they were looked at are left alone, and returned.
    """
    names = [keys.order(partition), keys.sids(partition), keys.activity(partition), keys.ended(partition)]
    args: list[Arg] = []
    for placing in placings:
        names += (keys.session(partition, placing.sid), keys.sent(partition, placing.sid))
        args += (placing.sid, placing.seq or b"", placing.counts_ms, placing.stuck, placing.sent)
    moved = await store.script(_PLACE, names, args)
    return [sid.decode() for sid in moved]


async def is_filled(store: Store, partition: int) -> bool:
    """Tell whether all sessions of a partition are in the index."""
    name = keys.sids(partition)
    return await store.command("ZSCORE", name, FILLED, key=name) is not None


async def mark_filled(store: Store, partition: int) -> None:
    """Tell that all sessions of a partition are in the index."""
    name = keys.sids(partition)
    await store.command("ZADD", name, 0, FILLED, key=name)
