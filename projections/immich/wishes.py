"""What follows from a wish at Immich that a device start over (`"isPendingSyncReset"`), until it is taken back. Pure.

Immich takes it back with the device's ack of the reset, and forgets its checkpoints with it. Here they cannot be
forgotten: were the wish taken back with the ack, a device that breaks off then and goes back to Immich would be sent
only what is behind them, though it is empty. So it stands there until the device has got here what they stand for; if
it goes back before, Immich has it start over.
"""

from __future__ import annotations

from typing import Final, Literal

from ledger.entity_types import COMPLETE, mask_of
from ledger.state import State

TOUCHED_MS: Final = 3_600_000
"""Immich touches the row of a session in use, by which its mark changes, but not so soon after another change."""
_COMPLETE: Final = mask_of([COMPLETE])

Follows = Literal["ask", "wait", "take_back"]


def follows(state: State, asked: str, mark: str) -> Follows:
    """Tell what follows from a wish that stands at Immich, where the device was asked to start over before.

    `mark` is the row's `"updateId"` as it is now, `asked` the one that was noted last: when the device was asked, or at
    a later look that had it wait. Both are UUIDv7s. `ask`: it was wished for once more. `wait`: the device has not
    started over yet, or could not go back to Immich without the wish; then the mark is to be noted. `take_back`: all is
    done. To touch the row is no wish; where it may be either, it is one, but not while the device is at it.
    """
    if state.pending_reset or state.reset_sent:
        return "wait"
    is_at_it = not state.heard and not can_go_back(state)
    if asked != mark and not (is_at_it and _ms(mark) - _ms(asked) >= TOUCHED_MS):
        return "ask"
    return "take_back" if can_go_back(state) else "wait"


def can_go_back(state: State) -> bool:
    """Tell whether a device that started over has got here all that Immich takes it to have.

    That is each type that Immich has a checkpoint of, to the end of a stream that began behind the newest of them. A
    type that it does not ask for any more does not count.
    """
    if state.adopted is None:
        return True
    known = asked = 0
    for offer in state.heard:
        if offer.snapshot_us > state.adopted.as_of_us:
            known |= offer.mask
    for offer in state.started:
        asked |= offer.mask
    there = state.adopted.mask & ~_COMPLETE
    return not there or (known != 0 and not there & asked & ~known)


def _ms(mark: str) -> int:
    return int(mark.replace("-", "")[:12], 16)
