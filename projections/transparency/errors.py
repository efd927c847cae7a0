"""What can go wrong with the log.

LedgerError
├── LayoutError
│   └── LogRefused             this place, origin or key is not the log's; nothing was written
│       └── LogWentBack        a witness signed what is not in it; nothing more is signed
├── CorruptLedger
│   └── LogContradicts         what lies in the log's place contradicts itself; names the object
└── Overtaken                  another job wrote the next batch first; it is read, and one goes on behind it
"""

from __future__ import annotations

from typing import Final

from ledger.errors import CorruptLedger, LayoutError, LedgerError

CLOSE: Final = "close this one and begin another: set LEDGER_PROOF to an empty place, then syncledger proof close"
"""What is left to do where nobody has the newest copy of a log any more."""


class LogRefused(LayoutError):
    """This place, origin or key is not that of the ledger's log; the message says what to bring back."""

    exit_code = 2


class LogWentBack(LogRefused):
    """The log is behind what a witness signed of it, or is another one: who goes on with it signs a fork."""

    def __init__(self, witness: str, what: str) -> None:
        super().__init__(
            f"witness {witness} {what}. Nothing more is signed: bring back the newest copy of the log; if that is "
            f"lost, {CLOSE}. If it is the witness that is wrong, take it out of LEDGER_WITNESSES"
        )


class LogContradicts(CorruptLedger):
    """What lies in the log's place contradicts itself, so nothing is signed; `details` name the object."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"object {name} of the log: {what}", object=name, what=what)


class Overtaken(LedgerError):
    """Another job wrote this batch; what was to be in it is not lost, but comes behind."""
