"""What can go wrong with the archive.

LedgerError
├── Unavailable
│   └── ArchiveUnavailable     object storage did not answer, or refused
├── CorruptLedger
│   ├── BadSegment             a segment is not what it should be; names it and what differs
│   └── ObjectMissing          an object that must be there is not
├── LayoutError
│   └── ArchiveNotGiven        events are in an archive, and none or another one was given
├── ObjectExists               an object of that name is there already; it was not touched
├── PartitionBusy              somebody else archives the partition
├── Fenced                     somebody else took the partition over meanwhile
└── CannotSeal                 a partition's events contradict themselves or the archive, so none is sealed or trimmed
"""

from __future__ import annotations

from ledger.errors import CorruptLedger, LayoutError, LedgerError, Unavailable


class ArchiveUnavailable(Unavailable):
    """Object storage did not answer or refused; nothing was written under a final name."""

    retry_after_s = 5


class BadSegment(CorruptLedger):
    """A segment that is not what it should be; `details` name the segment."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"segment {name}: {what}", segment=name, what=what)


class ObjectMissing(CorruptLedger):
    """An object that must be there is not."""


class ArchiveNotGiven(LayoutError):
    """Events are in an archive, and none was given, or one that does not hold them."""

    exit_code = 2

    def __init__(self, what: str = "") -> None:
        super().__init__(
            what or "These events are in the archive: set LEDGER_ARCHIVE as it is set where syncledger archive runs"
        )


class ObjectExists(LedgerError):
    """An object of that name is there already, and was not touched."""


class PartitionBusy(LedgerError):
    """Somebody else archives the partition."""


class Fenced(LedgerError):
    """Somebody else took the partition over while this archiver was away; it may change nothing any more."""


class CannotSeal(LedgerError):
    """A partition's events contradict themselves or the archive, so none of them is sealed or trimmed."""
