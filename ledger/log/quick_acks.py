"""An ack that does nothing but move one checkpoint, decided and packed in one step: almost every ack is one.

What is decided, recorded and folded is what `Ledger.execute` has decided, recorded and folded, without asking for what
such an ack is not. The call of the append script is joined of what it is in all such acks of the session, which is
remembered, and what is the ack's own, in place of being laid out and packed anew. Whatever is not as usual is left to
`execute`; a test holds the state and the bytes equal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec
from msgspec.structs import replace

from ledger import keys
from ledger.acks import Ack
from ledger.chain import link
from ledger.entity_types import CODES, COMPLETE, RESET
from ledger.events import SCHEMA, AcksRecorded, Recorded, StoredAck, encode_event
from ledger.log.append import Section, call_of
from ledger.log.state_fields import checkpoint_field
from ledger.positions import MAX_ID_BYTES, Position
from ledger.state import Checkpoint, State
from ledger.store.scripts import Arg, Script

REMEMBERED: Final = 4096
"""Of how many sessions the call is remembered, about 1 KB each."""


class Quick(msgspec.Struct, frozen=True, gc=False):
    """What an ack does to a session, and the call of the script that writes it; all its keys share `key`'s slot."""

    event: AcksRecorded
    after: State
    script: Script
    key: bytes
    call: bytes


class _Form(msgspec.Struct, frozen=True, gc=False):
    """A session's call without what differs from ack to ack: what lies before, between and behind that."""

    script: Script
    key: bytes
    texts: tuple[bytes, ...]


def quick_ack(state: State, ack: Ack, partitions: int, now_us: int, most_sessions: int) -> Quick | None:
    """Decide an ack on a living session's state and pack its append; None where `execute` must. Pure.

    It must where more is to be told than that a checkpoint moved, of a session that belongs to another, and in a
    century whose times have another length.
    """
    entity_type, position, epoch, at_us = ack.type, ack.position, ack.epoch, max(now_us, state.at_us)
    name = _NAMES.get(entity_type)
    if name is None or state.parent is not None or state.stale or state.refused or now_us < _FROM_US or at_us > _TO_US:
        return None
    if epoch != state.epoch_of(entity_type) or position.at_us >= state.offered_us(entity_type):
        return None
    checkpoints = dict(state.checkpoints)
    if before := checkpoints.get(entity_type):
        reached = before.position
        if position.at_us <= reached.at_us and position.key <= reached.key:
            return None
    event = AcksRecorded((StoredAck(CODES[entity_type], position.at_us, position.id, epoch),))
    sid, seq, raw = state.sid, state.seq + 1, encode_event(event)
    digest = link(state.hash, sid, seq, at_us, SCHEMA, raw)
    checkpoints[entity_type] = checkpoint = Checkpoint(position, at_us)
    after = replace(state, seq=seq, at_us=at_us, hash=digest, checkpoints=checkpoints)
    form = _form(partitions, sid, state.user, state.provider_session, most_sessions)
    before_seq, next_seq, value = b"%d" % state.seq, b"%d" % seq, checkpoint_field(checkpoint)
    head, to_seq, to_hash, to_next, to_at, to_raw, to_digest, to_name, to_value, tail = form.texts
    call = b"".join(
        (
            head, b"%d" % (now_us // 1000), to_seq, _LENGTHS[len(before_seq)], before_seq, to_hash, state.hash,
            to_next, _LENGTHS[len(next_seq)], next_seq, to_at, b"%d" % at_us, to_raw, _LENGTHS[len(raw)], raw,
            to_digest, digest, to_name, name, to_value, _LENGTHS[len(value)], value, tail,
        )
    )  # fmt: skip
    return Quick(event, after, form.script, form.key, call)


_LENGTHS: Final = tuple(b"$%d\r\n" % length for length in range(2 * MAX_ID_BYTES))
"""What stands before an argument of so many bytes; none of an ack's has more."""
_NAMES: Final = {
    name: b"%b%b" % (_LENGTHS[len(name)], name.encode()) for name in CODES if name not in (RESET, COMPLETE)
}
"""The entity types whose checkpoints just move, as an argument."""
_FROM_US: Final = 10**15
_TO_US: Final = 10**16 - 1
"""Times of 16 digits in µs and 13 in ms: from 2001 to 2286."""

# What stands for what differs from ack to ack, in its order in the call, with its length if that never differs. No
# argument is anything of these.
_NOW_MS: Final = -2
_SEQ: Final = -3
_HASH: Final = b"\0hash"
_NEXT_SEQ: Final = -4
_AT_US: Final = -5
_RAW: Final = b"\0raw"
_NEXT_HASH: Final = b"\0next hash"
_TYPE: Final = "\0type"
_VALUE: Final = Checkpoint(Position(-6, "\0id"), _AT_US)
_MARKS: Final[dict[Arg, bytes]] = {
    _NOW_MS: b"$13\r\n",
    _SEQ: b"",
    _HASH: b"$32\r\n",
    _NEXT_SEQ: b"",
    _AT_US: b"$16\r\n",
    _RAW: b"",
    _NEXT_HASH: b"$32\r\n",
    _TYPE.encode(): b"",
    checkpoint_field(_VALUE): b"",
}


@lru_cache(REMEMBERED)
def _form(partitions: int, sid: str, user: str, provider_session: bytes, most_sessions: int) -> _Form:
    """Lay out the call of an ack of a session, as `append` does, with marks, and cut it at each of them."""
    recorded = Recorded(sid, _NEXT_SEQ, _AT_US, SCHEMA, AcksRecorded(()), _RAW, _NEXT_HASH)
    before = State(sid, user, "", _SEQ, _AT_US, _HASH, _AT_US, provider_session=provider_session)
    after = replace(before, seq=_NEXT_SEQ, hash=_NEXT_HASH, checkpoints={_TYPE: _VALUE})
    partition = keys.partition_of(user, partitions)
    section = Section(before, (recorded,), after)
    script, names, args = call_of(partition, [section], _NOW_MS * 1000, most_sessions=most_sessions)
    whole: tuple[Arg, ...] = (b"EVALSHA", script.sha, len(names), *names, *args)
    texts, found, text = list[bytes](), list[Arg](), b"*%d\r\n" % len(whole)
    for arg in whole:
        if (length := _MARKS.get(arg)) is not None:
            texts.append(text + length)
            found.append(arg)
            text = b"\r\n"
        else:
            plain = arg.encode() if isinstance(arg, str) else b"%d" % arg if isinstance(arg, int) else arg
            text += b"$%d\r\n%b\r\n" % (len(plain), plain)
    assert found == list(_MARKS)
    return _Form(script, keys.stream(partition), (*texts, text))
