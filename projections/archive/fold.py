"""One session folded event by event, with every link of its chain looked at."""

from __future__ import annotations

import msgspec

from ledger.chain import Tip, broken_link
from ledger.errors import CorruptLedger, UnknownEvent
from ledger.evolve import evolve
from ledger.log.reader import Entry
from ledger.log.state_fields import checkpoint_fields, read_state, session_fields
from ledger.state import State
from projections.archive.errors import BadSegment
from projections.archive.format import EndedLine, StateLine


class Fold(msgspec.Struct):
    """A session's fold so far: its state, and the stream id of its last event.

    `broken`: stream id and fault of the first event that does not follow; then the state is none to go by.
    """

    state: State | None = None
    head: str = ""
    broken: str = ""

    @property
    def tip(self) -> Tip:
        """Where its chain ends."""
        return Tip() if self.state is None else Tip(self.state.seq, self.state.hash, self.head)

    def take(self, entry: Entry) -> str:
        """Fold the next event; tells what is wrong with it, and then nothing was folded; else ''.

        Raises UnknownEvent for what only a newer version can fold.
        """
        recorded, state = entry.recorded, self.state
        if state is None:
            wrong = broken_link(recorded, entry.prev)
        else:
            wrong = broken_link(recorded, entry.prev, state.seq, state.hash, self.head)
        if wrong:
            return wrong
        try:
            self.state = evolve(state, recorded)
        except UnknownEvent:
            raise
        except CorruptLedger as error:
            return str(error)
        self.head = entry.id
        return ""


def state_line(sid: str, fold: Fold) -> StateLine:
    """Lay a session that has not ended out as a segment keeps it."""
    if fold.broken:
        return StateLine(sid, {}, {}, fold.head, fold.broken)
    assert fold.state is not None
    session = {name.decode(): value for name, value in session_fields(fold.state).items()}
    checkpoints = {name.decode(): value for name, value in checkpoint_fields(fold.state).items()}
    return StateLine(sid, session, checkpoints, fold.head)


def ended_line(sid: str, fold: Fold) -> EndedLine:
    """Lay an ended session out as a segment keeps it."""
    state = fold.state
    assert state is not None
    return EndedLine(sid, fold.head, state.seq, state.hash.hex(), state.user)


def read_fold(name: str, line: StateLine) -> Fold:
    """Read a session of a segment's states; raises BadSegment."""
    if line.broken:
        return Fold(None, line.head, line.broken)
    session = {field.encode(): value for field, value in line.session.items()}
    checkpoints = {field.encode(): value for field, value in line.checkpoints.items()}
    try:
        return Fold(read_state(line.sid, session, checkpoints), line.head)
    except CorruptLedger as error:
        raise BadSegment(name, f"the state of session {line.sid} cannot be read") from error
