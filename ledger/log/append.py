"""Appending to the log: one atomic script that checks versions, appends and applies the fold's changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from ledger import keys
from ledger.chain import GENESIS, record
from ledger.entity_types import COMPLETE
from ledger.errors import CorruptLedger, ParentOver, Rebuilding, StoreReplyError, TooManySessions
from ledger.events import Event, Recorded
from ledger.evolve import fold
from ledger.log.order import counts_ms
from ledger.log.state_fields import Changes, Fields, changes, read_state
from ledger.state import State
from ledger.store.interface import Arg, Script, Store, key_types

_APPEND: Final = Script.load("ledger.log", "ancestors.lua", "append.lua")
_END: Final = Script.load("ledger.log", "ancestors.lua", "append.lua", allow_oom=True)  # ending a session frees memory
_LOAD: Final = Script.load("ledger.log", "ancestors.lua", "load.lua", allow_oom=True)
SEEN_FOR_US: Final = 3_600_000_000
"""How long a note of "seen" is good for: at most one write an hour and session."""

MARK_EVERY: Final = 32
"""Every how many events of a session one is a mark, which a walk gets to at once; ledgers hold marks of this number."""

_NO_CHANGES: Final = Changes({}, [], {}, [])
_AS_KNOWN: Final = 1  # what load.lua answers
_ENDED: Final = 1  # what load.lua knows of a session that does not live
_UNKNOWN: Final = 2
_NOT_WHOLE: Final = 2  # what append.lua answers
_PARENT_ENDED: Final = 3  # this and the next: also what load.lua knows
_PARENT_EXPIRED: Final = 4
_TOO_MANY: Final = 5
_AS_IT_WAS: Final = b"="
_ONLY_ITS_PLACE: Final = b"= "
_kept: Final = msgspec.msgpack.Decoder(tuple[int, bytes, str])
_STREAM_ID: Final = re.compile(rb"\d{1,20}-\d{1,20}")
_DIGEST_BYTES: Final = 32


class Section(NamedTuple):
    """What one append does to one session: from `before` (None: new) by `events` to `after`."""

    before: State | None
    events: Sequence[Recorded]
    after: State

    @property
    def resumed(self) -> bool:
        """Tell whether it had ended before, and lives again."""
        return self.before is not None and self.before.ended is not None


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


def place(state: State | None, sid: str, events: tuple[Event, ...], now_us: int) -> Section:
    """Give events their places behind `state` and fold them; time never runs back within a session."""
    seq, previous, at_us = (0, GENESIS, now_us) if state is None else (state.seq, state.hash, max(now_us, state.at_us))
    recorded = record(events, sid, seq, at_us, previous)
    after = fold(state, recorded)
    assert after is not None
    return Section(state, recorded, after)


async def load(
    store: Store,
    partition: int,
    sid: str,
    now_us: int,
    *,
    seen: bool,
    begins: bool = False,
    ancestors: Sequence[str] = (),
    known: State | None = None,
) -> State | None:
    """Load a session with its checkpoints at one instant; None if it does not live.

    `known` is what is remembered of it: the same is returned where that is its version in the store, and nothing read.

    `seen`: the session itself asks, and its activity is noted, at most hourly. Raises Rebuilding if it may be one that
    is not rebuilt yet, unless it `begins` only now, and CorruptLedger if what is stored of it cannot be read, and
    ParentOver if one of `ancestors`, which it belongs to, has ended or expired.
    """
    note_before_ms = (now_us - SEEN_FOR_US) // 1000 if seen else -1
    try:
        names = (*_load_keys(partition, sid), *(keys.session(partition, above) for above in ancestors))
        reply = await store.script(_LOAD, names, (sid, now_us // 1000, note_before_ms, *_version(known), *ancestors))
    except StoreReplyError as error:
        if not await _is_mistyped(store, partition, sid):  # it is an index, which concerns more than this session
            raise
        raise CorruptLedger("a key of a session is of another type; run syncledger verify", sid=sid) from error
    if reply == _AS_KNOWN:
        return known
    if not reply[0] and reply[2] == _UNKNOWN and not begins:
        raise Rebuilding
    if not reply[0] and reply[2] in (_PARENT_ENDED, _PARENT_EXPIRED):
        raise ParentOver(ended=reply[2] == _PARENT_ENDED)
    return _state(sid, reply[0], reply[1])


async def is_known(store: Store, partition: int, sid: str) -> bool:
    """Tell whether a session lives or has ended in a partition; raises Rebuilding if that is not known.

    One that cannot be read lives: what is stored of it is not nothing.
    """
    try:
        session, _, *known = await store.script(_LOAD, _load_keys(partition, sid), (sid, 0, -1, *_version(None)))
    except StoreReplyError:
        if not await _is_mistyped(store, partition, sid):
            raise
        return True
    if known == [_UNKNOWN]:
        raise Rebuilding
    return bool(session) or known == [_ENDED]


async def append(
    store: Store,
    partition: int,
    sections: Sequence[Section],
    now_us: int,
    living_parent: str = "",
    seen_by_us: int | None = None,
    *,
    ancestors: Sequence[str] = (),
    most_sessions: int = 0,
    leaves: bool = False,
) -> Conflict | None:
    """Append the events of all sections, of sessions of one user, or of none.

    Returns None when all was written, a Conflict when nothing was because another writer was first. `living_parent` is
    a session that must live for this, `seen_by_us` when the sections' sessions may last have been seen. `ancestors` are
    those that the first section's session belongs to, nearest first: ParentOver is raised where one has ended or
    expired. `most_sessions`: TooManySessions is raised where one begins beyond so many living ones of the user (0: any
    number). `leaves`: what belongs to the sessions that end is still to end, which is noted with it. Raises
    StoreUnavailable with `maybe_done` when the outcome is unknown, StoreFull at the memory limit (never when a session
    ends), Rebuilding if it takes sessions that may not be rebuilt yet.
    """
    script, names, args = call_of(
        partition,
        sections,
        now_us,
        living_parent,
        seen_by_us,
        ancestors=ancestors,
        most_sessions=most_sessions,
        leaves=leaves,
    )
    reply = await store.script(script, names, args)
    if reply[0] == 1:
        return None
    if reply[0] == _NOT_WHOLE:
        raise Rebuilding
    if reply[0] in (_PARENT_ENDED, _PARENT_EXPIRED):
        raise ParentOver(ended=reply[0] == _PARENT_ENDED)
    if reply[0] == _TOO_MANY:
        raise TooManySessions(most_sessions)
    try:
        return Conflict(_state(sections[0].after.sid, reply[1], reply[2]))
    except CorruptLedger:  # nothing was written; who loads it to decide again learns what is wrong
        return Conflict(None, lost=True)


def call_of(
    partition: int,
    sections: Sequence[Section],
    now_us: int,
    living_parent: str = "",
    seen_by_us: int | None = None,
    *,
    ancestors: Sequence[str] = (),
    most_sessions: int = 0,
    leaves: bool = False,
) -> tuple[Script, list[bytes], list[Arg]]:
    """Make the call of the script that `append` does it with: the script, its keys and its arguments. Pure."""
    names = [*_shared_keys(partition, sections[0].after.user)]
    args: list[Arg] = [now_us // 1000, living_parent, "" if seen_by_us is None else seen_by_us // 1000]
    user = sections[0].after.user
    args += (len(sections), MARK_EVERY, most_sessions, user if leaves else "", len(ancestors), *ancestors)
    script, indexed, placed = _APPEND, bool(ancestors), False
    for section in sections:
        names += _chain_keys(partition, section.after.sid)
        times = _pack(section, args)
        if section.after.ended is not None:
            script, indexed = _END, True
        elif times is not _AS_IT_WAS:
            placed = True
            indexed = indexed or section.before is None or section.resumed or not times.startswith(_ONLY_ITS_PLACE)
    if indexed:
        names += _index_keys(partition)
        names += [keys.session(partition, above) for above in ancestors]
    elif placed:
        names.append(keys.order(partition))
    return script, names, args


async def _is_mistyped(store: Store, partition: int, sid: str) -> bool:
    """Tell whether one of a session's own hashes is none."""
    return not {"none", "hash"}.issuperset(await key_types(store, _session_keys(partition, sid)))


@lru_cache(8192)
def _shared_keys(partition: int, user: str) -> tuple[bytes, ...]:
    return keys.stream(partition), keys.activity(partition), keys.devices(partition, user), keys.ended(partition)


def _version(known: State | None) -> tuple[Arg, Arg, Arg]:
    """Say at which version a session is known, as load.lua reads it."""
    return (b"", b"", b"") if known is None else (known.seq, known.hash, len(known.checkpoints))


def _load_keys(partition: int, sid: str) -> tuple[bytes, ...]:
    return *_session_keys(partition, sid), *_around_keys(partition)


@lru_cache(1024)
def _around_keys(partition: int) -> tuple[bytes, ...]:
    return (
        keys.activity(partition),
        keys.whole(partition),
        keys.ended(partition),
        keys.broken(partition),
        keys.order(partition),
    )


@lru_cache(1024)
def _index_keys(partition: int) -> tuple[bytes, ...]:
    return (
        keys.order(partition),
        keys.sids(partition),
        keys.provider_sessions(partition),
        keys.credentials(partition),
        keys.whole(partition),
        keys.due(partition),
        keys.ending(partition),
    )


@lru_cache(8192)
def _session_keys(partition: int, sid: str) -> tuple[bytes, ...]:
    return keys.session(partition, sid), keys.checkpoints(partition, sid)


@lru_cache(8192)
def _chain_keys(partition: int, sid: str) -> tuple[bytes, ...]:
    return *_session_keys(partition, sid), keys.marks(partition, sid)


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


def keep(ended: Ended) -> bytes:
    """Lay out a value of the `ended` hash as append.lua does."""
    return b"%b %b" % (ended.head.encode(), _keep(ended.seq, ended.hash, ended.user))


def _keep(seq: int, digest: bytes, user: str) -> bytes:
    return msgspec.msgpack.encode((seq, digest, user))


def provider_member(state: State) -> bytes:
    """Lay out a session's member of the provider sessions; nothing if no provider knows it."""
    if not state.provider_session:
        return b""
    return f"{state.provider_session.hex()}:{state.sid}".encode()


def _pack(section: Section, args: list[Arg]) -> bytes:
    """Add a section's arguments as append.lua reads them; gives its times."""
    before, events, after = section
    becomes, kept, stored = b"live", b"", before
    if after.ended is not None:
        becomes, kept = b"ended", _keep(after.seq, after.hash, after.user)
    elif before is not None and before.ended is not None:
        becomes, kept, stored = b"resumed", _keep(before.seq, before.hash, before.user), None
    changed = _NO_CHANGES if becomes == b"ended" else changes(stored, after)
    to_set, remove, to_set_checkpoints, remove_checkpoints = changed
    args += (after.sid, bytes.fromhex(after.sid), b"0" if before is None else before.seq)
    args += (becomes, after.parent or b"", kept, provider_member(after), times := _times(section))
    args += (len(events) * 5, len(to_set) * 2, len(remove), len(to_set_checkpoints) * 2, len(remove_checkpoints))
    args.append(b"" if before is None else before.hash)
    for event in events:
        args += (event.seq, event.at_us, event.schema, event.raw, event.hash)
    for pair in to_set.items():
        args += pair
    args += remove
    for pair in to_set_checkpoints.items():
        args += pair
    args += remove_checkpoints
    return times


def _times(section: Section) -> bytes:
    """Tell what of a session's times changes, as append.lua reads it: when it is over, and what its place goes by."""
    before, after = section.before, section.after
    if before is None or before.ended is not None:
        return b"%b %d" % (due_ms(after), counts_ms(after))
    # PERF: this is the way of every ack.
    completed = after.checkpoints.get(COMPLETE)
    same_place = before.checkpoints.get(COMPLETE) is completed
    same_end = before.new_tokens is after.new_tokens and before.token_expires_at_us == after.token_expires_at_us
    if same_place and same_end:
        return _AS_IT_WAS
    over = _AS_IT_WAS if same_end else due_ms(after)
    if same_place:
        return over + b" "
    return b"%b %b%d" % (over, b"~" if completed is None else b"", counts_ms(after))


def due_ms(state: State) -> bytes:
    """Tell when a session is over by itself, in ms, as the index of that has it; nothing if never."""
    over_at_us = state.over_at_us
    return b"" if over_at_us is None else b"%d" % -(-over_at_us // 1000)


def _state(sid: str, session: list[Any], checkpoints: list[Any]) -> State | None:
    """Read what is stored of a session; raises CorruptLedger where nothing may be appended to that."""
    if not session:
        return None
    fields = pairs(session)
    state = read_state(sid, fields, pairs(checkpoints))
    head = fields.get(b"head", b"")
    # An event that is put behind a wrong one would break the chain for good, where now only a hash is damaged.
    if len(state.hash) != _DIGEST_BYTES or not _STREAM_ID.fullmatch(head):
        raise CorruptLedger("a session hash has no head or hash of its last event; run syncledger verify", sid=sid)
    return state


def pairs(flat: list[Any]) -> Fields:
    """Turn a flat field-value list, as HGETALL answers, into a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
