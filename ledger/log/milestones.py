"""Milestones: a session's state at about every EVERY-th event, so that folding up to an instant begins near it.

They are derived and never needed: whoever folds past one that is not there writes it. A process writes that of a
session whose events it appends, behind the append and not in its way. The first state at or beyond seq m * EVERY that
somebody came by is milestone m. What is used of them must name an event that is in the stream, by seq and hash.
`verify` compares them all with the fold, and `rebuild` makes them anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from ledger import keys
from ledger.errors import CorruptLedger, StoreReplyError, StoreUnavailable
from ledger.log.formats import FORMAT
from ledger.log.state_fields import checkpoint_fields, read_state, session_fields
from ledger.state import State
from ledger.store.interface import Store, scan

log = logging.getLogger(__name__)

EVERY: Final = 2048
"""Folding so many events takes some 20 ms; a milestone takes as much memory as twenty events."""
MOST: Final = 512
"""How many of a session are kept: of its last million events."""
LOOK_BACK: Final = 4
"""So many milestones are looked at for one that can be used: each may be missing."""
PENDING: Final = 32
"""So many are on their way to the store from a process at once; others are left out."""
_WRITTEN_AT_ONCE: Final = 16
_REMOVED: Final = 64
"""Of so many that are too old the last are removed with each that is written: some of them may never have been."""
_DELETED_AT_ONCE: Final = 1000


class _Kept(NamedTuple):
    """A milestone as it is stored: of another format it is passed over, as that may fold otherwise."""

    format: int
    session: dict[bytes, bytes]
    checkpoints: dict[bytes, bytes]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Kept).decode


def is_kept(seq: int, newest_seq: int) -> bool:
    """Tell whether the milestone of an event is kept of a session whose newest event is `newest_seq`."""
    return seq // EVERY > newest_seq // EVERY - MOST


def passes(before: int, after: int) -> bool:
    """Tell whether a session comes by a milestone between two seqs."""
    return after // EVERY > before // EVERY


class Milestones:
    """Writes the milestones that the sessions of a process come by."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: set[asyncio.Task[None]] = set()

    def note(self, partition: int, state: State) -> None:
        """Have a state written, behind what the process is about; one that cannot be is told and left out."""
        if len(self._pending) < PENDING:
            task = asyncio.get_running_loop().create_task(write(self._store, partition, [state]))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)


async def write(store: Store, partition: int, states: Sequence[State]) -> None:
    """Write milestones, and remove those that are too old; raises nothing."""
    name = keys.milestones(partition)
    try:
        for start in range(0, len(states), _WRITTEN_AT_ONCE):
            some = states[start : start + _WRITTEN_AT_ONCE]
            kept = [_Kept(FORMAT, session_fields(state), checkpoint_fields(state)) for state in some]
            fields = [
                (_field(state.sid, state.seq // EVERY), _encode(one)) for state, one in zip(some, kept, strict=True)
            ]
            old = [field for state in some for field in _too_old(state)]
            await asyncio.gather(
                *(store.command("HSET", name, field, value, key=name) for field, value in fields),
                *([store.command("HDEL", name, *old, key=name)] if old else []),
            )
    except (StoreReplyError, StoreUnavailable) as error:  # nobody needs them: what reads further back takes longer
        log.info("milestones of partition %d were not written: %s", partition, error)


async def before(store: Store, partition: int, sid: str, seq: int) -> list[State]:
    """Read the milestones last before an event, itself included, the newest first."""
    name, newest = keys.milestones(partition), seq // EVERY
    wanted = [_field(sid, number) for number in range(newest, max(newest - LOOK_BACK, 0), -1)]
    if not wanted:
        return []
    try:
        found = await store.command("HMGET", name, *wanted, key=name)
    except StoreReplyError as error:  # of another type: `verify` names it
        log.info("milestones of partition %d cannot be read: %s", partition, error)
        return []
    states = [state for raw in found if raw is not None and (state := _read(sid, raw)) is not None]
    return [state for state in states if state.seq <= seq]


async def read_all(store: Store, partition: int) -> dict[tuple[str, int], State | None]:
    """Read all milestones of a partition by session and seq; None for one that cannot be read, by where it should be.

    Those of another format are left out. Raises StoreReplyError.
    """
    states: dict[tuple[str, int], State | None] = {}
    async for rows in scan(store, "HSCAN", keys.milestones(partition)):
        for field, raw in rows:
            sid, _, number = field.decode(errors="replace").partition(":")
            if not _is_readable(raw):
                continue
            state = _read(sid, raw)
            at = int(number) * EVERY if state is None and number.isdecimal() else 0
            states[sid, at if state is None else state.seq] = state
    return states


async def remove(store: Store, partition: int, sid: str | None = None, before_us: int | None = None) -> None:
    """Remove the milestones of a partition: all, those of one session, or those up to an instant (µs).

    A key of another type is removed too: what belongs there is made anew.
    """
    name = keys.milestones(partition)
    if (sid is None and before_us is None) or await store.command("TYPE", name, key=name) not in (b"hash", b"none"):
        await store.command("DEL", name, key=name)
        return
    gone: list[bytes] = []
    async for rows in scan(store, "HSCAN", name):
        for field, raw in rows:
            whose = field.partition(b":")[0].decode(errors="replace")
            if sid is not None:
                is_gone = whose == sid
            else:
                state = _read(whose, raw)
                is_gone = state is None or state.at_us <= (before_us or 0)
            if is_gone:
                gone.append(field)
    for start in range(0, len(gone), _DELETED_AT_ONCE):
        await store.command("HDEL", name, *gone[start : start + _DELETED_AT_ONCE], key=name)


def _too_old(state: State) -> list[bytes]:
    """Name the milestones that are not kept any more beside that of a session's newest event."""
    oldest = max(state.seq // EVERY - MOST, 0)
    return [_field(state.sid, number) for number in range(max(oldest - _REMOVED, 0) + 1, oldest + 1)]


def _field(sid: str, number: int) -> bytes:
    return b"%b:%d" % (sid.encode(), number)


def _is_readable(raw: bytes) -> bool:
    """Tell whether it may be one of this format: what is of another one is nobody's fault."""
    try:
        return _decode(raw).format == FORMAT
    except (msgspec.DecodeError, ValueError):
        return True


def _read(sid: str, raw: bytes) -> State | None:
    """Read a milestone; None for what is of another format, or cannot be read."""
    try:
        kept = _decode(raw)
        fields: Mapping[bytes, bytes] = kept.session
        return read_state(sid, fields, kept.checkpoints) if kept.format == FORMAT else None
    except (msgspec.DecodeError, CorruptLedger, ValueError):
        return None
