"""Ledgers full of history, and what becomes of them when their projections are lost."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Any

from ledger import keys
from ledger.commands import Command, CreateSession, DescribeDevice, EndSession, RequestReset, RotateToken, UseToken
from ledger.errors import Refused
from ledger.log.order import SPAN_MS
from ledger.log.service import Ledger
from ledger.personal import plain
from ledger.store.interface import Store
from tests.support.ledger.given import SNAPSHOT, ack, acks, clear, offer
from tests.support.ledger.ledgers import Clock, sid_of

PROVIDER_SESSION = b"\x07" * 16


async def live(ledger: Ledger, clock: Clock, dice: Random, steps: int = 120) -> None:
    """Let users sign in, sync, change tokens and leave: with children, at a provider, refused and stale acks."""
    sessions: dict[str, tuple[str, int]] = {}
    snapshot_us = SNAPSHOT
    for step in range(steps):
        clock.now_us += dice.randrange(1, 3_000_000)
        snapshot_us += 10
        user = f"user-{dice.randrange(6)}"
        mine = sorted(sid for sid, (whose, _) in sessions.items() if whose == user)
        if not mine or dice.random() < 0.2:
            sid, parent = sid_of(f"{dice.random()} {step}"), dice.choice([None, *mine])
            provider = dice.choice([b"", PROVIDER_SESSION, bytes([step % 256]) * 16])
            created = CreateSession(
                user,
                "photos",
                parent,
                plain("iPhone"),
                plain("iOS"),
                plain("3.2.0"),
                authenticated_by="oidc",
                provider_session=provider,
            )
            await ledger.execute(user, sid, created)
            sessions[sid] = (user, 0)
            continue
        sid = dice.choice(mine)
        number = sessions[sid][1] + 1
        token = sid_of(f"{sid} {number}")
        in_use = sid_of(f"{sid} {number - 1}") if number > 1 else sid
        commands: list[Command] = [
            offer("AssetV1", "AlbumV2", snapshot_us=snapshot_us),
            acks(ack("AssetV1", snapshot_us - dice.randrange(1, 30), f"id-{step}")),
            acks(ack("AlbumV2", snapshot_us + 1_000_000)),
            clear(*dice.choice([(), ("AssetV1",)])),
            DescribeDevice(plain("iPhone"), plain("iOS"), plain(f"3.2.{step}")),
            RequestReset(dice.random() < 0.5, plain(user)),
            RotateToken(bytes.fromhex(in_use), bytes.fromhex(token), number, clock() + 10**12),
            EndSession("logout", plain(user)),
        ]
        command = dice.choice(commands)
        with suppress(Refused):
            await ledger.execute(user, sid, command)
        if isinstance(command, RotateToken):
            await ledger.execute(user, sid, UseToken(command.token, 1000))
            sessions[sid] = (user, number)
        if isinstance(command, EndSession):
            alive = {
                state.sid for whose in {user for user, _ in sessions.values()} for state in await ledger.devices(whose)
            }
            sessions = {sid: held for sid, held in sessions.items() if sid in alive}


async def delete_projections(store: Store, partitions: int) -> int:
    """Delete every projection; what says that a partition is whole first. Returns how many keys those were.

    What was archived and what was set aside are records, not projections.
    """
    names = [name for found in await store.each_primary("KEYS", "{p*") for name in found]
    names = [name for name in names if not name.endswith((b":stream", b":archive", b":aside"))]
    for name in sorted(names, key=lambda name: not name.endswith(b":whole")):
        await store.command("DEL", name, key=name)
    return len(names)


async def dump(store: Store) -> dict[bytes, Any]:
    """Read all keys of all partitions that hold anything: hashes as dicts, sorted sets with their scores, lists."""
    found: dict[bytes, Any] = {}
    for names in await store.each_primary("KEYS", "{p*"):
        for name in names:
            kind = name.partition(b"}:")[2].partition(b":")[0]
            match kind:
                case b"stream":
                    found[name] = await store.command("XRANGE", name, "-", "+", key=name)
                case b"whole":
                    found[name] = await store.command("GET", name, key=name)
                case b"marks" | b"sent":
                    found[name] = await store.command("LRANGE", name, 0, -1, key=name)
                case b"activity" | b"provider-sessions" | b"due" | b"order" | b"sids":
                    flat = await store.command("ZRANGE", name, 0, -1, "WITHSCORES", key=name)
                    found[name] = {member: float(score) for member, score in zip(flat[::2], flat[1::2], strict=True)}
                case _:
                    flat = await store.command("HGETALL", name, key=name)
                    found[name] = dict(zip(flat[::2], flat[1::2], strict=True))
    holding = {name.partition(b"}")[0] for name in found if not name.endswith((b"}:whole", b"}:sids"))}
    return {name: held for name, held in found.items() if name.partition(b"}")[0] in holding}


def with_order_as_seen(found: dict[bytes, Any]) -> dict[bytes, Any]:
    """Put each device in its class of the order as its activity tells it: what is rebuilt without that knows less."""
    for name, held in found.items():
        if name.endswith(b"}:order"):
            seen = found[name.removesuffix(b"order") + b"activity"]
            for sid, place in held.items():
                if place >= SPAN_MS:
                    held[sid] = place % SPAN_MS + (1 if seen[sid] > place % SPAN_MS else 2) * SPAN_MS
    return found


async def last_seen_by_events(store: Store, partitions: int) -> dict[bytes, float]:
    """Tell the time in ms of the last event of each living session, which is when it was last seen for a rebuild."""
    times: dict[bytes, float] = {}
    for partition in range(partitions):
        name = keys.activity(partition)
        for sid in await store.command("ZRANGE", name, 0, -1, key=name):
            session = keys.session(partition, sid.decode())
            times[sid] = int(await store.command("HGET", session, "at_us", key=session)) // 1000
    return times
