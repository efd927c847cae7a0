"""The state of a session: what its events fold into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ledger.entity_types import CODES
from ledger.events import Personal, StoredAck
from ledger.positions import Position
from ledger.session_ids import SID_CHARS


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """The acknowledged position of one entity type in its current epoch, and when it was acknowledged."""

    position: Position
    acked_at_us: int


class Offer(NamedTuple):
    """A snapshot that was offered, begun with or completed, for each entity type in `mask`."""

    snapshot_us: int
    mask: int


class Adopted(NamedTuple):
    """What was found elsewhere when checkpoints were adopted: when its newest changed, and of which types (a mask).

    `restarted`: something of it began anew here since, of which nobody there knows: the device may lack what they take
    it to have.
    """

    as_of_us: int
    mask: int
    restarted: bool = False


class NewToken(NamedTuple):
    """A token that was issued and not used yet, by its SHA-256."""

    digest: bytes
    expires_at_us: int | None


class OldToken(NamedTuple):
    """A token that was replaced, by its SHA-256, until when it is good all the same, and whether it was ever in use."""

    digest: bytes
    until_us: int
    was_used: bool = True


def living_parent_of(parent: str | None) -> str:
    """Tell which session must live for one to live; '' for none, as where its parent is another service's."""
    return parent if parent is not None and len(parent) == SID_CHARS else ""


class State(msgspec.Struct, frozen=True):
    """A session as of event `seq`.

    `epoch` counts the times everything was cleared, from 1; `epochs` adds what single types were cleared beyond that.
    `offered` tells the newest snapshot offered of each type in its epoch. `started` tells that of the first stream of a
    type since the device last held nothing, `heard` that of the newest one that it completed: before it started it had
    nothing of the type, so it can have missed no delete. Clearing checkpoints by itself changes neither. Each type is
    once in each of the three. `reset_sent` is why a reset line was sent that is not acknowledged yet, or empty.
    `noted` are the latest acks recorded as stale or refused; `stale` and `refused` (masks) are the types of which one
    is on record since they last advanced or were cleared: no other of these is an event of its own. `revision`: by
    which revision of a source its streams were made, at the latest (`ledger.commands.Resend`). `origin`: in which
    origin of a source (`ledger.commands.Origin`), 0 if none was told, and up to where that was `written` then. `token`
    is the SHA-256 of the token in use, empty for the first one, whose digest is the session's id. `parent` is the
    session that it ends with, or one that another service calls so by an id of its own (`authenticated_by`), which says
    itself when this one is over. `adopted` is None where
    no checkpoints ever were.
    """

    sid: str
    user: str
    library: str
    seq: int
    at_us: int
    hash: bytes
    created_at_us: int
    parent: str | None = None
    device_type: Personal = b""
    device_os: Personal = b""
    app_version: Personal = b""
    expires_at_us: int | None = None
    authenticated_by: str = ""
    pending_reset: bool = False
    checkpoints: Mapping[str, Checkpoint] = msgspec.field(default_factory=dict)
    epoch: int = 1
    epochs: Mapping[str, int] = msgspec.field(default_factory=dict)
    offered: tuple[Offer, ...] = ()
    started: tuple[Offer, ...] = ()
    heard: tuple[Offer, ...] = ()
    reset_sent: str = ""
    noted: tuple[StoredAck, ...] = ()
    stale: int = 0
    refused: int = 0
    provider_session: bytes = b""
    token: bytes = b""
    token_number: int = 0
    token_expires_at_us: int | None = None
    new_tokens: tuple[NewToken, ...] = ()
    old_tokens: tuple[OldToken, ...] = ()
    revision: int = 0
    origin: int = 0
    written: int = 0
    adopted: Adopted | None = None
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

    def synced_us(self, types: int = -1) -> int | None:
        """Tell up to when the device surely knows of deletes of `types` (a mask); None if it was offered none of them.

        Only a stream that it completed says so, and only of the types that it carried. A type that no stream completed
        counts from its first one, and one that was never offered does not count.
        """
        known, found = 0, []
        for offer in self.heard:
            known |= offer.mask
            if offer.mask & types:
                found.append(offer.snapshot_us)
        found += [offer.snapshot_us for offer in self.started if offer.mask & types & ~known]
        return min(found, default=None)

    def news_in(self, snapshot_us: int, types: int) -> int:
        """Tell of which of `types` (a mask) the device heard more by completing a stream of them.

        Those that no stream can have offered up to that snapshot do not count.
        """
        known = 0
        for offer in self.started:
            if offer.snapshot_us <= snapshot_us:
                known |= offer.mask
        for offer in self.offered:
            if offer.snapshot_us < snapshot_us:
                known &= ~offer.mask
        for offer in self.heard:
            if offer.snapshot_us >= snapshot_us:
                known &= ~offer.mask
        return known & types

    def lives_at(self, now_us: int) -> bool:
        """Tell whether the session admits anybody at `now_us`."""
        if self.ended is not None:
            return False
        if self.expires_at_us is None and self.token_expires_at_us is None:  # PERF: most sessions, at each request
            return True
        over_at_us = self.over_at_us
        return over_at_us is None or now_us < over_at_us
