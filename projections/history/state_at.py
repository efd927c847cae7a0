"""A session as it was at an instant, from the fold of its events alone: no projection is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from ledger.acks import Ack, format_ack
from ledger.entity_types import CODES, types_in
from ledger.errors import CorruptLedger, LayoutError, LedgerError, NoSuchSession
from ledger.events import SessionEnded
from ledger.log.milestones import is_kept, passes, write
from ledger.log.reader import Entry
from ledger.personal import UserKey, opened, text_of
from ledger.positions import iso_from_us
from ledger.state import Offer, State
from projections.archive.errors import ArchiveNotGiven
from projections.history.event_pages import EventPages
from projections.history.words import ack_text, instant


class Moment(NamedTuple):
    """A session's fold up to an instant, and the last event in it."""

    state: State
    last: Entry


class CheckpointThen(msgspec.Struct, frozen=True, rename="camel"):
    """How far the device had acknowledged one entity type."""

    ack: str
    acknowledged_at: str


class OfferThen(msgspec.Struct, frozen=True):
    """Up to where which entity types had been offered, or completed."""

    snapshot: str
    types: tuple[str, ...]


class TokensThen(msgspec.Struct, frozen=True, rename="camel"):
    """The session's tokens: which number is in use, until when, and how many others were good or remembered."""

    number: int
    expires_at: str | None
    not_used_yet: int
    replaced: int


class EndThen(msgspec.Struct, frozen=True):
    """Why, by whom (null: erased) and when the session was ended."""

    reason: str
    by: str | None
    at: str


class EventThen(msgspec.Struct, frozen=True, rename="camel"):
    """The last event of the fold: the hash proves all before it."""

    seq: int
    at: str
    hash: str
    stream_id: str


class StateThen(msgspec.Struct, frozen=True, rename="camel"):
    """A session and its checkpoints as they were at an instant.

    `status` is living, ended, or expired: over, though no event has said so yet. `reset_sent` is why the device was
    sent a reset that it has not acknowledged, empty if it was sent none. `epochs` are those of single types beyond
    `epoch`. `started` tells up to where which types were first offered since the device last held nothing, `heard` up
    to where it completed streams of them. `ignored` are the latest acks that were stale or refused. `revision` is the
    one of the source that its streams were made by. `event` is the last one that happened by then.
    What a device said of itself is null where its user was erased.
    """

    session_id: str
    at: str
    status: Literal["living", "ended", "expired"]
    ended: EndThen | None
    user: str
    library: str
    parent: str | None
    device_type: str | None
    device_os: str | None = msgspec.field(name="deviceOS")
    app_version: str | None
    authenticated_by: str
    created_at: str
    expires_at: str | None
    pending_reset: bool
    reset_sent: str
    checkpoints: dict[str, CheckpointThen]
    epoch: int
    epochs: dict[str, int]
    offered: list[OfferThen]
    started: list[OfferThen]
    heard: list[OfferThen]
    ignored: list[str]
    tokens: TokensThen
    revision: int
    event: EventThen


async def fold_at(past: EventPages, partition: int, sid: str, at_us: int) -> Moment:
    """Fold a session's events up to an instant, itself included, checking each link of the chain.

    Begins with the milestone or the state that the archive kept last before then, if there is one, else with the first
    event; milestones that it comes by are written. Raises NoSuchSession before the first event, CorruptLedger where the
    chain is broken, LayoutError if its beginning was removed, ArchiveNotGiven if that is in an archive not read.
    """
    newest = await past.page(partition, sid, top_at_us=at_us, count=1)
    if not newest.entries:
        raise await _not_yet(past, partition, sid, at_us)
    last, fold = newest.entries[0], await past.state_before(partition, sid, newest.entries[0])
    begun_seq = 0 if fold.state is None else fold.state.seq
    passed: list[State] = []
    async for run in past.runs(partition, sid, until_us=at_us, beyond_seq=begun_seq, forward=True):
        if run.below_floor:
            raise _removed(past, sid)
        for entry in run.entries:
            before = 0 if fold.state is None else fold.state.seq
            if wrong := fold.take(entry):
                raise CorruptLedger(wrong, sid=sid, seq=entry.recorded.seq)
            last = entry
            if passes(before, entry.recorded.seq) and fold.state is not None and fold.state.ended is None:
                passed.append(fold.state)
    assert fold.state is not None
    if passed:
        (top,) = (await past.page(partition, sid, count=1)).entries
        await write(past.store, partition, [state for state in passed if is_kept(state.seq, top.recorded.seq)])
    return Moment(fold.state, last)


def describe(moment: Moment, at_us: int, key: UserKey | None = None) -> StateThen:
    """Put a fold into words, as of an instant not before its last event; `key` opens what is personal."""
    state, last = opened(moment.state, key), moment.last
    event, ended = opened(last.recorded.event, key), None
    if isinstance(event, SessionEnded):
        ended = EndThen(event.reason, text_of(event.by), iso_from_us(last.recorded.at_us))
    return StateThen(
        session_id=state.sid,
        at=iso_from_us(at_us),
        status="ended" if ended else "living" if state.lives_at(at_us) else "expired",
        ended=ended,
        user=state.user,
        library=state.library,
        parent=state.parent,
        device_type=text_of(state.device_type),
        device_os=text_of(state.device_os),
        app_version=text_of(state.app_version) or None,
        authenticated_by=state.authenticated_by,
        created_at=iso_from_us(state.created_at_us),
        expires_at=instant(state.over_at_us),
        pending_reset=state.pending_reset,
        reset_sent=state.reset_sent,
        checkpoints={
            name: CheckpointThen(
                format_ack(Ack(name, held.position, state.epoch_of(name))), iso_from_us(held.acked_at_us)
            )
            for name, held in sorted(state.checkpoints.items(), key=lambda pair: CODES[pair[0]])
        },
        epoch=state.epoch,
        epochs={name: state.epoch_of(name) for name in sorted(state.epochs)},
        offered=_offers(state.offered),
        started=_offers(state.started),
        heard=_offers(state.heard),
        ignored=[ack_text(ack) for ack in state.noted],
        tokens=TokensThen(
            state.token_number, instant(state.token_expires_at_us), len(state.new_tokens), len(state.old_tokens)
        ),
        revision=state.revision,
        event=EventThen(state.seq, iso_from_us(state.at_us), state.hash.hex(), last.id),
    )


def _offers(offers: Sequence[Offer]) -> list[OfferThen]:
    return [OfferThen(iso_from_us(offer.snapshot_us), types_in(offer.mask)) for offer in offers]


async def _not_yet(past: EventPages, partition: int, sid: str, at_us: int) -> LedgerError:
    """Tell why there is no event of a session up to an instant; raises NoSuchSession if it never was."""
    first = await past.page(partition, sid, top_seq=1, count=1)
    if first.below_floor:
        return _removed(past, sid)
    began = f": it was created at {iso_from_us(first.entries[0].recorded.at_us)}" if first.entries else ""
    return NoSuchSession(f"Session {sid} had not begun at {iso_from_us(at_us)}{began}")


def _removed(past: EventPages, sid: str) -> LayoutError:
    if not past.has_archive:
        return ArchiveNotGiven()
    return LayoutError(f"The first events of session {sid} are not here: they were removed by retention")
