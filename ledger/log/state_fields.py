"""How a state lies in its two hashes, both directions.

The session hash holds one field per fact, readable in a console; the checkpoint hash one field per entity type,
`<position in µs>|<entity id>|<acknowledged at, in µs>`. A fact that has its default has no field. Beside these fields
the append script keeps `head`, the stream id of the last event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from ledger.entity_types import ENTITY_TYPES
from ledger.errors import CorruptLedger
from ledger.events import StoredAck
from ledger.positions import Position
from ledger.state import Adopted, Checkpoint, NewToken, Offer, OldToken, State

Fields = dict[bytes, bytes]

_TYPES: Final = {name.encode(): name for name in ENTITY_TYPES}
_acks: Final = msgspec.msgpack.Decoder(tuple[StoredAck, ...])
_new_tokens: Final = msgspec.msgpack.Decoder(tuple[NewToken, ...])
_old_tokens: Final = msgspec.msgpack.Decoder(tuple[OldToken, ...])


class Changes(NamedTuple):
    """Field changes that lead from one state to the next, for both hashes."""

    set: Fields
    remove: list[bytes]
    set_checkpoints: Fields
    remove_checkpoints: list[bytes]


def session_fields(state: State) -> Fields:
    """Lay a state out as the fields of its session hash."""
    fields = {
        b"user": state.user.encode(),
        b"library": state.library.encode(),
        b"created_at_us": b"%d" % state.created_at_us,
        b"authenticated_by": state.authenticated_by.encode(),
        b"seq": _number(state.seq),
        b"at_us": _number(state.at_us),
        b"hash": state.hash,
    }
    if state.parent is not None:
        fields[b"parent"] = state.parent.encode()
    if state.expires_at_us is not None:
        fields[b"expires_at_us"] = b"%d" % state.expires_at_us
    if state.provider_session:
        fields[b"provider_session"] = state.provider_session
    for (field, to_bytes), fact in zip(_LATER_FIELDS, _later(state), strict=True):
        if value := to_bytes(fact):
            fields[field] = value
    return fields


def checkpoint_fields(state: State) -> Fields:
    """Lay a state out as the fields of its checkpoint hash."""
    return {name.encode(): checkpoint_field(checkpoint) for name, checkpoint in state.checkpoints.items()}


def changes(before: State | None, after: State) -> Changes:
    """Tell the field changes from `before` (None: nothing stored yet) to `after` of the same session.

    Without `seq`, `at_us` and `hash`: the append script takes those from the last event itself.
    """
    if before is None:
        return Changes(session_fields(after), [], checkpoint_fields(after), [])
    to_set: Fields = {}
    remove: list[bytes] = []
    facts_before, facts_after = _later(before), _later(after)
    if facts_before != facts_after:
        for (field, to_bytes), old, new in zip(_LATER_FIELDS, facts_before, facts_after, strict=True):
            if old != new:
                if value := to_bytes(new):
                    to_set[field] = value
                else:
                    remove.append(field)
    set_checkpoints: Fields = {}
    remove_checkpoints: list[bytes] = []
    if after.checkpoints is not before.checkpoints:
        for entity_type, checkpoint in after.checkpoints.items():
            if before.checkpoints.get(entity_type) is not checkpoint:
                set_checkpoints[entity_type.encode()] = checkpoint_field(checkpoint)
        if not before.checkpoints.keys() <= after.checkpoints.keys():
            remove_checkpoints = [name.encode() for name in before.checkpoints if name not in after.checkpoints]
    return Changes(to_set, remove, set_checkpoints, remove_checkpoints)


def read_state(sid: str, session: Mapping[bytes, bytes], checkpoints: Mapping[bytes, bytes]) -> State:
    """Read a state back from its two hashes; raises CorruptLedger if they hold no whole state."""
    try:
        parent, expires = session.get(b"parent"), session.get(b"expires_at_us")
        token_expires = session.get(b"token_expires_at_us")
        return State(
            sid=sid,
            user=session[b"user"].decode(),
            library=session[b"library"].decode(),
            seq=int(session[b"seq"]),
            at_us=int(session[b"at_us"]),
            hash=session[b"hash"],
            created_at_us=int(session[b"created_at_us"]),
            parent=None if parent is None else parent.decode(),
            device_type=session.get(b"device_type", b""),
            device_os=session.get(b"device_os", b""),
            app_version=session.get(b"app_version", b""),
            expires_at_us=None if expires is None else int(expires),
            authenticated_by=session[b"authenticated_by"].decode(),
            pending_reset=b"pending_reset" in session,
            checkpoints={_TYPES[name]: _read_checkpoint(value) for name, value in checkpoints.items()},
            epoch=int(session.get(b"epoch", 1)),
            epochs=_read_epochs(session.get(b"epochs", b"")),
            offered=_read_offers(session.get(b"offered", b"")),
            started=_read_offers(session.get(b"started", b"")),
            heard=_read_offers(session.get(b"heard", b"")),
            reset_sent=session.get(b"reset_sent", b"").decode(),
            noted=_acks.decode(noted) if (noted := session.get(b"noted")) else (),
            stale=int(session.get(b"stale", b"0"), 16),
            refused=int(session.get(b"refused", b"0"), 16),
            provider_session=session.get(b"provider_session", b""),
            token=session.get(b"token", b""),
            token_number=int(session.get(b"token_number", 0)),
            token_expires_at_us=None if token_expires is None else int(token_expires),
            new_tokens=_new_tokens.decode(new) if (new := session.get(b"new_tokens")) else (),
            old_tokens=_old_tokens.decode(old) if (old := session.get(b"old_tokens")) else (),
            revision=int(session.get(b"revision", 0)),
            origin=int(session.get(b"origin", 0)),
            written=int(session.get(b"written", 0)),
            adopted=_read_adopted(session.get(b"adopted", b"")),
        )
    except (KeyError, ValueError, msgspec.DecodeError) as error:
        raise CorruptLedger(f"a session hash cannot be read: {error!r}; run syncledger verify", sid=sid) from error


def _number(value: int) -> bytes:
    return b"%d" % value


def _flag(value: bool) -> bytes:
    return b"1" if value else b""


def _print_epochs(epochs: Mapping[str, int]) -> bytes:
    return b",".join(b"%b=%d" % (name.encode(), epochs[name]) for name in sorted(epochs))


def _print_offers(offers: tuple[Offer, ...]) -> bytes:
    return b",".join(b"%d:%x" % offer for offer in offers)


def _print_tuples(tuples: tuple[tuple[Any, ...], ...]) -> bytes:
    return msgspec.msgpack.encode(tuples) if tuples else b""


def _print_old_tokens(tokens: tuple[OldToken, ...]) -> bytes:
    """Print replaced tokens: those that were used, almost all, as earlier versions did, which knew no others."""
    return _print_tuples(tuple(token[:2] if token.was_used else token for token in tokens))


def _print_optional(value: int | None) -> bytes:
    return b"" if value is None else _number(value)


# Facts of a session that events may change. What prints as nothing has its default and no field.
_LATER: Final[dict[str, Callable[[Any], bytes]]] = {
    "device_type": bytes,
    "device_os": bytes,
    "app_version": bytes,
    "pending_reset": _flag,
    "epoch": lambda value: b"" if value == 1 else _number(value),
    "epochs": _print_epochs,
    "offered": _print_offers,
    "started": _print_offers,
    "heard": _print_offers,
    "reset_sent": str.encode,
    "noted": _print_tuples,
    "stale": lambda value: b"%x" % value if value else b"",
    "refused": lambda value: b"%x" % value if value else b"",
    "token": bytes,
    "token_number": lambda value: _number(value) if value else b"",
    "token_expires_at_us": _print_optional,
    "new_tokens": _print_tuples,
    "old_tokens": _print_old_tokens,
    "revision": lambda value: _number(value) if value else b"",
    "origin": lambda value: _number(value) if value else b"",
    "written": lambda value: _number(value) if value else b"",
    "adopted": lambda value: b"" if value is None else b"%d:%x:%d" % value,
}


# PERF: one call reads all of them; comparing states is on the way of every write.
_later: Final = attrgetter(*_LATER)
_LATER_FIELDS: Final = tuple((name.encode(), to_bytes) for name, to_bytes in _LATER.items())


def checkpoint_field(checkpoint: Checkpoint) -> bytes:
    """Print a checkpoint as the value of its field."""
    position = checkpoint.position
    return f"{position.at_us}|{position.id}|{checkpoint.acked_at_us}".encode()


def _read_checkpoint(value: bytes) -> Checkpoint:
    at_us, entity_id, acked_at_us = value.split(b"|")
    return Checkpoint(Position(int(at_us), entity_id.decode()), int(acked_at_us))


@lru_cache(4096)
def _read_offers(value: bytes) -> tuple[Offer, ...]:
    pairs = (item.split(b":") for item in value.split(b",") if item)
    return tuple(Offer(int(snapshot_us), int(mask, 16)) for snapshot_us, mask in pairs)


def _read_adopted(value: bytes) -> Adopted | None:
    if not value:
        return None
    as_of_us, mask, restarted = value.split(b":")
    return Adopted(int(as_of_us), int(mask, 16), restarted == b"1")


def _read_epochs(value: bytes) -> dict[str, int]:
    pairs = (item.split(b"=") for item in value.split(b",") if item)
    return {name.decode(): int(count) for name, count in pairs}
