"""What can go wrong with the log.

LedgerError
├── LayoutError
│   └── LogRefused             this place, origin or key is not the log's; nothing was written
├── CorruptLedger
│   └── LogContradicts         what lies in the log's place contradicts itself; names the object
└── Overtaken                  another job wrote the next batch first; it is read, and one goes on behind it
"""

from __future__ import annotations

from ledger.errors import CorruptLedger, LayoutError, LedgerError


class LogRefused(LayoutError):
    """This place, origin or key is not that of the ledger's log; the message says what to bring back."""

    exit_code = 2


class LogContradicts(CorruptLedger):
    """What lies in the log's place contradicts itself, so nothing is signed; `details` name the object."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"object {name} of the log: {what}", object=name, what=what)


class Overtaken(LedgerError):
    """Another job wrote this batch; what was to be in it is not lost, but comes behind."""
