"""One who follows the feed: where they stand, and what they are owed."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Final, NamedTuple

from projections.feed.live import LiveReader
from projections.feed.position import BEGINNING, FeedPosition, stream_id
from projections.feed.told import ALL, Block, FeedFilter, Notice, Told

GIVEN_EVERY_S: Final = 1.0
"""How often a follower is given a position at most, while more is told."""


class Batch(NamedTuple):
    """Some of the feed, and the position behind it where one is given."""

    told: tuple[Told, ...]
    position: FeedPosition | None


class Follower:
    """Where one reader stands, and what it is owed."""

    def __init__(self, position: FeedPosition, wanted: FeedFilter) -> None:
        self.place = list(position.ids)
        self.wanted = wanted
        self.stuck: dict[int, str] = {}
        """Partitions that could not be read for it, and why."""
        self.fell_off = True
        """Whether it is to take the ring from its beginning."""
        self._moved = True
        self._told = False
        """Whether it moved on, or was told something, since it was given a position."""
        self._given_s = -inf
        self._troubles: dict[int, str] = {}

    def behind(self, live: LiveReader) -> list[int]:
        """List the partitions that are to be read for it: of all others what it lacks is in the ring.

        Where it stands in the ring is an event there, or the one before: else the store may have lost it.
        """
        ring, there, found = live.ring, None, []
        for partition, (at, head) in enumerate(zip(self.place, live.heads, strict=True)):
            if not self.wanted.reads(partition) or (at == head and partition not in self.stuck):
                continue
            if partition not in self.stuck and ring.base[partition] <= at < head:
                there = ring.ids() if there is None else there
                if at == ring.base[partition] or (partition, str(at)) in there:
                    continue
            found.append(partition)
        return found

    def due_in_s(self, beat_s: float) -> float:
        """Tell in how many seconds it is to be given a position, though nothing is told any more; inf for never."""
        if not self._moved:
            return inf
        return self._given_s + (GIVEN_EVERY_S if self._told else beat_s) - monotonic()

    def batch(self, told: tuple[Told, ...]) -> Batch:
        """Make a batch, with a position if it is time for one."""
        now_s = monotonic()
        if told and now_s - self._given_s < GIVEN_EVERY_S:
            self._told = True
            return Batch(told, None)
        if not self._moved:
            return Batch(told, None)
        self._moved, self._told, self._given_s = False, False, now_s
        return Batch(told, FeedPosition(tuple(self.place)))

    def only_wanted(self, told: tuple[Told, ...]) -> tuple[Told, ...]:
        """Leave out what is not wanted."""
        self._moved = True
        return told if self.wanted == ALL else tuple(one for one in told if self.wanted.takes(one))

    def taken(self, block: Block, *, is_old: bool) -> tuple[Told, ...]:
        """Take a block of the ring: what of it is wanted and was not told yet."""
        partition = block.partition
        if not self.wanted.reads(partition) or partition in self.stuck:
            return ()
        before = self.place[partition]
        if not block.goes_back and (before > block.last or (is_old and before == block.last)):
            return ()  # it was told, by another worker too
        self.place[partition] = block.last
        self._note_trouble(block)
        told = block.told
        if before != BEGINNING and not block.goes_back:
            told = tuple(one for one in told if isinstance(one, Notice) or stream_id(one.entry.id) > before)
        return self.only_wanted(told)

    def new_trouble(self, trouble: dict[int, Notice]) -> tuple[Told, ...]:
        """Tell which partitions the reader cannot read, as far as that was not told."""
        new = {
            partition: notice
            for partition, notice in trouble.items()
            if self.wanted.reads(partition) and self._troubles.get(partition) != notice.what
        }
        self._troubles |= {partition: notice.what for partition, notice in new.items()}
        return tuple(new.values())

    def stuck_at(self, partition: int, notice: Notice) -> tuple[Told, ...]:
        """Note that a partition cannot be read for it; that is told once."""
        known = self.stuck.get(partition)
        self.stuck[partition] = notice.what
        return () if known == notice.what else (notice,)

    def _note_trouble(self, block: Block) -> None:
        """Keep in mind which partition the reader cannot read, so that it is told once."""
        for one in block.told:
            if isinstance(one, Notice) and one.kind == "unreadable":
                self._troubles[block.partition] = one.what
            elif isinstance(one, Notice) and one.kind == "readable":
                self._troubles.pop(block.partition, None)
