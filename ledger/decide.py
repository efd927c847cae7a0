"""What a command does to a session: events, or a refusal.

Pure: `now_us` is an argument, nothing is read or written. A refusal that must itself be on record carries its events in
`Refused.record`; the caller appends them and raises on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never

from ledger.acks import RESET_ACK, Ack, completed_types, format_ack
from ledger.commands import (
    EVER,
    AdoptCheckpoints,
    ClearCheckpoints,
    Command,
    CreateSession,
    DescribeDevice,
    EndSession,
    ExpireSession,
    GoOn,
    OfferStream,
    Origin,
    RecordAcks,
    RequestReset,
    Resend,
    ResumeSession,
    RotateToken,
    UseToken,
)
from ledger.entity_types import CODES, COMPLETE, mask_of
from ledger.errors import AckNotOffered, Refused, SessionEnded
from ledger.events import (
    IMMICH,
    AckRefused,
    AcksRecorded,
    CheckpointsAdopted,
    CheckpointsCleared,
    DeviceDescribed,
    Event,
    HistoryLost,
    ResetSent,
    SessionCreated,
    SessionResumed,
    StoredAck,
    StreamOffered,
    SyncResetRequested,
    TokenFirstUsed,
    TokenRotated,
    mask_bytes,
)
from ledger.events import SessionEnded as SessionEndedEvent
from ledger.evolve import holds_any
from ledger.positions import Position
from ledger.state import State

RESET_ACKED: Final = "reset_acked"
SOURCE_REVISION: Final = "source_revision"
REQUESTED: Final = "requested"
DELETES_PURGED: Final = "deletes_purged"
ACK_AHEAD: Final = "ack_ahead"
HISTORY_LOST: Final = "history_lost"
FENCE: Final = "fence"
MAX_EPOCHS_LOST: Final = 1000
"""By how many epochs an ack may be ahead of the log for a loss to explain it."""
SOURCE: Final = "source"
_NOTHING: Final[tuple[Event, ...]] = ()
_UNTOLD: Final = Origin()


def decide(state: State | None, command: Command, now_us: int) -> tuple[Event, ...]:
    """Decide what a command does at `now_us`; an empty tuple when it changes nothing.

    `state` is None for a session that does not exist. Raises SessionEnded when there is no living session to act on,
    and Refused when the command is wrong for this one.
    """
    if isinstance(command, CreateSession):
        return _create(state, command)
    if isinstance(command, GoOn):
        return _go_on(state, command)
    if isinstance(command, ResumeSession):
        return _resume(state, command)
    if state is None or state.ended is not None:
        raise SessionEnded
    if isinstance(command, EndSession):
        return (SessionEndedEvent(command.reason, command.by),)
    if isinstance(command, ExpireSession):
        return _expire(state, command, now_us)
    if not state.lives_at(now_us):
        raise SessionEnded
    match command:
        case RecordAcks():
            return record_acks(state, command.acks)
        case OfferStream():
            return _offer(state, command)
        case ClearCheckpoints():
            return _clear(state, command)
        case RequestReset():
            if command.on == state.pending_reset:
                return _NOTHING
            return (SyncResetRequested(command.on, command.by, command.cause),)
        case AdoptCheckpoints():
            if state.adopted is not None and 0 < command.as_of_us <= state.adopted.as_of_us:
                return _NOTHING  # another worker did, and the device may have gone on since
            return (_adopted(state, command),)
        case DescribeDevice():
            return _describe(state, command)
        case RotateToken():
            return _rotate(state, command)
        case UseToken():
            is_new = any(command.token == token.digest for token in state.new_tokens)
            return (TokenFirstUsed(command.token, now_us + command.grace_us),) if is_new else _NOTHING
    assert_never(command)


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
    if not origin.number or not (state.started or _held(state)):
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


def _create(state: State | None, command: CreateSession) -> tuple[Event, ...]:
    if state is not None:
        raise Refused("This token has a session already; sign in again for a new one")
    adopted = () if command.adopted is None else (_adopted(None, command.adopted),)
    return (_created(command), *adopted)


def _created(command: CreateSession) -> SessionCreated:
    return SessionCreated(
        user=command.user,
        library=command.library,
        parent=command.parent or None,
        device_type=command.device_type,
        device_os=command.device_os,
        app_version=command.app_version,
        expires_at_us=command.expires_at_us,
        authenticated_by=command.authenticated_by,
        token_expires_at_us=command.token_expires_at_us,
        provider_session=command.provider_session,
    )


def _adopted(state: State | None, command: AdoptCheckpoints) -> CheckpointsAdopted:
    """Take positions over, in the epoch that begins with them; raises Refused where a type has two."""
    if len({ack.type for ack in command.positions}) < len(command.positions):
        raise Refused("Checkpoints are adopted with one position of each entity type")
    after = state is not None and holds_any(state)
    epochs = {ack.type: 1 if state is None else state.epoch_of(ack.type) + after for ack in command.positions}
    positions = (StoredAck(CODES[a.type], a.position.at_us, a.position.id, epochs[a.type]) for a in command.positions)
    return CheckpointsAdopted(
        tuple(positions),
        command.source,
        command.since_us,
        command.as_of_us,
        mask_bytes(command.types),
        command.revision,
    )


def _resume(state: State | None, command: ResumeSession) -> tuple[Event, ...]:
    if state is None:
        raise SessionEnded
    if state.ended is None:
        return _NOTHING
    if state.user != command.session.user:
        raise Refused("This session was another user's")
    return (SessionResumed(command.by, max(command.epoch, state.epoch)), _created(command.session))


def _go_on(state: State | None, command: GoOn) -> tuple[Event, ...]:
    """Tell of the hole between what there is and what was known, and have the device start over: it may be ahead.

    What was known of its tokens is put on record again. A session of which nothing is left is created anew, and ended
    again if it had: else who remembers only that it lived would let it live.
    """
    known = command.known
    seq, after = (0, b"") if state is None else (state.seq, state.hash)
    events: list[Event] = []
    if known.seq > seq:
        events.append(HistoryLost(seq + 1, known.seq, command.cause, known.hash, after))
    if state is None:
        events.append(_created_anew(known))
        if known.ended is not None:
            events.append(SessionEndedEvent(known.ended))
    if known.ended is None and (state is None or state.ended is None):
        events += _tokens_again(state, known)
        epoch = known.epoch + max(known.epochs.values(), default=0)
        if state is None or not state.pending_reset or epoch > state.epoch:
            events.append(SyncResetRequested(True, b"", HISTORY_LOST, epoch))
    return tuple(events)


def _created_anew(known: State) -> SessionCreated:
    return SessionCreated(
        user=known.user,
        library=known.library,
        parent=known.parent,
        device_type=known.device_type,
        device_os=known.device_os,
        app_version=known.app_version,
        expires_at_us=known.expires_at_us,
        authenticated_by=known.authenticated_by,
        token_expires_at_us=None if known.token else known.token_expires_at_us,
        provider_session=known.provider_session,
    )


def _tokens_again(state: State | None, known: State) -> list[Event]:
    """Tell what is to be said of tokens that were lost: else a device that refreshed would be signed out."""
    if state is not None and state.token_number > known.token_number:
        return []
    events: list[Event] = []
    number, in_use = known.token_number, bytes.fromhex(known.sid) if state is None else state.token_in_use
    held = () if state is None else tuple(token.digest for token in state.new_tokens)
    if known.token and known.token != in_use:
        until_us = max((token.until_us for token in known.old_tokens if token.digest == in_use), default=0)
        if known.token not in held:
            events.append(TokenRotated(known.token, number, known.token_expires_at_us))
        events.append(TokenFirstUsed(known.token, until_us))
        held = ()
    new = (token for token in known.new_tokens if token.digest not in held)
    return [*events, *(TokenRotated(token.digest, number, token.expires_at_us) for token in new)]


def _rotate(state: State, command: RotateToken) -> tuple[Event, ...]:
    if command.by != state.token_in_use:
        raise Refused("This token was replaced by a newer one; refresh with that")
    return (TokenRotated(command.token, command.number, command.expires_at_us),)


def _expire(state: State, command: ExpireSession, now_us: int) -> tuple[Event, ...]:
    if not state.lives_at(now_us):
        return (SessionEndedEvent("expired"),)
    if max(state.at_us, command.seen_us) < command.idle_before_us:
        return (SessionEndedEvent("idle"),)
    return _NOTHING


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
    held = mask_of(state.checkpoints)
    for offer in state.offered:
        if complete is None or offer.snapshot_us > complete.position.at_us:
            held |= offer.mask
    return mask & held


def _offer(state: State, command: OfferStream) -> tuple[Event, ...]:
    origin = command.origin
    if reset_due(state, command.floor_us, command.types, origin):
        if state.reset_sent:
            return _NOTHING
        because = SOURCE if exchanged(state, origin) else DELETES_PURGED
        return (ResetSent(REQUESTED if state.pending_reset else because),)
    revision = max((resend.revision for resend in command.resends), default=0)
    again = outdated(state, command.resends)
    cleared = _clear(state, ClearCheckpoints(again, SOURCE_REVISION)) if again else _NOTHING
    known = 0
    for offer in state.offered:
        if offer.snapshot_us >= command.snapshot_us:
            known |= offer.mask
    if not command.types & ~(known & ~again) and revision <= state.revision:
        return _NOTHING
    types = mask_bytes(command.types)
    return (*cleared, StreamOffered(command.snapshot_us, types, revision, origin.number, origin.written))


def record_acks(state: State, acks: tuple[Ack, ...]) -> tuple[Event, ...]:
    """Decide acks on a living session; raises Refused."""
    if RESET_ACK in acks:
        return _reset_acked(state)
    moved: dict[str, StoredAck] = {}
    reached: dict[str, Position] = {}
    stale: dict[StoredAck, None] = {}
    for ack in acks:
        stored = StoredAck(CODES[ack.type], ack.position.at_us, ack.position.id, ack.epoch)
        epoch = state.epoch_of(ack.type)
        if ack.epoch < epoch:
            stale[stored] = None
            continue
        if ack.epoch > epoch or _beyond(ack, state.offered_us(ack.type)):
            raise _not_offered(state, ack, stored)
        before = reached.get(ack.type)
        if before is None and (checkpoint := state.checkpoints.get(ack.type)) is not None:
            before = checkpoint.position
        if ack.type == COMPLETE:
            if _completes(state, ack.position, before):
                moved[COMPLETE], reached[COMPLETE] = stored, ack.position
            elif before is not None and ack.position.at_us < before.at_us:
                stale[stored] = None
        elif before is None or ack.position.at_us > before.at_us or ack.position.key > before.key:
            moved[ack.type] = stored
            reached[ack.type] = ack.position
        elif ack.position != before:
            stale[stored] = None
    if not stale:
        return (AcksRecorded(tuple(moved.values())),) if moved else _NOTHING
    last = {stored.code: stored for stored in stale}
    unheard = tuple(stored for stored in last.values() if stored not in state.noted)
    if not moved and all(state.stale >> stored.code & 1 for stored in unheard):
        return _NOTHING
    return (AcksRecorded(tuple(moved.values()), unheard, len(stale) if unheard else 0),)


def _completes(state: State, position: Position, before: Position | None) -> bool:
    """Tell whether a completion is news: of a newer snapshot, or of types that were not heard of up to there.

    Streams of one session may overlap, and several may have the same snapshot: each says of its own types only.
    """
    if before is None or position.at_us > before.at_us:
        return True
    return bool(state.news_in(position.at_us, completed_types(position.id)))


def _beyond(ack: Ack, offered_us: int) -> bool:
    """Entities offered are strictly below the snapshot; only the completion itself stands at it."""
    return ack.position.at_us > offered_us if ack.type == COMPLETE else ack.position.at_us >= offered_us


def _not_offered(state: State, ack: Ack, stored: StoredAck) -> AckNotOffered:
    offered_us = state.offered_us(ack.type)
    if offered_us < 0:
        reason = "no stream offered this type; start a sync stream first"
    elif ack.epoch > state.epoch_of(ack.type):
        reason = "its epoch has not begun"
    else:
        reason = "it is beyond the newest snapshot offered; start a sync stream first"
    known = stored in state.noted or state.refused >> stored.code & 1
    record: tuple[Event, ...] = () if known else (AckRefused(stored, reason, first=True),)
    if _lost_of(state, ack):
        reason = "the log has lost what it says, so this device is asked to start over; start a sync stream"
        if not (state.pending_reset or state.reset_sent):
            record = (*record, SyncResetRequested(True, b"", ACK_AHEAD, ack.epoch))
    return AckNotOffered(f"Cannot take ack {format_ack(ack)}: {reason}", record=record)


def _lost_of(state: State, ack: Ack) -> bool:
    """Tell whether an ack is one that a stream of this session sent, though the log does not know of it.

    Only lines of ours carry an id; the seed's form, a time alone, anybody makes of a clock.
    """
    return bool(ack.position.id) and ack.epoch - state.epoch_of(ack.type) <= MAX_EPOCHS_LOST


def _reset_acked(state: State) -> tuple[Event, ...]:
    """Take the ack of a reset; one that no reset line is open for says nothing of what the device holds."""
    wiped = bool(state.reset_sent)
    if not wiped and not state.pending_reset and not _held(state):
        return _NOTHING
    return (CheckpointsCleared(None, RESET_ACKED, reset=True, wiped=wiped),)


def _clear(state: State, command: ClearCheckpoints) -> tuple[Event, ...]:
    held = _held(state)
    if command.cause == IMMICH and state.adopted is not None:
        held |= state.adopted.mask
    if command.types is None:
        known = state.reset_sent or (command.reset and (state.pending_reset or state.started))
        if not held and not known:
            return _NOTHING
        return (CheckpointsCleared(None, command.cause, command.reset, wiped=command.reset, by=command.by),)
    if not held & command.types:
        return _NOTHING
    return (CheckpointsCleared(mask_bytes(held & command.types), command.cause, command.reset, by=command.by),)


def _held(state: State) -> int:
    """Tell of which types (a mask) there is a checkpoint, or an offer: lines of it may be on their way."""
    held = mask_of(state.checkpoints)
    for offer in state.offered:
        held |= offer.mask  # the acks of its lines must become stale
    return held


def _describe(state: State, command: DescribeDevice) -> tuple[Event, ...]:
    told = DeviceDescribed(
        command.device_type if command.device_type != state.device_type else b"",
        command.device_os if command.device_os != state.device_os else b"",
        command.app_version if command.app_version != state.app_version else b"",
    )
    return _NOTHING if told == DeviceDescribed() else (told,)
