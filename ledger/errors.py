"""What can go wrong, as one tree.

LedgerError
├── Refused                   the request is wrong; trying again will not help
│   ├── InvalidInput          a field is malformed; carries `path` and a message per field
│   ├── InvalidAck            an ack names no entity type or no readable position
│   ├── AckNotOffered         an ack beyond what any stream offered
│   ├── NothingToUpdate       an update that changes no field
│   └── TooManySessions       the user has as many living sessions as may be
├── NotAllowed                the caller may not do this
│   ├── SessionEnded          no living session: unknown, ended or expired
│   │   ├── TokenReused       a token came long after it was replaced; its session was ended for it
│   │   └── ParentOver        a session that it belongs to has `ended`, or expired
│   └── NoSuchSession         another session that does not exist or is not the caller's
├── Unavailable               try again later (`retry_after_s`); says nothing about sessions
│   ├── StoreUnavailable      the store did not answer; `maybe_done` tells whether a write may have happened
│   │   └── NotReplicated     it was written, but too few replicas said that they have it
│   ├── StoreFull             the store is at its memory limit
│   ├── Contended             too many writers at one session
│   ├── Rebuilding            the session may be among those that are not rebuilt yet
│   ├── LedgerGone            the store holds no ledger any more, or another one
│   └── DeletesPurged         delete markers went while they were being streamed
├── LayoutError               the store holds a ledger this service must not use as configured
│   └── NoLedger              the store holds none, and none is begun here; or not the one that was here before
└── CorruptLedger             stored data contradicts itself
    ├── UnknownEvent          an event written by a newer version
    ├── UserKeyUnreadable     the key that seals what events hold of a user cannot be read as configured
    └── NotAllEnded           sessions that were to end and cannot be read; all others have ended
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

NAMED: Final = 20
"""How many sessions a message names."""


class LedgerError(Exception):
    """Anything this service refuses or fails at; `str(error)` is fit for a client and holds no secret."""

    exit_code: ClassVar[int] = 1
    """What a command ends with for it: 1 for what is wrong, 2 for what cannot be done as it was asked."""

    @property
    def told(self) -> str:
        """What an operator is told in a line."""
        return str(self)


class Refused(LedgerError):
    """The request is wrong; `record` holds events that must be appended although it is refused."""

    def __init__(self, message: str, *, record: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.record = record


class InvalidInput(Refused):
    """A request or a setting does not fit; `problems` pairs the path of each field with what is wrong there."""

    exit_code = 2

    def __init__(self, problems: Sequence[tuple[Sequence[str | int], str]]) -> None:
        super().__init__("Validation failed")
        self.problems = tuple((tuple(path), message) for path, message in problems)

    @property
    def told(self) -> str:
        """All problems in a line."""
        return "; ".join(self.lines)

    @property
    def lines(self) -> list[str]:
        """Each problem in a line of its own."""
        return [f"{'.'.join(map(str, path))}: {message}" for path, message in self.problems]


class InvalidAck(Refused):
    """An ack that names no known entity type or holds no readable position."""


class AckNotOffered(Refused):
    """An ack beyond the newest snapshot offered: storing it would skip data the device never saw."""


class NothingToUpdate(Refused):
    """An update without a field to change."""


class TooManySessions(Refused):
    """The user has as many living sessions as may be."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"This user has {most:,} signed-in devices, and no more may be (LEDGER_MAX_SESSIONS): sign some of them out"
        )


class NotAllowed(LedgerError):
    """The caller is not admitted, or not to this."""


class SessionEnded(NotAllowed):
    """The token belongs to no living session."""

    def __init__(self) -> None:
        super().__init__("Invalid user token")


class TokenReused(SessionEnded):
    """A token came after it was replaced and its grace was over: somebody copied it, so its session was ended."""


class ParentOver(SessionEnded):
    """A session that this one belongs to has `ended`, or expired."""

    def __init__(self, *, ended: bool) -> None:
        super().__init__()
        self.ended = ended


class NoSuchSession(NotAllowed):
    """The named session does not exist or belongs to somebody else; which of both is not told."""


class Unavailable(LedgerError):
    """Trouble that passes; the same request may succeed after `retry_after_s` seconds."""

    retry_after_s = 1


class StoreUnavailable(Unavailable):
    """The store did not answer. `maybe_done`: the command may have been carried out."""

    def __init__(self, message: str, *, maybe_done: bool) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done


class NotReplicated(StoreUnavailable):
    """A write was carried out, but not confirmed by as many replicas as must have it; to ask again does no harm."""

    def __init__(self, message: str) -> None:
        super().__init__(message, maybe_done=True)


class StoreFull(Unavailable):
    """The store refuses writes at its memory limit; raise `maxmemory` or remove data."""

    retry_after_s = 30


class Contended(Unavailable):
    """Too many writers at one session for this attempt, unless the message names something else."""

    def __init__(self, message: str = "Too many writers at this session; try again") -> None:
        super().__init__(message)


class Rebuilding(Unavailable):
    """Projections were lost and are not whole again, so it is not known whether the session lives."""

    retry_after_s = 5

    def __init__(self) -> None:
        super().__init__(
            "Projections of this session's partition are missing: run syncledger rebuild, unless it runs, and try again"
        )


class LedgerGone(Unavailable):
    """The store that held this ledger is empty, or holds another one: it says nothing of who is signed in."""

    retry_after_s = 30


class DeletesPurged(Unavailable):
    """Delete markers that a running stream still had to send were purged; the next stream asks for a reset."""


class StoreReplyError(LedgerError):
    """The store answered a command with an error; the command was not carried out."""


class LayoutError(LedgerError):
    """The store cannot hold this ledger as configured; the message says what to change."""


class NoLedger(LayoutError):
    """The store holds no ledger and none is to begin in it, or it holds another one; the message says what to do."""

    exit_code = 2


class CorruptLedger(LedgerError):
    """Stored data contradicts itself; `details` names where."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class UnknownEvent(CorruptLedger):
    """An event of a type or schema this version does not know; a newer version wrote it."""


class UserKeyUnreadable(CorruptLedger):
    """The key of a user's personal texts cannot be read; the message says what to mend, and names the user."""


class NotAllEnded(CorruptLedger):
    """Some sessions that were to end did not, because what is stored of them is damaged; all others have ended."""

    def __init__(self, sids: Sequence[str], ended: int = 0) -> None:
        self.sids = tuple(sids)
        self.ended = ended
        named = ", ".join(sids[:NAMED]) + (f" and {len(sids) - NAMED:,} more" if len(sids) > NAMED else "")
        super().__init__(
            f"All sessions ended but {len(sids):,}, of which what is stored is damaged: {named}. "
            "For each run syncledger rebuild --session, then end it again",
            sids=self.sids,
        )
