"""What a command does to a session: events, or a refusal.

Pure: `now_us` is an argument, nothing is read or written. A refusal that must itself be on record carries its events in
`Refused.record`; the caller appends them and raises on.
"""

from __future__ import annotations

from typing import Final, assert_never

from ledger.acks import RESET_ACK, Ack, completed_types, format_ack
from ledger.commands import (
    AdoptCheckpoints,
    ClearCheckpoints,
    Command,
    CreateSession,
    DescribeDevice,
    EndSession,
    ExpireSession,
    GoOn,
    OfferStream,
    RecordAcks,
    RequestReset,
    ResumeSession,
    RotateToken,
    UseToken,
)
from ledger.entity_types import CODES, COMPLETE
from ledger.errors import AckNotOffered, Refused, SessionEnded
from ledger.events import (
    IMMICH,
    AckRefused,
    AcksRecorded,
    CheckpointsAdopted,
    CheckpointsCleared,
    DeviceDescribed,
    Event,
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
from ledger.going_on import go_on
from ledger.positions import Position
from ledger.starting_over import exchanged, held, outdated, reset_due
from ledger.state import State

RESET_ACKED: Final = "reset_acked"
SOURCE_REVISION: Final = "source_revision"
REQUESTED: Final = "requested"
DELETES_PURGED: Final = "deletes_purged"
ACK_AHEAD: Final = "ack_ahead"
FENCE: Final = "fence"
MAX_EPOCHS_LOST: Final = 1000
"""By how many epochs an ack may be ahead of the log for a loss to explain it."""
SOURCE: Final = "source"
_NOTHING: Final[tuple[Event, ...]] = ()


def decide(state: State | None, command: Command, now_us: int) -> tuple[Event, ...]:
    """Decide what a command does at `now_us`; an empty tuple when it changes nothing.

    `state` is None for a session that does not exist. Raises SessionEnded when there is no living session to act on,
    and Refused when the command is wrong for this one.
    """
    if isinstance(command, CreateSession):
        return _create(state, command)
    if isinstance(command, GoOn):
        return go_on(state, command)
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
    """Decide acks on a living session; raises Refused.

    `ledger/log/quick_acks.py` has the same rules for an ack that only moves one checkpoint: they change together.
    """
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
    if not wiped and not state.pending_reset and not held(state):
        return _NOTHING
    return (CheckpointsCleared(None, RESET_ACKED, reset=True, wiped=wiped),)


def _clear(state: State, command: ClearCheckpoints) -> tuple[Event, ...]:
    there = held(state)
    if command.cause == IMMICH and state.adopted is not None:
        there |= state.adopted.mask
    if command.types is None:
        known = state.reset_sent or (command.reset and (state.pending_reset or state.started))
        if not there and not known:
            return _NOTHING
        return (CheckpointsCleared(None, command.cause, command.reset, wiped=command.reset, by=command.by),)
    if not there & command.types:
        return _NOTHING
    return (CheckpointsCleared(mask_bytes(there & command.types), command.cause, command.reset, by=command.by),)


def _describe(state: State, command: DescribeDevice) -> tuple[Event, ...]:
    told = DeviceDescribed(
        command.device_type if command.device_type != state.device_type else b"",
        command.device_os if command.device_os != state.device_os else b"",
        command.app_version if command.app_version != state.app_version else b"",
    )
    return _NOTHING if told == DeviceDescribed() else (told,)
