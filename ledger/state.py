"""The state of a session: what its events fold into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ledger.entity_types import CODES, COMPLETE
from ledger.events import StoredAck
from ledger.positions import Position


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """The acknowledged position of one entity type in its current epoch, and when it was acknowledged."""

    position: Position
    acked_at_us: int


class Offer(NamedTuple):
    """The newest snapshot offered for each entity type in `mask`."""

    snapshot_us: int
    mask: int


class NewToken(NamedTuple):
    """A token that was issued and not used yet, by its SHA-256."""

    digest: bytes
    expires_at_us: int | None


class OldToken(NamedTuple):
    """A token that was replaced, by its SHA-256, and until when it is good all the same."""

    digest: bytes
    until_us: int


class State(msgspec.Struct, frozen=True):
    """A session as of event `seq`.

    `epoch` counts the times everything was cleared, from 1; `epochs` adds what single types were cleared beyond that.
    `epoch_start_us` is the snapshot of the first stream since everything was last cleared: before it the device has
    nothing of this service, so it can have missed no delete. `noted` are the latest acks recorded as stale or refused.
    `revision`: by which revision of a source its streams were made, at the latest (`ledger.commands.Resend`).
    `token` is the SHA-256 of the token in use, empty for the first one, whose digest is the session's id.
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
    provider_session: bytes = b""
    token: bytes = b""
    token_number: int = 0
    token_expires_at_us: int | None = None
    new_tokens: tuple[NewToken, ...] = ()
    old_tokens: tuple[OldToken, ...] = ()
    revision: int = 0
    ended: str | None = None

    @property
    def token_in_use(self) -> bytes:
        """The SHA-256 of the token in use."""
        return self.token or bytes.fromhex(self.sid)

    @property
    def over_at_us(self) -> int | None:
        """When the session ends by itself: at its own expiry, or when no token is good any more; None for never."""
        expiries = (self.token_expires_at_us, *(token.expires_at_us for token in self.new_tokens))
        last_token_us = None if None in expiries else max(us for us in expiries if us is not None)
        ends = [us for us in (self.expires_at_us, last_token_us) if us is not None]
        return min(ends) if ends else None

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
        if self.ended is not None:
            return False
        if self.expires_at_us is None and self.token_expires_at_us is None:  # PERF: most sessions, at each request
            return True
        over_at_us = self.over_at_us
        return over_at_us is None or now_us < over_at_us
