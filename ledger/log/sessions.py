"""Reading what is stored of sessions as it lies there, for those who check it."""

from __future__ import annotations

from typing import Final, NamedTuple

from ledger import keys
from ledger.fields import Fields
from ledger.log.append import pairs
from ledger.log.store import Script, Store
from ledger.state import State

_RAW: Final = Script.load("ledger.log", "raw_session.lua", allow_oom=True)


class RawSession(NamedTuple):
    """All that is stored of one session at one instant; `device` is None where its user has no such device."""

    session: Fields
    checkpoints: Fields
    ended: bytes | None
    active: bool
    device: bytes | None


async def read_raw_session(store: Store, partition: int, sid: str, state: State | None) -> RawSession:
    """Read all that is stored of a session at one instant; the devices of its user only if `state` names the user."""
    user = state.user if state else ""
    names = (
        keys.session(partition, sid),
        keys.checkpoints(partition, sid),
        keys.ended(partition),
        keys.activity(partition),
        keys.devices(partition, user),
    )
    session, checkpoints, ended, score, device = await store.script(_RAW, names, (sid,))
    return RawSession(pairs(session), pairs(checkpoints), ended, score is not None, device)


async def living_sids(store: Store, partition: int) -> set[str]:
    """List the sessions in a partition's activity index."""
    name = keys.activity(partition)
    found: set[str] = set()
    cursor = b"0"
    while True:
        cursor, rows = await store.command("ZSCAN", name, cursor, "COUNT", 1000, key=name)
        found.update(sid.decode() for sid in rows[::2])
        if cursor == b"0":
            return found
