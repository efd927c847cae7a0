"""Reading what is stored of sessions as it lies there, for those who check it."""

from __future__ import annotations

from typing import Final, NamedTuple

from ledger import keys
from ledger.fields import Fields
from ledger.log.append import pairs, provider_member
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
    provider: bool
    credential: bool


async def read_raw_session(store: Store, partition: int, sid: str, state: State | None) -> RawSession:
    """Read all that is stored of a session at one instant; what is filed by user or provider only with its `state`."""
    user = state.user if state else ""
    member = provider_member(state) if state else b""
    names = (
        keys.session(partition, sid),
        keys.checkpoints(partition, sid),
        keys.ended(partition),
        keys.activity(partition),
        keys.devices(partition, user),
        keys.provider_sessions(partition),
        keys.credentials(partition),
    )
    session, checkpoints, ended, score, device, provider, held = await store.script(_RAW, names, (sid, member))
    return RawSession(
        pairs(session), pairs(checkpoints), ended, score is not None, device, provider is not None, bool(held)
    )


async def indexed_sids(store: Store, partition: int) -> set[str]:
    """List the sessions in a partition's indexes: living, ended, known to a provider, with a credential."""
    found: set[str] = set()
    for scan, name in (
        ("ZSCAN", keys.activity(partition)),
        ("HSCAN", keys.ended(partition)),
        ("ZSCAN", keys.provider_sessions(partition)),
        ("HSCAN", keys.credentials(partition)),
    ):
        cursor = b""
        while cursor != b"0":
            cursor, rows = await store.command(scan, name, cursor or b"0", "COUNT", 1000, key=name)
            found.update(_sid(row.rpartition(b":")[2]) for row in rows[::2])
    return found


async def device_sids(store: Store, partition: int, user: str) -> set[str]:
    """List the sessions in the index of a user's devices."""
    name = keys.devices(partition, user)
    return set(map(_sid, await store.command("HKEYS", name, key=name)))


def _sid(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
