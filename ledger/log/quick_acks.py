"""An ack that does nothing but move one checkpoint, decided and packed in one step: almost every ack is one.

What is decided, recorded and folded is what `Ledger.execute` has decided, recorded and folded, without asking for what
such an ack is not: its rules are those of `decide.record_acks` and of `evolve`, and change together with them. It is
written by `append_one.lua`, which does what `append.lua` does to such a session, for three quarters of what that takes
the server. Whatever is not as usual is left to `execute`; tests hold both ways equal.
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
from ledger.events import SCHEMA, AcksRecorded, StoredAck, encode_event
from ledger.log.append import MARK_EVERY
from ledger.log.state_fields import checkpoint_field
from ledger.positions import MAX_ID_BYTES
from ledger.state import Checkpoint, State
from ledger.store.scripts import Arg, Script, pack

APPEND_ONE: Final = Script.load("ledger.log", "append_one.lua")
WRITTEN: Final = 1
"""What it answers."""
REMEMBERED: Final = 4096
"""Of how many sessions it is remembered how the call begins, about 0.5 KB each."""


class Quick(msgspec.Struct, frozen=True, gc=False):
    """What an ack does to a session, and the call of APPEND_ONE that writes it; `key` is one of its keys."""

    event: AcksRecorded
    after: State
    key: bytes
    call: bytes


def quick_ack(state: State, ack: Ack, partitions: int, now_us: int) -> Quick | None:
    """Decide an ack on a living session's state and pack its append; None where `execute` must. Pure.

    It must where more is to be told than that a checkpoint moved, of a session that belongs to another, and in a
    century whose times have another length.
    """
    entity_type, position, epoch, at_us = ack.type, ack.position, ack.epoch, max(now_us, state.at_us)
    field = _FIELDS.get(entity_type)
    if field is None or state.parent is not None or state.stale or state.refused or not _FROM_US <= at_us < _TO_US:
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
    key, head = _begins(partitions, sid, state.user) if seq % MARK_EVERY else _begin(partitions, sid, state.user, True)
    expected_seq, next_seq, value = b"%d" % state.seq, b"%d" % seq, checkpoint_field(checkpoint)
    call = b"".join(
        (
            head, _LENGTHS[len(expected_seq)], expected_seq, _A_HASH, state.hash,
            b"\r\n", _LENGTHS[len(next_seq)], next_seq, b"\r\n$16\r\n%d\r\n" % at_us, _LENGTHS[len(raw)], raw,
            _A_HASH, digest, field, _LENGTHS[len(value)], value, b"\r\n",
        )
    )  # fmt: skip
    return Quick(event, after, key, call)


_LENGTHS: Final = tuple(b"$%d\r\n" % length for length in range(2 * MAX_ID_BYTES))
"""What stands before an argument of so many bytes; no id of an ack makes more."""
_A_HASH: Final = b"\r\n$32\r\n"
_FIELDS: Final = {
    name: b"\r\n$%d\r\n%b\r\n" % (len(name), name.encode()) for name in CODES if name not in (RESET, COMPLETE)
}
"""The entity types whose checkpoints just move, as an argument."""
_OWN: Final = 8
"""How many arguments are an ack's own."""
_FROM_US: Final = 10**15
_TO_US: Final = 10**16
"""Times of 16 digits: from 2001 to 2286."""


@lru_cache(REMEMBERED)
def _begins(partitions: int, sid: str, user: str) -> tuple[bytes, bytes]:
    return _begin(partitions, sid, user, False)


def _begin(partitions: int, sid: str, user: str, is_mark: bool) -> tuple[bytes, bytes]:
    """Pack a session's call up to what differs from ack to ack; gives one of its keys, and that."""
    partition = keys.partition_of(user, partitions)
    names = [keys.stream(partition), keys.session(partition, sid), keys.checkpoints(partition, sid)]
    if is_mark:
        names.append(keys.marks(partition, sid))
    begin: tuple[Arg, ...] = (b"EVALSHA", APPEND_ONE.sha, len(names), *names, bytes.fromhex(sid), SCHEMA)
    _, _, packed = pack(begin).partition(b"\r\n")
    return names[0], b"*%d\r\n%b" % (len(begin) + _OWN, packed)
