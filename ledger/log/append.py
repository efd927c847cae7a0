"""Appending to the log: one atomic script that checks versions, appends and applies the fold's changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from ledger import keys
from ledger.errors import CorruptLedger
from ledger.events import Recorded
from ledger.fields import Changes, Fields, changes, read_state
from ledger.log.store import Arg, Script, Store
from ledger.state import State

_APPEND: Final = Script.load("ledger.log", "append.lua")
_END: Final = Script.load("ledger.log", "append.lua", allow_oom=True)  # ending a session frees memory
_LOAD: Final = Script.load("ledger.log", "load.lua", allow_oom=True)
SEEN_FOR_US: Final = 3_600_000_000
"""How long a note of "seen" is good for: at most one write an hour and session."""

_NO_CHANGES: Final = Changes({}, [], {}, [])
_kept: Final = msgspec.msgpack.Decoder(tuple[int, bytes, str])


class Section(NamedTuple):
    """What one append does to one session: from `before` (None: new) by `events` to `after`."""

    before: State | None
    events: Sequence[Recorded]
    after: State


class Conflict(NamedTuple):
    """Another writer was first: the current state of the first section's session, None if it does not live.

    `lost`: it was the connection that was lost, and nothing had been written when that was looked at.
    """

    state: State | None
    lost: bool = False


class Ended(NamedTuple):
    """What is kept of an ended session: the stream id of its last event, that event's seq and hash, and its user."""

    head: str
    seq: int
    hash: bytes
    user: str


async def load(store: Store, partition: int, sid: str, now_us: int, *, seen: bool) -> State | None:
    """Load a session with its checkpoints at one instant; None if it does not live.

    `seen`: the session itself asks, and its activity is noted, at most hourly.
    """
    names = (keys.session(partition, sid), keys.checkpoints(partition, sid), keys.activity(partition))
    note_before_ms = (now_us - SEEN_FOR_US) // 1000 if seen else -1
    session, checkpoints = await store.script(_LOAD, names, (sid, now_us // 1000, note_before_ms))
    return _state(sid, session, checkpoints)


async def append(
    store: Store,
    partition: int,
    sections: Sequence[Section],
    now_us: int,
    living_parent: str = "",
    seen_by_us: int | None = None,
) -> Conflict | None:
    """Append the events of all sections, of sessions of one user, or of none.

    Returns None when all was written, a Conflict when nothing was because another writer was first. `living_parent` is
    a session that must live for this, `seen_by_us` when the first section's session may last have been seen. Raises
    StoreUnavailable with `maybe_done` when the outcome is unknown, StoreFull at the memory limit (never when a session
    ends).
    """
    names = [*_shared_keys(partition, sections[0].after.user)]
    args: list[Arg] = [now_us // 1000, living_parent, "" if seen_by_us is None else seen_by_us // 1000, len(sections)]
    script, indexed = _APPEND, False
    for section in sections:
        names += _session_keys(partition, section.after.sid)
        _pack(section, args)
        if section.after.ended is not None:
            script, indexed = _END, True
        elif section.before is None:
            indexed = True
    if indexed:
        names += (keys.provider_sessions(partition), keys.credentials(partition))
    reply = await store.script(script, names, args)
    if reply[0] == 1:
        return None
    return Conflict(_state(sections[0].after.sid, reply[1], reply[2]))


@lru_cache(8192)
def _shared_keys(partition: int, user: str) -> tuple[bytes, ...]:
    return keys.stream(partition), keys.activity(partition), keys.devices(partition, user), keys.ended(partition)


@lru_cache(8192)
def _session_keys(partition: int, sid: str) -> tuple[bytes, ...]:
    return keys.session(partition, sid), keys.checkpoints(partition, sid)


async def read_ended(store: Store, partition: int, sid: str) -> Ended | None:
    """Read what is kept of an ended session; None if there is no such one."""
    kept = await store.command("HGET", keys.ended(partition), sid, key=keys.ended(partition))
    return None if kept is None else parse_ended(kept)


def parse_ended(kept: bytes) -> Ended:
    """Read a value of the `ended` hash; raises CorruptLedger."""
    head, _, rest = kept.partition(b" ")
    try:
        return Ended(head.decode(), *_kept.decode(rest))
    except (ValueError, msgspec.DecodeError) as error:
        raise CorruptLedger(f"what is kept of an ended session cannot be read: {error!r}") from error


def provider_member(state: State) -> bytes:
    """Lay out a session's member of the provider sessions; nothing if no provider knows it."""
    if not state.provider_session:
        return b""
    return f"{state.provider_session.hex()}:{state.sid}".encode()


def _pack(section: Section, args: list[Arg]) -> None:
    """Add a section's arguments as append.lua reads them."""
    before, events, after = section
    ended = after.ended is not None
    keep = msgspec.msgpack.encode((after.seq, after.hash, after.user)) if ended else b""
    to_set, remove, to_set_checkpoints, remove_checkpoints = _NO_CHANGES if ended else changes(before, after)
    args += (after.sid, bytes.fromhex(after.sid), b"0" if before is None else before.seq)
    args += (b"ended" if ended else b"live", after.parent or b"", keep, provider_member(after))
    args += (len(events) * 5, len(to_set) * 2, len(remove), len(to_set_checkpoints) * 2, len(remove_checkpoints))
    for event in events:
        args += (event.seq, event.at_us, event.schema, event.raw, event.hash)
    for pair in to_set.items():
        args += pair
    args += remove
    for pair in to_set_checkpoints.items():
        args += pair
    args += remove_checkpoints


def _state(sid: str, session: list[Any], checkpoints: list[Any]) -> State | None:
    return read_state(sid, pairs(session), pairs(checkpoints)) if session else None


def pairs(flat: list[Any]) -> Fields:
    """Turn a flat field-value list, as HGETALL answers, into a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
