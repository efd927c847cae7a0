"""An ack that does nothing but move one checkpoint, decided and packed in one step: almost every ack is one.

What is decided, recorded and folded is what `Ledger.execute` has decided, recorded and folded. But the call of the
append script is made by one format operation on what it is in all such acks of the session, which is remembered, in
place of being laid out and packed anew. Whatever is not as usual is left to `execute`; a test holds the bytes equal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Final, NamedTuple

from msgspec.structs import replace

from ledger.acks import Ack
from ledger.decide import record_acks
from ledger.entity_types import COMPLETE
from ledger.errors import Refused
from ledger.events import SCHEMA, AcksRecorded, Recorded
from ledger.log.append import Section, call_of, place
from ledger.log.state_fields import checkpoint_field
from ledger.positions import Position
from ledger.state import Checkpoint, State
from ledger.store.scripts import Arg, Script

REMEMBERED: Final = 4096
"""Of how many sessions the call is remembered, about 1 KB each."""


class Quick(NamedTuple):
    """What an ack does to a session, and the call of the script that writes it."""

    section: Section
    script: Script
    call: bytes


class _Form(NamedTuple):
    """A call with holes, each of them a length and so many bytes, and what picks these from all there are."""

    script: Script
    text: bytes
    pick: Callable[[tuple[int | bytes, ...]], tuple[int | bytes, ...]]


def quick_ack(state: State, ack: Ack, partition: int, now_us: int, most_sessions: int) -> Quick | None:
    """Decide an ack on a living session's state and pack its append; None where `execute` must. Pure.

    It must where more is to be told than that a checkpoint moved, and of a session that belongs to another.
    """
    entity_type, position, _ = ack
    if entity_type == COMPLETE or state.parent is not None or state.stale or state.refused:
        return None
    try:
        events = record_acks(state, (ack,))
    except Refused:
        return None
    if not events or type(event := events[0]) is not AcksRecorded or not event.moved or event.stale:
        return None
    section = place(state, state.sid, events, now_us)
    (recorded,) = section.events
    form = _form(partition, state.sid, state.user, state.provider_session, most_sessions)
    now = b"%d" % (now_us // 1000)
    seq, next_seq, at = b"%d" % state.seq, b"%d" % recorded.seq, b"%d" % recorded.at_us
    raw, name = recorded.raw, entity_type.encode()
    value = b"%d|%b|%b" % (position.at_us, position.id.encode(), at)
    filled = form.pick(
        (
            len(now), now, len(seq), seq, len(state.hash), state.hash, len(next_seq), next_seq, len(at), at,
            len(raw), raw, len(recorded.hash), recorded.hash, len(name), name, len(value), value,
        )
    )  # fmt: skip
    return Quick(section, form.script, form.text % filled)


# What stands for what differs from ack to ack, in the order of `quick_ack`; no argument is anything of these.
_NOW_MS: Final = -2
_SEQ: Final = -3
_HASH: Final = b"\0hash"
_NEXT_SEQ: Final = -4
_AT_US: Final = -5
_RAW: Final = b"\0raw"
_NEXT_HASH: Final = b"\0next hash"
_TYPE: Final = "\0type"
_VALUE: Final = Checkpoint(Position(-6, "\0id"), _AT_US)
_IN_ORDER: Final[tuple[Arg, ...]] = (
    *(_NOW_MS, _SEQ, _HASH, _NEXT_SEQ, _AT_US),
    *(_RAW, _NEXT_HASH, _TYPE.encode(), checkpoint_field(_VALUE)),
)
_MARKS: Final = {mark: number for number, mark in enumerate(_IN_ORDER)}


@lru_cache(REMEMBERED)
def _form(partition: int, sid: str, user: str, provider_session: bytes, most_sessions: int) -> _Form:
    """Lay out the call of an ack of a session, as `append` does, with marks, and make a hole of each."""
    event = AcksRecorded(())
    recorded = Recorded(sid, _NEXT_SEQ, _AT_US, SCHEMA, event, _RAW, _NEXT_HASH)
    before = State(sid, user, "", _SEQ, _AT_US, _HASH, _AT_US, provider_session=provider_session)
    after = replace(before, seq=_NEXT_SEQ, hash=_NEXT_HASH, checkpoints={_TYPE: _VALUE})
    section = Section(before, (recorded,), after)
    script, names, args = call_of(partition, [section], _NOW_MS * 1000, most_sessions=most_sessions)
    whole: tuple[Arg, ...] = (b"EVALSHA", script.sha, len(names), *names, *args)
    text, picked = [b"*%d\r\n" % len(whole)], list[int]()
    for arg in whole:
        mark = _MARKS.get(arg)
        if mark is None:
            plain = arg.encode() if isinstance(arg, str) else b"%d" % arg if isinstance(arg, int) else arg
            text.append(b"$%d\r\n%b\r\n" % (len(plain), plain.replace(b"%", b"%%")))
        else:
            text.append(b"$%d\r\n%b\r\n")
            picked += (2 * mark, 2 * mark + 1)
    return _Form(script, b"".join(text), itemgetter(*picked))
