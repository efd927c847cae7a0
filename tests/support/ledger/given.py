"""Given these events, when this command, then those events: helpers and hypothesis strategies for the pure core."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st

from ledger.acks import RESET_ACK, Ack, completion
from ledger.chain import GENESIS, record
from ledger.commands import (
    AdoptCheckpoints,
    ClearCheckpoints,
    Command,
    DescribeDevice,
    EndSession,
    OfferStream,
    Origin,
    RecordAcks,
    RequestReset,
    Resend,
    RotateToken,
    UseToken,
)
from ledger.decide import decide
from ledger.entity_types import CODES, COMPLETE, mask_of
from ledger.errors import Refused
from ledger.events import (
    IMMICH,
    AcksRecorded,
    CheckpointsCleared,
    Event,
    Recorded,
    SessionCreated,
    StoredAck,
    StreamOffered,
    mask_bytes,
)
from ledger.evolve import fold
from ledger.personal import plain
from ledger.positions import MAX_US, Position
from ledger.state import State

long_examples: Final = settings(max_examples=settings().max_examples // 5)
"""For properties whose examples take most of a second each."""

UNTOLD: Final = Origin()
SID: Final = "5e" * 32
NOW: Final = 1_790_000_000_000_000
SNAPSHOT: Final = NOW - 1_000
CREATED: Final = SessionCreated(
    "ann", "photos", device_type=plain("iPhone"), device_os=plain("iOS"), authenticated_by="password"
)


def given(*events: Event, at_us: int = NOW, sid: str = SID) -> State:
    """Fold a session that was created and to which then these events happened, all at `at_us`."""
    first = () if events and isinstance(events[0], SessionCreated) else (CREATED,)
    state = fold(None, record((*first, *events), sid, 0, at_us, GENESIS))
    assert state is not None
    return state


def then(state: State, *events: Event, at_us: int = NOW) -> State:
    """Fold more events onto a state."""
    after = fold(state, record(events, state.sid, state.seq, at_us, state.hash))
    assert after is not None
    return after


def when(state: State | None, command: Command, now_us: int = NOW) -> tuple[Event, ...]:
    """Decide a command."""
    return decide(state, command, now_us)


def offered(
    *types: str, snapshot_us: int = SNAPSHOT, revision: int = 0, origin: int = 0, written: int = 0
) -> StreamOffered:
    """Tell that a stream of these types, and its completion, was offered."""
    return StreamOffered(snapshot_us, mask_bytes(mask_of([COMPLETE, *types])), revision, origin, written)


def offer(
    *types: str, snapshot_us: int = SNAPSHOT, resends: tuple[Resend, ...] = (), origin: Origin = UNTOLD
) -> OfferStream:
    """Offer a stream of these types, and its completion."""
    return OfferStream(snapshot_us, mask_of([COMPLETE, *types]), resends=resends, origin=origin)


def cleared(*types: str, cause: str = "deleted", reset: bool = False, wiped: bool = False) -> CheckpointsCleared:
    """Tell that checkpoints of these types were cleared; of all without any."""
    return CheckpointsCleared(mask_bytes(mask_of(types)) if types else None, cause, reset, wiped)


def clear(*types: str, cause: str = "deleted", reset: bool = False) -> ClearCheckpoints:
    """Clear checkpoints of these types; of all without any."""
    return ClearCheckpoints(mask_of(types) if types else None, cause, reset)


def ack(entity_type: str, at_us: int, entity_id: str = "", epoch: int = 1) -> Ack:
    """Make an ack."""
    return Ack(entity_type, Position(at_us, entity_id), epoch)


def completed(*types: str, snapshot_us: int = SNAPSHOT, epoch: int = 1) -> Ack:
    """Make the ack of a whole stream of these types."""
    return completion(snapshot_us, mask_of(types), epoch)


def acks(*given_acks: Ack) -> RecordAcks:
    """Send acks in one request."""
    return RecordAcks(given_acks)


def stored(of: Ack) -> StoredAck:
    """Tell how an event holds an ack."""
    return StoredAck(CODES[of.type], of.position.at_us, of.position.id, of.epoch)


def moved(*given_acks: Ack, stale: tuple[Ack, ...] = ()) -> AcksRecorded:
    """Tell that acks were recorded: those that moved, and those that were stale."""
    return AcksRecorded(tuple(map(stored, given_acks)), tuple(map(stored, stale)), len(stale))


# Strategies. Few types, times and ids, so that examples meet each other.

TYPES: Final = ("AssetV1", "AssetDeleteV1", "AlbumV2", COMPLETE)

ids: Final = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="|"), min_size=1, max_size=40
).filter(lambda text: len(text.encode()) <= 256)
positions: Final = st.builds(Position, st.integers(0, MAX_US), st.just("") | ids)
few_positions: Final = st.builds(Position, st.integers(NOW, NOW + 6), st.sampled_from(("", "a", "b", "é")))
few_completions: Final = st.builds(
    completion, st.integers(NOW, NOW + 6), st.sets(st.sampled_from(TYPES)).map(mask_of), st.integers(1, 3)
)
few_acks: Final = (
    st.builds(Ack, st.sampled_from(TYPES), few_positions, st.integers(1, 3)) | few_completions | st.just(RESET_ACK)
)
few_adopted: Final = st.builds(Ack, st.sampled_from(TYPES[:3]), few_positions) | few_completions
few_tokens: Final = st.sampled_from([bytes([number]) * 32 for number in range(1, 12)])
masks: Final = st.sets(st.sampled_from(TYPES)).map(mask_of)

RESENDS: Final = (Resend(1, mask_of(["AssetV1"])), Resend(2, mask_of(["AlbumV2"])))

commands: Final[st.SearchStrategy[Command]] = st.one_of(
    st.builds(OfferStream, st.integers(NOW, NOW + 7), masks, st.integers(NOW - 5, NOW)),
    st.builds(OfferStream, st.just(NOW + 7), st.just(mask_of(TYPES))),
    st.builds(OfferStream, st.integers(NOW, NOW + 7), masks, resends=st.sampled_from((RESENDS[:1], RESENDS))),
    st.builds(RecordAcks, st.lists(few_acks, max_size=4).map(tuple)),
    st.builds(ClearCheckpoints, st.none() | masks, st.just("deleted"), st.booleans()),
    st.builds(ClearCheckpoints, st.none() | masks, st.just(IMMICH)),
    st.builds(
        AdoptCheckpoints,
        st.lists(few_adopted, max_size=4, unique_by=attrgetter("type")).map(tuple),
        st.just(IMMICH),
        st.integers(NOW - 5, NOW),
        st.integers(NOW, NOW + 6),
        masks,
        st.integers(0, 2),
    ),
    st.builds(RequestReset, st.booleans(), st.just(plain("owner"))),
    st.builds(
        DescribeDevice,
        st.sampled_from(("", "iPhone", "Pixel")).map(plain),
        st.sampled_from(("", "iOS")).map(plain),
        st.sampled_from((None, "", "3.2.0", "3.2.1")).map(plain),
    ),
    st.builds(
        RotateToken,
        st.just(bytes.fromhex(SID)) | few_tokens,
        few_tokens,
        st.integers(1, 9),
        st.none() | st.integers(NOW + 1000, NOW + 2000),
    ),
    st.builds(UseToken, few_tokens, st.integers(0, 60)),
)
endings: Final[st.SearchStrategy[Command]] = st.builds(EndSession, st.sampled_from(("logout", "revoked")))


def carry_out(state: State | None, command: Command, now_us: int = NOW) -> tuple[Recorded, ...]:
    """Decide a command and place its events, those of a refusal too, as the ledger would."""
    try:
        events = decide(state, command, now_us)
    except Refused as refusal:
        events = refusal.record
    if state is None:
        return record(events, SID, 0, now_us, GENESIS)
    return record(events, state.sid, state.seq, max(now_us, state.at_us), state.hash)


def history(sent: Iterable[Command], first: SessionCreated = CREATED) -> list[tuple[Recorded, State]]:
    """Tell what becomes of a new session by these commands: each event with the state after it."""
    steps: list[tuple[Recorded, State]] = []
    state: State | None = None
    for recorded in record((first,), SID, 0, NOW, GENESIS):
        state = fold(None, [recorded])
        assert state is not None
        steps.append((recorded, state))
    for index, command in enumerate(sent):
        for recorded in carry_out(state, command, NOW + index):
            state = fold(state, [recorded])
            assert state is not None
            steps.append((recorded, state))
    return steps


histories: Final = st.lists(commands, max_size=25).map(history)
"""Histories of one session: lists of events, each with the state after it."""
