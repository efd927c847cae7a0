"""The state of a session: what its events fold into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ledger.entity_types import CODES, COMPLETE
from ledger.events import StoredAck
from ledger.positions import Position


class Checkpoint(NamedTuple):
    """The acknowledged position of one entity type in its current epoch, and when it was acknowledged."""

    position: Position
    acked_at_us: int


class Offer(NamedTuple):
    """The newest snapshot offered for each entity type in `mask`."""

    snapshot_us: int
    mask: int


class State(msgspec.Struct, frozen=True):
    """A session as of event `seq`.

    `epoch` counts the times everything was cleared, from 1; `epochs` adds what single types were cleared beyond that.
    `epoch_start_us` is the snapshot of the first stream since everything was last cleared: before it the device has
    nothing of this service, so it can have missed no delete. `noted` are the latest acks recorded as stale or refused.
    """

    sid: str
    user: str
    library: str
    seq: int
    at_us: int
    hash: bytes
    created_at_us: int
    parent: str | None = None
    device_type: str = ""
    device_os: str = ""
    app_version: str | None = None
    expires_at_us: int | None = None
    authenticated_by: str = ""
    pending_reset: bool = False
    checkpoints: Mapping[str, Checkpoint] = msgspec.field(default_factory=dict)
    epoch: int = 1
    epochs: Mapping[str, int] = msgspec.field(default_factory=dict)
    epoch_start_us: int | None = None
    offered: tuple[Offer, ...] = ()
    noted: tuple[StoredAck, ...] = ()
    ended: str | None = None

    def epoch_of(self, entity_type: str) -> int:
        """Tell the current epoch of an entity type."""
        return self.epoch + self.epochs.get(entity_type, 0)

    def offered_us(self, entity_type: str) -> int:
        """Tell the newest snapshot offered for an entity type in its current epoch; -1 if none was."""
        bit = 1 << CODES[entity_type]
        for offer in self.offered:
            if offer.mask & bit:
                return offer.snapshot_us
        return -1

    def synced_us(self, types: int = 0) -> int | None:
        """Tell up to when the device surely knows of deletes; None if it was never offered anything.

        A stream that did not offer one of `types` (a mask) says nothing of that type's deletes, also if it completed.
        """
        complete = self.checkpoints.get(COMPLETE)
        if complete is None:
            return self.epoch_start_us
        return min([complete.position.at_us, *(offer.snapshot_us for offer in self.offered if offer.mask & types)])

    def lives_at(self, now_us: int) -> bool:
        """Tell whether the session admits anybody at `now_us`."""
        return self.ended is None and (self.expires_at_us is None or now_us < self.expires_at_us)
