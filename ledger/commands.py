"""What can be asked of a session."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from ledger.acks import Ack
from ledger.events import Personal
from ledger.state import State


class _Command(msgspec.Struct, frozen=True):
    """A base only for the options all commands share."""


class AdoptCheckpoints(_Command, frozen=True):
    """Go on where the device stood at `source`: with these positions, at most one of a type, and no others.

    `since_us`: when the device began there. `as_of_us`: when the newest of what was found there changed, and `types` (a
    mask) what it was of; what is no newer than what was adopted before changes nothing. `revision`: that of the source
    by which the device's rows were made.
    """

    positions: tuple[Ack, ...]
    source: str
    since_us: int
    as_of_us: int = 0
    types: int = 0
    revision: int = 0


class CreateSession(_Command, frozen=True):
    """Sign a device in; one that stood somewhere else before goes on there, in the same append."""

    user: str
    library: str
    parent: str | None = None
    device_type: Personal = b""
    device_os: Personal = b""
    app_version: Personal = b""
    expires_at_us: int | None = None
    authenticated_by: str = ""
    token_expires_at_us: int | None = None
    provider_session: bytes = b""
    adopted: AdoptCheckpoints | None = None


class ResumeSession(_Command, frozen=True):
    """Let a session that has ended live again, as `by` says it does; `session` describes it as it is now.

    `epoch`: the newest one that is known to have begun before it ended.
    """

    by: str
    session: CreateSession
    epoch: int = 1


class GoOn(_Command, frozen=True):
    """Go on behind what the store lost of the session: `known` is what it had become, as `cause` tells."""

    known: State
    cause: str


class Resend(NamedTuple):
    """From this revision on (1, 2, …) a source sends rows of `types` (a mask) otherwise, though they did not change.

    Who was streamed to before it holds them as they were, and gets them again.
    """

    revision: int
    types: int


EVER: Final = 2**63 - 1
"""Up to where an origin goes on from one that it has all of."""


class Origin(NamedTuple):
    """What the positions of a source are made in, of all it ever was: another one may lack what devices have.

    `number` names it; 0 where a source does not tell. `written`: how far it was written when it was read, a number that
    grows with everything written; 0 where that is not known. `follows`: earlier origins that it goes on from, each with
    how far: all that was read of one up to there is in this one too. `first`: it is what was streamed from before
    sources told.
    """

    number: int = 0
    written: int = 0
    follows: tuple[tuple[int, int], ...] = ()
    first: bool = False


class OfferStream(_Command, frozen=True):
    """Begin a stream of `types` (a mask of entity types) up to `snapshot_us`; where a reset is due, send that instead.

    `floor_us`: the stamp of the newest delete marker that is gone; -1 where that does not matter. `resends` and
    `origin` are its source's.
    """

    snapshot_us: int
    types: int
    floor_us: int = -1
    resends: tuple[Resend, ...] = ()
    origin: Origin = Origin()


class RecordAcks(_Command, frozen=True):
    """Take the acks of one request, all or none."""

    acks: tuple[Ack, ...]


class ClearCheckpoints(_Command, frozen=True):
    """Forget the checkpoints of `types` (a mask; None for all).

    `reset`: the device starts over by itself and holds nothing; that answers a pending reset too. For the cause IMMICH
    it is forgotten too that they were adopted, so that they are cleared once. `by`: who wants it, for the cause ASKED.
    """

    types: int | None
    cause: str
    reset: bool = False
    by: Personal = b""


class RequestReset(_Command, frozen=True):
    """Ask the device to start over, or take that back; `cause` where it is no owner's or operator's wish."""

    on: bool
    by: Personal
    cause: str = ""


class DescribeDevice(_Command, frozen=True):
    """Tell what the device is now; empty values are unknown and change nothing."""

    device_type: Personal = b""
    device_os: Personal = b""
    app_version: Personal = b""


class RotateToken(_Command, frozen=True):
    """Take a new token of digest `token` into the session, asked for with the one of digest `by`."""

    by: bytes
    token: bytes
    number: int
    expires_at_us: int | None = None


class UseToken(_Command, frozen=True):
    """Use a token; if it is new, those it replaces are good for `grace_us` more."""

    token: bytes
    grace_us: int


class EndSession(_Command, frozen=True):
    """End the session."""

    reason: str
    by: Personal = b""


class ExpireSession(_Command, frozen=True):
    """End the session if its time is over, or if nothing was heard of it since `idle_before_us`.

    `seen_us`: when its last request of any kind was noted.
    """

    idle_before_us: int
    seen_us: int


Ending = EndSession | ExpireSession
Command = (
    CreateSession
    | ResumeSession
    | AdoptCheckpoints
    | GoOn
    | OfferStream
    | RecordAcks
    | ClearCheckpoints
    | RequestReset
    | DescribeDevice
    | RotateToken
    | UseToken
    | Ending
)
