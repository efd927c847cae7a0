"""What a feed tells: events, and notices of what it could not tell. Which of them somebody wants."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from ledger.events import tag_of
from ledger.log.reader import Entry
from projections.feed.position import StreamId

NoticeKind = Literal["unreadable", "readable", "damaged", "removed", "went_back", "position"]
"""What a notice says of a partition:

unreadable: nothing of it can be told now; it goes on where it stands once it can be read again.
readable: it is told again, from where it stood.
damaged: one stream entry that is no event, or cannot be read, is passed over.
removed: events were removed by retention before they were told.
went_back: the store lost its newest events and goes on before them; what is left of the last minute is told again.
position: nothing happened; it only carries the position, where there is no event to carry it.
"""


class Seen(msgspec.Struct, frozen=True, gc=False):
    """An event as the feed tells it: where it lies, whose it is (None where that is not kept any more).

    `lines`: how it reads in each form, without what is personal, as far as somebody asked for that already.
    """

    partition: int
    entry: Entry
    user: str | None
    lines: dict[str, bytes]

    @property
    def id(self) -> str:
        """Its id, whenever it is told. With the start of its hash: behind a loss another event may have its seq."""
        recorded = self.entry.recorded
        return f"{recorded.sid}:{recorded.seq}:{recorded.hash[:8].hex()}"


class Notice(msgspec.Struct, frozen=True):
    """What happened to a partition's events. `stream_id` names where, `at_us` is when that was seen.

    A position is of no partition, and its `stream_id` is empty.
    """

    kind: NoticeKind
    partition: int | None
    stream_id: str
    what: str
    at_us: int

    @property
    def id(self) -> str:
        """Its id, the same for the same thing at the same place."""
        if self.partition is None:
            return f"notice:{self.kind}:{self.at_us}"
        return f"notice:{self.kind}:{self.partition}:{self.stream_id}"


Told = Seen | Notice


class FeedFilter(NamedTuple):
    """Which events: of one user, of one session (in `partition`), of some types; notices of what is read, always."""

    user: str | None = None
    session: str | None = None
    types: frozenset[str] = frozenset()
    partition: int | None = None
    """The only partition to be read, where user or session tell it."""

    def reads(self, partition: int) -> bool:
        """Tell whether a partition is to be read at all."""
        return self.partition is None or self.partition == partition

    def takes(self, told: Told) -> bool:
        """Tell whether this is wanted, of a partition that is read."""
        if isinstance(told, Notice):
            return True
        recorded = told.entry.recorded
        return (
            (self.session is None or recorded.sid == self.session)
            and (self.user is None or told.user == self.user)
            and (not self.types or tag_of(recorded.event) in self.types)
        )


ALL: Final = FeedFilter()
"""All that is told."""


class Block(NamedTuple):
    """What follows each other in one partition. `last`: where the feed stands behind it; it may be before what was."""

    partition: int
    told: tuple[Told, ...]
    last: StreamId
    goes_back: bool = False
