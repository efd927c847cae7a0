"""What can go wrong with backups.

LedgerError
├── CorruptLedger
│   └── BadBackup       a backup is not what its manifest says; names the file
├── LayoutError
│   ├── CannotRestore   the target, or what is to be restored, does not fit; nothing was written
│   └── NoSuchBackup    there is no such backup, or it was never finished
└── CannotBackUp        what is to be backed up changes too fast, or cannot be read whole now
"""

from __future__ import annotations

from ledger.errors import CorruptLedger, LayoutError, LedgerError


class BadBackup(CorruptLedger):
    """A file of a backup is not what it should be; `details` name it."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}", object=name, what=what)


class CannotRestore(LayoutError):
    """The target, or what is to be restored, does not fit; nothing was written."""


class NoSuchBackup(LayoutError):
    """There is no such backup, or it was never finished."""


class CannotBackUp(LedgerError):
    """What is to be backed up changes too fast, or cannot be read whole now; run it again later."""
