"""A poll that finds nothing, answered from what the worker remembers once the store says that all of it is so still.

Phones ask all day, and mostly nothing changed. What such a poll is answered follows from two things alone: the state of
the session and what the library holds. The worker remembers both. So it decides on what it remembers, while one round
trip asks the store whether that is still current: the session at its version, as for a write, and the library at its
stamps. At that instant the plain path (`stream.py`), which loads everything, would say the same; a test holds the two
equal. Whatever is not as usual is left to the plain path: a reset that is due, something to send, something to put on
record, a state or a library that changed or that nobody remembers.

Where a source's horizon goes on by itself, the plain path teaches what to remember: a stream that found nothing and put
nothing on record, at a moment at which nothing stood above its horizon either. As long as nothing at all was written
to the source since, there is nothing more to find. Whether that is so is asked only for a session at whose last two
polls the source was the same: one that is written to more often than it is polled would be asked in vain each time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from endpoints.sync.stream_lines import complete_line
from ledger.admission import Caller
from ledger.commands import OfferStream, Origin, Resend
from ledger.decide import decide
from ledger.entity_types import COMPLETE, mask_of
from ledger.errors import SessionEnded
from ledger.log.service import Ledger
from ledger.starting_over import reset_due
from ledger.state import State
from projections.entities.registry import EntityTypeRow
from projections.entities.source import EntitySource, Outlook, Remembers, TellsQuiet

MOST: Final = 4096
"""Of how many sessions the last line is remembered: 1 KB each, and 5 KB of a state that the ledger has forgotten."""


class Answer(NamedTuple):
    """The line of a poll, and what it follows from: the session's state, what was asked for, and the library.

    Of a source that tells only whether it is quiet that is since when, and until when the line would be the same. The
    line is empty where only that is known.
    """

    state: State
    rows: Sequence[EntityTypeRow]
    library: tuple[object, Origin, tuple[Resend, ...]] | tuple[object, tuple[Resend, ...]]
    line: bytes
    until_us: int = 0


class Foreseen:
    """The line of a poll as it follows from what is remembered, while the store is asked whether the library is so."""

    def __init__(self, state: State, line: bytes, asked: asyncio.Task[bool]) -> None:
        self._state = state
        self._line = line
        self._asked = asked

    def is_of(self, state: State) -> bool:
        """Tell whether it follows from this state, as the session was admitted; else it is dropped."""
        if state is not self._state:
            self.drop()
        return state is self._state

    async def line(self) -> bytes | None:
        """Return the line if the library is what it follows from; else None. Raises what the source raises."""
        return self._line if await self._asked else None

    def drop(self) -> None:
        """Want no answer any more."""
        if not self._asked.cancel() and not self._asked.cancelled():
            self._asked.exception()  # the plain path meets the same


class IdlePolls:
    """The polls of one worker."""

    def __init__(self, ledger: Ledger, source: EntitySource, most: int = MOST) -> None:
        self._ledger = ledger
        self._source = source if isinstance(source, Remembers) else None
        self._quiet = source if isinstance(source, TellsQuiet) else None
        self._most = most
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def __len__(self) -> int:
        """Tell of how many sessions a line is remembered."""
        return len(self._answers)

    def foresee(self, caller: Caller, rows: Sequence[EntityTypeRow]) -> Foreseen | None:
        """Decide on what is remembered of the caller's session; None where nothing is, or the plain path must.

        What comes of it is to be taken (`line`) or dropped once the caller is admitted.
        """
        state = self._ledger.admissions.remembered(caller)
        return None if state is None else self.foresee_of(state, rows)

    def foresee_of(self, state: State, rows: Sequence[EntityTypeRow]) -> Foreseen | None:
        """Decide on a state, which may have been loaded just now."""
        if self._quiet is not None:
            return self._as_before(self._quiet, state, rows)
        source = self._source
        if source is None or (outlook := source.outlook(state.library, state.user)) is None:
            return None
        sid, library = state.sid, (outlook.library.marks, outlook.origin, source.resends)
        known = self._answers.get(sid)
        if known is not None and known.state is state and known.rows is rows and known.library == library:
            self._answers.move_to_end(sid)
            line: bytes | None = known.line
        else:
            line = idle_line(source, state, rows, outlook, self._ledger.clock())
            self._keep(None if line is None else Answer(state, rows, library, line), sid)
        if line is None:
            return None
        return Foreseen(state, line, asyncio.ensure_future(source.is_still(state.library, outlook)))

    def keep(
        self, state: State, rows: Sequence[EntityTypeRow], line: bytes, horizon_us: int, holds_for_us: int
    ) -> None:
        """Take in a poll that the plain path answered with a line, as it found nothing below a horizon."""
        source = self._quiet
        if source is None or not rows:
            return
        moment, before = source.moment, self._answers.get(state.sid)
        is_same = before is not None and before.library[0] == moment
        if not is_same or not source.quiet(state.library, [row.name for row in rows], horizon_us):
            line = b""
        until_us = self._ledger.clock() + holds_for_us
        self._keep(Answer(state, rows, (moment, source.resends), line, until_us), state.sid)

    def _as_before(self, source: TellsQuiet, state: State, rows: Sequence[EntityTypeRow]) -> Foreseen | None:
        """Answer as the last time, if all is so still."""
        known = self._answers.get(state.sid)
        if known is None or not known.line or known.state is not state or known.rows is not rows:
            return None
        moment, resends = known.library[0], known.library[-1]
        if resends != source.resends or self._ledger.clock() >= known.until_us:
            return None
        self._answers.move_to_end(state.sid)
        return Foreseen(state, known.line, asyncio.ensure_future(source.is_quiet_since(moment)))

    def _keep(self, answer: Answer | None, sid: str) -> None:
        if answer is None:
            self._answers.pop(sid, None)
            return
        self._answers[sid] = answer
        self._answers.move_to_end(sid)
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)


def idle_line(
    source: Remembers, state: State, rows: Sequence[EntityTypeRow], outlook: Outlook, now_us: int
) -> bytes | None:
    """Tell the one line of a stream that has nothing to send and puts nothing on record; None for any other stream.

    Says what `begin` and `chunks` do of a steady source. Pure.
    """
    library, origin = outlook
    horizon_us, floor_us = library.horizon_us, library.floor_us
    types = mask_of([COMPLETE, *(row.name for row in rows)])
    if floor_us >= horizon_us or reset_due(state, floor_us, types, origin):
        return None
    held = state.checkpoints
    for row in rows:
        checkpoint = held.get(row.name)
        if library.has_after(row.stored, None if checkpoint is None else checkpoint.position):
            return None
    try:
        if decide(state, OfferStream(horizon_us, types, floor_us, source.resends, origin), now_us):
            return None
    except SessionEnded:  # in this moment: who admits tells
        return None
    return complete_line(horizon_us, types, state.epoch_of(COMPLETE))
