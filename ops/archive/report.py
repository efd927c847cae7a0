"""What an archiving run did."""

from __future__ import annotations

import msgspec

from projections.checking.findings import REPORTED, Finding


class Failure(msgspec.Struct, frozen=True):
    """A partition that could not be archived, and why; nothing of it was lost."""

    partition: int
    what: str


class ArchiveReport(msgspec.Struct):
    """What was sealed, trimmed and removed; in a dry run, what would be.

    `read`: events looked at, also those of a segment that is not finished. `adopted`: segments that an earlier archiver
    wrote and could not note. `swept`: segments left by archivers that had lost their lease. `busy`: partitions that
    somebody else was archiving. `broken`: sessions whose events were sealed as they are, though they contradict
    themselves; the first are `named`. `aside`: stream entries that were none of ours, and were set aside.
    `held_up`: partitions of which more would go if the transparency log were not behind.
    """

    partitions: int = 0
    read: int = 0
    segments: int = 0
    events: int = 0
    bytes: int = 0
    adopted: int = 0
    trimmed: int = 0
    removed: int = 0
    swept: int = 0
    busy: int = 0
    broken: int = 0
    named: list[Finding] = []
    aside: int = 0
    held_up: int = 0
    failures: list[Failure] = []

    def name(self, broken: Finding) -> None:
        """Count a broken session, and name it if there is room."""
        self.broken += 1
        if len(self.named) < REPORTED:
            self.named.append(broken)
