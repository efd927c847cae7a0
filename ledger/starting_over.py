"""When the next stream may not simply go on: what a device holds that it must start over with, all of it or some types.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ledger.commands import EVER, Origin, Resend
from ledger.entity_types import COMPLETE, mask_of
from ledger.state import State

_UNTOLD: Final = Origin()


def reset_due(state: State, tombstone_floor_us: int, types: int = -1, origin: Origin = _UNTOLD) -> bool:
    """Tell whether the next stream, of `types` (a mask), may only ask the device to start over.

    Either it was asked before and has not answered, so that it may have emptied itself; or somebody wants it; or its
    source is another one now; or delete markers up to `tombstone_floor_us` are gone that it may have missed.
    """
    if state.reset_sent or state.pending_reset or exchanged(state, origin):
        return True
    return missed_deletes(state, tombstone_floor_us, types)


def exchanged(state: State, origin: Origin) -> bool:
    """Tell whether what the device has may be missing in its source, or the reverse, since that is of another origin.

    Not if that goes on from the one it was streamed from, beyond all that the device can have seen there.
    """
    if not origin.number or not (state.started or held(state)):
        return False
    if not state.origin:  # what was adopted was read of the source as it is
        return not origin.first and state.adopted is None
    if state.origin == origin.number:
        return False
    up_to = max((up_to for number, up_to in origin.follows if number == state.origin), default=0)
    return up_to != EVER and not 0 < state.written <= up_to


def missed_deletes(state: State, tombstone_floor_us: int, types: int = -1) -> bool:
    """Tell whether delete markers of `types` (a mask) up to `tombstone_floor_us` may be gone unseen by the device."""
    synced_us = state.synced_us(types)
    return synced_us is not None and synced_us <= tombstone_floor_us


def outdated(state: State, resends: Iterable[Resend]) -> int:
    """Tell the entity types (a mask) that the device holds, or is about to get, as its source does not send them now.

    Of a type without a checkpoint it got nothing, unless the stream that offered it is not finished.
    """
    mask = 0
    for resend in resends:
        if resend.revision > state.revision:
            mask |= resend.types
    if not mask:
        return 0
    complete = state.checkpoints.get(COMPLETE)
    there = mask_of(state.checkpoints)
    for offer in state.offered:
        if complete is None or offer.snapshot_us > complete.position.at_us:
            there |= offer.mask
    return mask & there


def held(state: State) -> int:
    """Tell of which types (a mask) there is a checkpoint, or an offer: lines of it may be on their way."""
    there = mask_of(state.checkpoints)
    for offer in state.offered:
        there |= offer.mask  # the acks of its lines must become stale
    return there
