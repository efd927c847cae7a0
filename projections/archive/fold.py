"""One session folded event by event, with every link of its chain looked at."""

from __future__ import annotations

import msgspec

from ledger.chain import GENESIS, link, previous_of
from ledger.errors import CorruptLedger
from ledger.evolve import evolve
from ledger.log.reader import Entry
from ledger.log.state_fields import checkpoint_fields, read_state, session_fields
from ledger.state import State
from projections.archive.errors import BadSegment
from projections.archive.format import EndedLine, StateLine


class Fold(msgspec.Struct):
    """A session's fold so far: its state, and the stream id of its last event."""

    state: State | None = None
    head: str = ""

    def take(self, entry: Entry) -> str:
        """Fold the next event; tells what is wrong with it, and then nothing was folded; else ''."""
        recorded, state = entry.recorded, self.state
        seq, digest = (0, GENESIS) if state is None else (state.seq, state.hash)
        previous = previous_of(recorded, seq, digest)
        if previous is None:
            return f"seq {recorded.seq} follows seq {seq}"
        if entry.prev != self.head:
            return f"prev is {entry.prev or 'empty'}, the event before is {self.head or 'none'}"
        if recorded.hash != link(previous, recorded.sid, recorded.seq, recorded.at_us, recorded.schema, recorded.raw):
            return "the hash does not match the event and the hash before it"
        try:
            self.state = evolve(state, recorded)
        except CorruptLedger as error:
            return str(error)
        self.head = entry.id
        return ""


def state_line(sid: str, fold: Fold) -> StateLine:
    """Lay a living session out as a segment keeps it."""
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
    """Read a living session of a segment; raises BadSegment."""
    session = {field.encode(): value for field, value in line.session.items()}
    checkpoints = {field.encode(): value for field, value in line.checkpoints.items()}
    try:
        return Fold(read_state(line.sid, session, checkpoints), line.head)
    except CorruptLedger as error:
        raise BadSegment(name, f"the state of session {line.sid} cannot be read") from error
