"""What an archiving run did."""

from __future__ import annotations

import msgspec


class Failure(msgspec.Struct, frozen=True):
    """A partition that could not be archived, and why; nothing of it was lost."""

    partition: int
    what: str


class ArchiveReport(msgspec.Struct):
    """What was sealed, trimmed and removed; in a dry run, what would be.

    `read`: events looked at, also those of a segment that is not finished. `adopted`: segments that an earlier archiver
    wrote and could not note. `swept`: segments left by archivers that had lost their lease. `busy`: partitions that
    somebody else was archiving.
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
    failures: list[Failure] = []
