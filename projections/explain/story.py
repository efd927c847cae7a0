"""What a session's newest events say of each entity type: its last advance, what was offered and refused since."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct

from ledger.entity_types import ENTITY_TYPES, types_in
from ledger.events import (
    AckRefused,
    AcksRecorded,
    CheckpointsAdopted,
    CheckpointsCleared,
    ResetSent,
    SessionEnded,
    SessionResumed,
    StoredAck,
    StreamOffered,
    SyncResetRequested,
)
from ledger.log.reader import Entry
from ledger.state import State
from projections.history.words import adopted_text


class Ignored(NamedTuple):
    """An ack that moved nothing, in which event, and why; `older_epoch`: it was from before the type was cleared.

    `others`: how many more its request had that are not on record one by one, of this and other types.
    """

    seq: int
    at_us: int
    ack: StoredAck
    reason: str
    older_epoch: bool
    others: int = 0


class TypeStory(Struct):
    """One entity type since it last advanced: the events that offered it, and the acks that moved nothing."""

    advanced_seq: int = 0
    advanced_at_us: int = 0
    offers: list[int] = []
    refused: list[Ignored] = []
    stale: list[Ignored] = []


class Story(Struct):
    """All types, and what happened to the session as a whole; seqs are 0 for what did not happen."""

    types: dict[str, TypeStory] = {}
    streams: list[int] = []
    """The events that offered anything since any checkpoint last advanced or was cleared."""
    advanced_seq: int = 0
    advanced_at_us: int = 0
    cleared_seq: int = 0
    cleared_cause: str = ""
    adopted_seq: int = 0
    adopted: str = ""
    reset_asked: Entry | None = None
    reset_sent: Entry | None = None
    ended: Entry | None = None

    def of(self, entity_type: str) -> TypeStory:
        """Give one type's story."""
        return self.types.setdefault(entity_type, TypeStory())

    def ignored(self, kind: str) -> list[Ignored]:
        """List the acks `refused` or `stale` since their types last advanced, oldest first."""
        found: Iterable[Ignored] = (one for story in self.types.values() for one in getattr(story, kind))
        return sorted(found)


def tell(newest_first: Sequence[Entry], state: State) -> Story:
    """Go through events from the oldest to the newest; `state` is that after the newest."""
    story = Story()
    for entry in reversed(newest_first):
        seq, at_us, event = entry.recorded.seq, entry.recorded.at_us, entry.recorded.event
        match event:
            case StreamOffered():
                story.streams.append(seq)
                for name in types_in(int.from_bytes(event.types, "big")):
                    story.of(name).offers.append(seq)
            case AcksRecorded():
                others = max(event.stale_count - len(event.stale), 0)
                for ack in event.stale:
                    name = ENTITY_TYPES[ack.code]
                    is_older = ack.epoch < state.epoch_of(name)
                    reason = "from before its checkpoint was cleared" if is_older else "older than its checkpoint"
                    story.of(name).stale.append(Ignored(seq, at_us, ack, reason, is_older, others))
                    others = 0
                for ack in event.moved:
                    name = ENTITY_TYPES[ack.code]
                    story.types[name] = TypeStory(seq, at_us)
                    story.advanced_seq, story.advanced_at_us, story.streams = seq, at_us, []
            case AckRefused():
                name = ENTITY_TYPES[event.ack.code]
                story.of(name).refused.append(Ignored(seq, at_us, event.ack, event.reason, False))
            case CheckpointsCleared():
                mask = None if event.types is None else int.from_bytes(event.types, "big")
                for name in ENTITY_TYPES if mask is None else types_in(mask):
                    story.types.pop(name, None)
                story.cleared_seq, story.cleared_cause, story.streams = seq, event.cause, []
                if event.wiped:
                    story.adopted_seq, story.adopted = 0, ""
                if event.reset:
                    story.reset_asked = None
                if mask is None:
                    story.reset_sent = None
            case CheckpointsAdopted():
                story.types = {ENTITY_TYPES[ack.code]: TypeStory(seq, at_us) for ack in event.positions}
                story.advanced_seq, story.advanced_at_us, story.streams = seq, at_us, []
                story.adopted_seq, story.adopted, story.reset_sent = seq, adopted_text(event, at_us), None
            case ResetSent():
                story.reset_sent = entry
            case SyncResetRequested():
                story.reset_asked = entry if event.on else None
            case SessionEnded():
                story.ended = entry
            case SessionResumed():  # what was before says nothing of what is
                story = Story(reset_asked=entry)
            case _:
                pass
    return story
