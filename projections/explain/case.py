"""The case that the rules of `explain` look at, and what a finding is."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from ledger.entity_types import CODES, COMPLETE, RESET, mask_of
from ledger.events import SessionEnded, SyncResetRequested
from ledger.positions import iso_from_us
from ledger.starting_over import exchanged, missed_deletes, reset_due
from projections.entities.source import Ahead
from projections.explain.facts import Facts
from projections.explain.story import Story
from projections.sent.judgement import judge

Weight = Literal["stops", "hinders", "note"]
WEIGHTS: Final[tuple[Weight, ...]] = ("stops", "hinders", "note")


class Finding(msgspec.Struct, frozen=True):
    """One thing that was found; `events` are the seqs of the events that show it, the latest last."""

    code: str
    weight: Weight
    says: str
    events: list[int] = []


class Case:
    """What the rules look at."""

    def __init__(self, facts: Facts, story: Story, now_us: int) -> None:
        self.facts, self.story, self.now_us = facts, story, now_us
        self.state = facts.state
        by_others = SyncResetRequested | SessionEnded
        heard = [e.recorded.at_us for e in facts.entries if not isinstance(e.recorded.event, by_others)]
        self.heard_us = max(facts.seen_us or 0, heard[0] if heard else self.state.created_at_us)
        if facts.sent:
            asked_us = facts.sent[0].stream.at_us - facts.sent[0].stream.took_us
            self.heard_us = max(self.heard_us, asked_us)
        self.stuck = judge(facts.sent, self.state)
        named = {name for name in (*facts.types, *self.state.checkpoints, *story.types) if name != RESET}
        self.types = [*facts.types, *sorted(named - set(facts.types), key=CODES.__getitem__)]

    @property
    def over(self) -> bool:
        """Whether the session admits nobody any more."""
        return not self.state.lives_at(self.now_us)

    @property
    def reset_due(self) -> bool:
        """Whether the next stream is nothing but a reset."""
        return not self.over and reset_due(
            self.state, self.facts.library.floor_us, mask_of(self.facts.types), self.facts.library.origin
        )

    @property
    def exchanged(self) -> bool:
        """Whether its source is another one than it was streamed from."""
        return not self.over and exchanged(self.state, self.facts.library.origin)

    @property
    def missed_deletes(self) -> bool:
        """Whether it may have missed deletes of what it asks for."""
        return missed_deletes(self.state, self.facts.library.floor_us, mask_of(self.facts.types))

    @property
    def answers(self) -> bool:
        """Whether the source of the library answered."""
        return self.facts.library.health.ok

    @property
    def counted(self) -> bool:
        """Whether all that lies ahead could be counted."""
        return self.answers and self.facts.library.whole

    @property
    def rows_ahead(self) -> int:
        """How many rows lie beyond the checkpoints, of all types it asks for."""
        return sum(ahead.rows for ahead in self.facts.library.ahead.values())

    @property
    def rows_offered(self) -> int:
        """How many of them were offered."""
        return sum(offered.rows for offered in self.facts.library.offered.values())

    @property
    def waiting(self) -> list[str]:
        """The types with rows that were offered and are not acknowledged, in the order of the stream."""
        return [name for name in self.facts.types if self.facts.library.offered.get(name, Ahead(0, None)).rows]

    def is_stuck(self, entity_type: str) -> bool:
        """Tell whether others advanced past a type that waits, although it is sent before them or was sent again."""
        offers = self.story.of(entity_type).offers
        if not offers:
            return False
        passed = {name for name in self.types if self.story.of(name).advanced_seq > offers[0]}
        later = {COMPLETE, *self.facts.types[self.facts.types.index(entity_type) + 1 :]}
        is_first = entity_type == self.waiting[0]
        return not passed.isdisjoint(later) or (is_first and len(offers) > 1 and bool(passed))


def after_text(case: Case, name: str) -> str:
    """Tell behind which position of a type the device goes on."""
    held = case.facts.position(name)
    return f" behind {iso_from_us(held.at_us)}|{held.id}" if held else ""


def rows_text(count: int) -> str:
    """Tell a count of rows."""
    return "1 row" if count == 1 else f"{count:,} rows"
