"""What is stored of a session beside what its events say: in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from ledger.entity_types import COMPLETE
from ledger.errors import CorruptLedger
from ledger.log.append import parse_ended
from ledger.log.order import SPAN_MS, Placing, counts_ms
from ledger.log.state_fields import Fields, checkpoint_fields, session_fields
from ledger.log.stored_sessions import RawSession
from ledger.state import State
from projections.checking.partition_fold import Folded, behind
from projections.sent.judgement import judge, judged_then
from projections.sent.record import parsed

_HASH_BYTES = 32
LIVES_NOWHERE = "no session, though its events do not end"
ENDED_NOWHERE = "ended, but not kept as ended"
INDEX_ONLY = "is in an index only"
UNKNOWN = "is not among the ids of all sessions"
_SKEW_US = 60_000_000
"""How far the clocks of two workers may be apart: a completion and a stream's end are noted by one each."""


def stored_fields(folded: Folded, state: State) -> Fields:
    """Lay a living session out as its hash."""
    return session_fields(state) | {b"head": folded.head.encode()}


def stored_seq(stored: RawSession) -> int | None:
    """Tell at which seq a session is stored, living or ended; None if neither. Raises CorruptLedger if it is none."""
    if stored.session:
        seq = stored.session.get(b"seq", b"nothing")
    elif stored.ended is not None:
        seq = b"%d" % parse_ended(stored.ended).seq
    else:
        return None
    if not seq.isdigit() or int(seq) < 1:
        raise CorruptLedger(f"a session at seq {seq!r}")
    return int(seq)


def ahead(folded: Folded, stored: RawSession) -> str:
    """Tell how what is stored stands beyond the last event: history was shortened, or what is stored is wrong."""
    for seq, digest in _heads(stored):
        if seq > folded.seq and (folded.seq or len(digest) == _HASH_BYTES):
            return f"stored at seq {seq}, but its events end at seq {folded.seq}"
    return ""


def unlike(folded: Folded, stored: RawSession) -> str:
    """Tell how the head that is stored of a session proves another history than its events are; '' if it does not.

    Projections are written with the events in one script: where a head differs that was stored no later than these were
    read, either was changed by somebody else. What holds no hash (32 bytes) proves nothing, and neither does a stream
    id: a copied stream may have others.
    """
    if what := ahead(folded, stored):
        return what
    for seq, digest in _heads(stored):
        if len(digest) == _HASH_BYTES and digest != folded.hash:
            if seq in (0, folded.seq):
                return (
                    f"stored with another hash than its events lead to at seq {folded.seq}: its history was rewritten"
                )
            return (
                f"stored at seq {seq}, behind its events at {folded.seq}: "
                "some were added to its history, or an older state was put back"
            )
    return ""


def differences(folded: Folded, stored: RawSession) -> Iterator[str]:
    """Name all that differs between a fold and what is stored of the same version; raises CorruptLedger.

    With a broken fold nothing is compared.
    """
    if folded.broken:
        return iter(())
    if folded.kept is not None:
        return chain(_of_ended(folded, stored), _of_marks(folded, stored))
    if folded.state is not None:
        return chain(
            _of_living(folded, folded.state, stored), _of_marks(folded, stored), _of_place(folded.state, stored)
        )
    return iter(() if stored.is_nowhere else (INDEX_ONLY,))


def _heads(stored: RawSession) -> Iterator[tuple[int, bytes]]:
    """Read at which seq and hash a session is stored, living and ended; a seq that cannot be read is 0."""
    if stored.session:
        seq = stored.session.get(b"seq", b"")
        yield int(seq) if seq.isdigit() else 0, stored.session.get(b"hash", b"")
    if stored.ended is not None:
        try:
            kept = parse_ended(stored.ended)
        except CorruptLedger:
            return
        yield kept.seq, kept.hash


def _of_living(folded: Folded, state: State, stored: RawSession) -> Iterator[str]:
    if not stored.session:
        yield LIVES_NOWHERE
        return
    yield from _of_fields("session", stored_fields(folded, state), stored.session)
    yield from _of_fields("checkpoints", checkpoint_fields(state), stored.checkpoints)
    if stored.ended is not None:
        yield "lives, and is kept as ended too"
    if stored.device != (state.parent or "").encode():
        yield "is not among its user's devices"
    if stored.score is None:
        yield "is not in the activity index"
    if stored.provider != bool(state.provider_session):
        yield "is not among its provider's sessions"


def _of_ended(folded: Folded, stored: RawSession) -> Iterator[str]:
    if stored.ended is None:
        yield ENDED_NOWHERE
    elif parse_ended(stored.ended) != folded.kept:
        yield "what is kept of the ended session differs from its events"
    left = (
        ("session", bool(stored.session)),
        ("checkpoints", bool(stored.checkpoints)),
        ("activity", stored.score is not None),
        ("credential", stored.credential),
        ("devices", stored.device is not None),
        ("a place in the order of devices", stored.place is not None),
    )
    for name, is_left in left:
        if is_left:
            yield f"ended, but still has {name}"
    if stored.filled and not stored.known:
        yield UNKNOWN


def wanted_marks(folded: Folded, stored: RawSession) -> list[str]:
    """List the marks that a session must have: those of its events that are not archived."""
    return [mark for mark in folded.marks if _is_hot(mark, stored)]


def _of_marks(folded: Folded, stored: RawSession) -> Iterator[str]:
    """Compare the marks; those of archived events may still be there."""
    if wanted_marks(folded, stored) != [mark for mark in stored.marks if _is_hot(mark, stored)]:
        yield "its marks are not where its events are"


def wanted_place(sid: str, folded: Folded, stored: RawSession) -> Placing:
    """Tell where a session belongs in the index of devices."""
    state = folded.state
    if state is None:
        return Placing(sid, 0)
    stuck = judge(parsed(stored.sent), state)
    return Placing.of(state, None if stuck is None else stuck.since_us, stored.sent)


def _of_place(state: State, stored: RawSession) -> Iterator[str]:
    """Compare the place in the order of devices, where all sessions of the partition have one."""
    if not stored.filled:
        return
    if not stored.known:
        yield UNKNOWN
    if stored.place is None:
        yield "is not in the order of devices"
        return
    sent = parsed(stored.sent)
    if stored.place < SPAN_MS:
        # It was stuck when its last stream ended; that it acknowledged what it was sent again does not unmark it.
        if judged_then(sent, state) is None:
            yield "is marked as stuck, though its last streams do not show that"
        return
    if judge(sent, state) is not None:
        completed, never_cleared = state.checkpoints.get(COMPLETE), state.epoch_of(COMPLETE) == 1
        late_us = sent[0].stream.at_us - _SKEW_US
        if (completed.acked_at_us < late_us) if completed is not None else never_cleared:  # else it may have been since
            yield "is not marked as stuck, though its last streams show that"
    seen_ms, since_ms = float(stored.score or 0), counts_ms(state)
    if stored.place != (SPAN_MS if seen_ms > since_ms else 2 * SPAN_MS) + since_ms:
        yield "is at another place in the order of devices than its last completion has"


def _is_hot(mark: str, stored: RawSession) -> bool:
    """Tell whether a mark is not one of an archived event."""
    try:
        return behind(mark, stored.floor)
    except ValueError:
        return True  # it is no stream id, and so not what it must be


def _of_fields(name: str, expected: Fields, stored: Fields) -> Iterator[str]:
    if expected != stored:
        fields = sorted(key for key in expected.keys() | stored.keys() if expected.get(key) != stored.get(key))
        yield f"{name} {'differs' if name == 'session' else 'differ'} from the fold in {', '.join(map(_text, fields))}"


def _text(field: bytes) -> str:
    return field.decode(errors="backslashreplace")
