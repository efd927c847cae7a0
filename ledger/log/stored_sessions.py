"""Reading what is stored of sessions as it lies there, for those who check it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

from ledger import keys
from ledger.errors import StoreReplyError
from ledger.log.append import pairs
from ledger.log.order import FILLED
from ledger.log.state_fields import Fields
from ledger.store.interface import Script, Store, key_types, scan, scan_keys

_RAW: Final = Script.load("ledger.log", "raw_session.lua", allow_oom=True)
_TYPES: Final = (
    "hash",
    "hash",
    "hash",
    "zset",
    "hash",
    "zset",
    "hash",
    "list",
    "hash",
    "zset",
    "zset",
    "zset",
    "list",
)  # of the keys of raw_keys
_OURS: Final = re.compile(rb"\{p(\d+)\}:(session|checkpoints|devices|marks):(.*)", re.DOTALL)


class RawSession(NamedTuple):
    """All that is stored of one session at one instant.

    `score` is when it was last seen, in ms; `device` the session it belongs to ('' for none) among its user's devices.
    Each is None where it is not there. `floor`: the stream id up to which events are archived, '' without any.
    `place` is its score in the order of devices, `known` whether it is among the ids of all sessions, which `filled`
    tells to be all there; `sent` its records of streams, newest first.
    """

    session: Fields
    checkpoints: Fields
    ended: bytes | None
    score: bytes | None
    device: bytes | None
    provider: bool
    credential: bool
    marks: tuple[str, ...] = ()
    floor: str = ""
    place: float | None = None
    known: bool = False
    filled: bool = False
    sent: tuple[bytes, ...] = ()

    @property
    def is_nowhere(self) -> bool:
        """Tell whether nothing is stored of it."""
        return self._replace(floor="", filled=False, sent=()) == _NOWHERE


_NOWHERE: Final = RawSession({}, {}, None, None, None, False, False)


async def read_raw_session(store: Store, partition: int, sid: str, user: str | None, member: bytes = b"") -> RawSession:
    """Read all that is stored of a session at one instant; what is filed by `user` or provider (`member`) if given.

    Raises StoreReplyError naming the keys of another type.
    """
    names = raw_keys(partition, sid, user)
    try:
        reply = await store.script(_RAW, names, (sid, member, FILLED))
    except StoreReplyError as error:
        if wrong := await mistyped(store, partition, sid, user):
            raise StoreReplyError("; ".join(wrong)) from error
        raise
    session, checkpoints, ended, score, device, provider, held, marks, floor, _ = reply[:10]
    place, known, filled, sent = reply[10:]
    return RawSession(
        pairs(session),
        pairs(checkpoints),
        ended,
        score,
        device,
        provider is not None,
        bool(held),
        tuple(map(text_of, marks)),
        text_of(floor or b""),
        None if place is None else float(place),
        known is not None,
        filled is not None,
        tuple(sent),
    )


def raw_keys(partition: int, sid: str, user: str | None) -> tuple[bytes, ...]:
    """Name the keys that hold something of a session."""
    return (
        keys.session(partition, sid),
        keys.checkpoints(partition, sid),
        keys.ended(partition),
        keys.activity(partition),
        keys.devices(partition, user or ""),
        keys.provider_sessions(partition),
        keys.credentials(partition),
        keys.marks(partition, sid),
        keys.archive(partition),
        keys.due(partition),
        keys.order(partition),
        keys.sids(partition),
        keys.sent(partition, sid),
    )


async def indexed_sids(store: Store, partition: int) -> set[str]:
    """List the sessions in a partition's indexes: living, ended, with a credential."""
    found: set[str] = set()
    for name in (keys.activity(partition), keys.order(partition), keys.sids(partition)):
        async for rows in scan(store, "ZSCAN", name):
            found.update(text_of(sid) for sid, _ in rows)
    found.discard(FILLED.decode())
    for name in (keys.ended(partition), keys.credentials(partition)):
        async for rows in scan(store, "HSCAN", name):
            found.update(text_of(sid) for sid, _ in rows)
    return found


async def provider_members(store: Store, partition: int) -> AsyncIterator[list[tuple[bytes, str]]]:
    """Yield the members of a partition's provider sessions in pages, each with the session it names."""
    async for rows in scan(store, "ZSCAN", keys.provider_sessions(partition)):
        yield [(member, text_of(member.rpartition(b":")[2])) for member, _ in rows]


async def device_sids(store: Store, partition: int, user: str) -> set[str]:
    """List the sessions in the index of a user's devices."""
    name = keys.devices(partition, user)
    return set(map(text_of, await store.command("HKEYS", name, key=name)))


class Strays(NamedTuple):
    """What lies in a store without the index that leads to it: sessions, and users with devices, by partition."""

    sids: dict[int, set[str]]
    users: dict[int, set[str]]


async def find_strays(store: Store, partitions: int, on_progress: Callable[[int], None] = lambda _: None) -> Strays:
    """Look at every key of a store for hashes that no index leads to; those of a whole ledger are few.

    A session hash must be in the activity index, a session with marks there or among the ended ones, and of a user's
    devices one must be a session of this user.
    `on_progress` is told how many keys were looked at. While a cluster moves slots some keys may be missed.
    """
    strays, looked = Strays({}, {}), 0
    async for names in scan_keys(store, "{p*"):
        looked += len(names)
        found = [(int(match[1]), match[2], match[3]) for match in map(_OURS.fullmatch, names) if match]
        await asyncio.gather(
            *(_find_stray(store, strays, place, kind, rest) for place, kind, rest in found if place < partitions)
        )
        on_progress(looked)
    return strays


async def _find_stray(store: Store, strays: Strays, partition: int, kind: bytes, rest: bytes) -> None:
    if kind == b"devices":
        if not await _is_owner(store, partition, rest):
            strays.users.setdefault(partition, set()).add(text_of(rest))
    elif not await (_is_known if kind == b"marks" else _is_active)(store, partition, rest):
        strays.sids.setdefault(partition, set()).add(text_of(rest))


async def _is_active(store: Store, partition: int, sid: bytes) -> bool:
    name = keys.activity(partition)
    try:
        return await store.command("ZSCORE", name, sid, key=name) is not None
    except StoreReplyError:  # a key of another type
        return False


async def _is_known(store: Store, partition: int, sid: bytes) -> bool:
    name = keys.ended(partition)
    try:
        if await store.command("HEXISTS", name, sid, key=name):
            return True
    except StoreReplyError:  # a key of another type
        pass
    return await _is_active(store, partition, sid)


async def _is_owner(store: Store, partition: int, user: bytes) -> bool:
    """Tell whether one of a user's devices lives as this user's, so that the user is found by it."""
    name = keys.devices(partition, text_of(user))
    try:
        for sid in (await store.command("HKEYS", name, key=name))[:1]:
            session = keys.session(partition, text_of(sid))
            return bool(await store.command("HGET", session, "user", key=session) == user)
    except StoreReplyError:  # a key of another type
        pass
    return False


async def mistyped(store: Store, partition: int, sid: str = "", user: str | None = None) -> list[str]:
    """Name the keys of another type among a partition's indexes and those that hold something of a session."""
    names = raw_keys(partition, sid, user)
    return [
        f"{text_of(name)} is a {kind}, where a {wanted} belongs: delete it and run syncledger rebuild --all"
        for name, kind, wanted in zip(names, await key_types(store, names), _TYPES, strict=True)
        if kind not in ("none", wanted)
    ]


def text_of(raw: bytes) -> str:
    """Read what should be a session id or a user; what cannot be read is made visible."""
    return raw.decode(errors="backslashreplace")
