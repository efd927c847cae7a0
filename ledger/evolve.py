"""The fold: the one place that tells what an event means for the state.

Live writes, replay, verify, rebuild and time travel all use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never

from msgspec.structs import replace

from ledger.acks import completed_types
from ledger.chain import GENESIS, previous_of
from ledger.entity_types import CODES, COMPLETE, ENTITY_TYPES, mask_of, types_in
from ledger.errors import CorruptLedger, UnknownEvent
from ledger.events import (
    IMMICH,
    AckRefused,
    AcksRecorded,
    CheckpointsAdopted,
    CheckpointsCleared,
    DeviceDescribed,
    HistoryLost,
    Recorded,
    ResetSent,
    SessionCreated,
    SessionEnded,
    SessionResumed,
    StoredAck,
    StreamOffered,
    SyncResetRequested,
    TokenFirstUsed,
    TokenRotated,
)
from ledger.positions import Position
from ledger.state import Adopted, Checkpoint, NewToken, Offer, OldToken, State

NOTED: Final = 8
"""How many of the latest stale or refused acks a state remembers, to record each once."""
_COMPLETE_CODE: Final = CODES[COMPLETE]
_COMPLETE_BIT: Final = 1 << _COMPLETE_CODE
TOKENS: Final = 8
"""How many of the latest new tokens a state remembers, and of the latest replaced ones that were used, or were not."""


def fold(state: State | None, events: Iterable[Recorded]) -> State | None:
    """Fold events onto a state; None without any."""
    for recorded in events:
        state = evolve(state, recorded)
    return state


def evolve(state: State | None, recorded: Recorded) -> State:
    """Fold one event onto the state before it; raises CorruptLedger if it cannot follow that state."""
    event = recorded.event
    if isinstance(event, SessionCreated):
        return _created(state, recorded, event)
    if state is None or state.ended is not None or recorded.seq != state.seq + 1:
        return _gone_on(state, recorded)
    seq, at_us, digest = recorded.seq, recorded.at_us, recorded.hash
    match event:
        case AcksRecorded(moved=moved, stale=stale, stale_count=stale_count):
            checkpoints, heard, advanced = dict(state.checkpoints), state.heard, 0
            for ack in moved:
                code, position_us, entity_id = ack.code, ack.at_us, ack.id
                if not 0 <= code < len(ENTITY_TYPES):
                    raise UnknownEvent(f"an ack of entity type {code}, which this version does not know: upgrade")
                advanced |= 1 << code
                if code == _COMPLETE_CODE:
                    if news := state.news_in(position_us, completed_types(entity_id)):
                        heard = _newest(heard, position_us, news)
                    newest = checkpoints.get(COMPLETE)
                    if newest is not None and newest.position.at_us > position_us:
                        continue  # a stream that began earlier ended later
                checkpoints[ENTITY_TYPES[code]] = Checkpoint(Position(position_us, entity_id), at_us)
            state = replace(state, seq=seq, at_us=at_us, hash=digest, checkpoints=checkpoints, heard=heard)
            return _ignored(state, advanced, stale, stale_count) if stale or state.stale or state.refused else state
        case StreamOffered():
            return _offered(replace(state, seq=seq, at_us=at_us, hash=digest), event)
        case AckRefused(ack=ack, first=first):
            refused = state.refused | (1 << ack.code if first else 0)
            noted = _note(state.noted, (ack,))
            return replace(state, seq=seq, at_us=at_us, hash=digest, noted=noted, refused=refused)
        case CheckpointsCleared():
            return _cleared(replace(state, seq=seq, at_us=at_us, hash=digest), event)
        case SyncResetRequested(on=on, epoch=epoch):
            epoch = max(epoch, state.epoch)
            return replace(state, seq=seq, at_us=at_us, hash=digest, pending_reset=on, epoch=epoch)
        case CheckpointsAdopted():
            return _adopted(replace(state, seq=seq, at_us=at_us, hash=digest), event)
        case ResetSent(cause=cause):
            return replace(state, seq=seq, at_us=at_us, hash=digest, reset_sent=cause)
        case DeviceDescribed(device_type=device_type, device_os=device_os, app_version=app_version):
            return replace(
                state,
                seq=seq,
                at_us=at_us,
                hash=digest,
                device_type=device_type or state.device_type,
                device_os=device_os or state.device_os,
                app_version=app_version or state.app_version,
            )
        case TokenRotated(token=token, number=number, expires_at_us=expires_at_us):
            new = (*state.new_tokens, NewToken(token, expires_at_us))[-TOKENS:]
            number = max(number, state.token_number)
            return replace(state, seq=seq, at_us=at_us, hash=digest, new_tokens=new, token_number=number)
        case TokenFirstUsed():
            return _token_used(replace(state, seq=seq, at_us=at_us, hash=digest), event)
        case SessionEnded(reason=reason):
            return replace(state, seq=seq, at_us=at_us, hash=digest, ended=reason)
        case HistoryLost() | SessionResumed():
            raise _does_not_follow(state, recorded)
    assert_never(event)


def left_of(sid: str, user: str, seq: int, digest: bytes) -> State:
    """Make the state of a session that has ended, of which nothing else is kept."""
    return State(sid, user, "", seq, 0, digest, 0, ended="ended")


def _gone_on(state: State | None, recorded: Recorded) -> State:
    """Fold the first event behind a hole, or behind a session's end; raises CorruptLedger for any other."""
    event, seq, at_us, digest = recorded.event, recorded.seq, recorded.at_us, recorded.hash
    before = (0, GENESIS) if state is None else (state.seq, state.hash)
    if isinstance(event, HistoryLost) and previous_of(recorded, *before) is not None:
        if state is None:  # it waits for the event that creates it anew, and has no library until then
            return State(recorded.sid, "", "", seq, at_us, digest, at_us)
        if state.ended is None:
            return replace(state, seq=seq, at_us=max(at_us, state.at_us), hash=digest)
    if isinstance(event, SessionResumed) and state is not None and state.ended is not None and seq == state.seq + 1:
        return State(recorded.sid, state.user, "", seq, at_us, digest, at_us, pending_reset=True, epoch=event.epoch)
    raise _does_not_follow(state, recorded)


def _does_not_follow(state: State | None, recorded: Recorded) -> CorruptLedger:
    return CorruptLedger(
        "an event does not follow the one before it",
        sid=recorded.sid,
        seq=recorded.seq,
        after=None if state is None else state.seq,
    )


def _created(state: State | None, recorded: Recorded, event: SessionCreated) -> State:
    """Begin a session, or begin anew one that is there again."""
    if state is not None and (state.library or state.ended is not None):
        raise CorruptLedger("a session was created twice", sid=recorded.sid, seq=recorded.seq)
    if recorded.seq != (1 if state is None else state.seq + 1) or (state and state.user not in ("", event.user)):
        raise CorruptLedger("a session begins with an event that is not its first", sid=recorded.sid, seq=recorded.seq)
    return State(
        sid=recorded.sid,
        user=event.user,
        library=event.library,
        seq=recorded.seq,
        at_us=recorded.at_us,
        hash=recorded.hash,
        created_at_us=recorded.at_us,
        parent=event.parent,
        device_type=event.device_type,
        device_os=event.device_os,
        app_version=event.app_version,
        expires_at_us=event.expires_at_us,
        authenticated_by=event.authenticated_by,
        provider_session=event.provider_session,
        token_expires_at_us=event.token_expires_at_us,
        pending_reset=state is not None and state.pending_reset,
        epoch=1 if state is None else state.epoch,
    )


def _token_used(state: State, event: TokenFirstUsed) -> State:
    """Put a new token into use; what it replaces never becomes good for longer than it was."""
    expires_at_us = next((token.expires_at_us for token in state.new_tokens if token.digest == event.token), None)
    old = [*state.old_tokens, OldToken(state.token_in_use, event.until_us)]
    old += [OldToken(new.digest, event.until_us, False) for new in state.new_tokens if new.digest != event.token]
    used, unused = ([token for token in old if token.was_used == kind][-TOKENS:] for kind in (True, False))
    return replace(
        state,
        token=event.token,
        token_expires_at_us=expires_at_us,
        new_tokens=(),
        old_tokens=(*used, *unused),  # those that were never used push no other out
    )


def _cleared(state: State, event: CheckpointsCleared) -> State:
    pending = state.pending_reset and not event.reset
    if state.adopted is not None:
        state = replace(state, adopted=_adopted_since(state.adopted, event))
    if event.types is None:
        after = replace(state, checkpoints={}, offered=(), epoch=state.epoch + 1, pending_reset=pending, reset_sent="")
        after = replace(after, stale=0, refused=0)
        return replace(after, started=(), heard=()) if event.wiped else after
    mask = int.from_bytes(event.types, "big")
    cleared = types_in(mask)
    epochs = dict(state.epochs)
    for entity_type in cleared:
        epochs[entity_type] = epochs.get(entity_type, 0) + 1
    checkpoints = {name: checkpoint for name, checkpoint in state.checkpoints.items() if name not in cleared}
    offered = tuple(Offer(us, rest) for us, held in state.offered if (rest := held & ~mask))
    stale, refused = state.stale & ~mask, state.refused & ~mask
    state = replace(state, stale=stale, refused=refused)
    return replace(state, checkpoints=checkpoints, offered=offered, epochs=epochs, pending_reset=pending)


def _adopted_since(adopted: Adopted, event: CheckpointsCleared) -> Adopted:
    if event.cause != IMMICH:
        return adopted._replace(restarted=True)
    if event.types is None:  # it has started over there too
        return adopted._replace(mask=0, restarted=False)
    return adopted._replace(mask=adopted.mask & ~int.from_bytes(event.types, "big"))


def _adopted(state: State, event: CheckpointsAdopted) -> State:
    """Put the positions in place of all that is known.

    As far as it completed there, the device heard of their types, of those found there besides, and of those that the
    completion names.
    """
    checkpoints: dict[str, Checkpoint] = {}
    for ack in event.positions:
        if not 0 <= ack.code < len(ENTITY_TYPES):
            raise UnknownEvent(f"a position of entity type {ack.code}, which this version does not know: upgrade")
        checkpoints[ENTITY_TYPES[ack.code]] = Checkpoint(Position(ack.at_us, ack.id), state.at_us)
    complete = checkpoints.get(COMPLETE)
    types = int.from_bytes(event.types, "big")
    mask = mask_of(checkpoints) | types | (completed_types(complete.position.id) if complete else 0)
    mask &= ~_COMPLETE_BIT
    return replace(
        state,
        checkpoints=checkpoints,
        stale=0,
        refused=0,
        epoch=state.epoch + 1 if holds_any(state) else state.epoch,
        offered=(),
        started=(Offer(event.since_us, mask),) if mask else (),
        heard=(Offer(complete.position.at_us, mask),) if mask and complete else (),
        reset_sent="",
        revision=max(state.revision, event.revision),
        origin=0,
        written=0,
        adopted=Adopted(event.as_of_us, types, state.adopted is not None and state.adopted.restarted),
    )


def holds_any(state: State) -> bool:
    """Tell whether there is anything that the device acknowledged, or may acknowledge: then new ones open an epoch."""
    return bool(state.checkpoints or state.offered or state.reset_sent)


def _offered(state: State, event: StreamOffered) -> State:
    mask = int.from_bytes(event.types, "big")
    origin, written = state.origin, state.written
    if event.origin:
        written = max(written, event.written) if event.origin == origin else event.written
        origin = event.origin
    return replace(
        state,
        offered=_newest(state.offered, event.snapshot_us, mask),
        started=_first(state.started, event.snapshot_us, mask),
        revision=max(state.revision, event.revision),
        origin=origin,
        written=written,
    )


def _first(started: tuple[Offer, ...], snapshot_us: int, mask: int) -> tuple[Offer, ...]:
    """Add what begins with a stream; each type stays with its first snapshot."""
    mask &= ~_COMPLETE_BIT
    for offer in started:
        mask &= ~offer.mask
    return _newest(started, snapshot_us, mask) if mask else started


def _newest(offers: tuple[Offer, ...], snapshot_us: int, mask: int) -> tuple[Offer, ...]:
    """Add types at a snapshot; each type stays only with its newest one, newest first."""
    by_snapshot = {snapshot_us: mask}
    for older_us, held in offers:
        if older_us >= snapshot_us:
            by_snapshot[older_us] = by_snapshot.get(older_us, 0) | held
            by_snapshot[snapshot_us] &= ~held if older_us > snapshot_us else -1
        elif rest := held & ~mask:
            by_snapshot[older_us] = rest
    return tuple(Offer(us, by_snapshot[us]) for us in sorted(by_snapshot, reverse=True) if by_snapshot[us])


def _ignored(state: State, advanced: int, stale: tuple[StoredAck, ...], stale_count: int) -> State:
    """Note what of a request's acks was stale. Of what earlier versions wrote (no count) only `noted` tells."""
    of_types = 0
    for ack in stale if stale_count else ():
        of_types |= 1 << ack.code
    return replace(
        state,
        noted=_note(state.noted, stale) if stale else state.noted,
        stale=state.stale & ~advanced | of_types,
        refused=state.refused & ~advanced,
    )


def _note(noted: tuple[StoredAck, ...], more: tuple[StoredAck, ...]) -> tuple[StoredAck, ...]:
    return (*noted, *more)[-NOTED:]
