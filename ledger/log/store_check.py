"""What the store must be and hold before a ledger is used on it."""

from __future__ import annotations

from typing import Final, NamedTuple
from uuid import uuid4

from ledger import keys
from ledger.errors import LayoutError, NoLedger, StoreReplyError
from ledger.log.formats import FORMAT, OLDEST
from ledger.log.order import INDEXED
from ledger.log.whole import mark_new
from ledger.store.error_replies import NotPermitted
from ledger.store.interface import Store

MAX_PARTITIONS: Final = 16_384
_MARKED: Final = "whole_marked_at_us"


class StorePromise(NamedTuple):
    """What the store says of itself: `fsync` is always, everysec, no, off (no append-only file) or unknown."""

    server: str
    fsync: str
    eviction: str = ""
    """The policy by which it may evict keys; '' if it evicts none."""

    @property
    def text(self) -> str:
        """Say in words what an answered write survives."""
        return {
            "always": "an answered write is on disk",
            "everysec": "up to a second of answered writes may be lost with the machine",
            "no": "answered writes are lost with the machine until the system writes them back",
            "off": "there is no append-only file: answered writes may be lost when the server ends",
        }.get(self.fsync, "the server does not tell when it writes to disk")


async def open_layout(store: Store, partitions: int, now_us: int, *, begin: bool = True) -> int:
    """Open the ledger, or `begin` one in a store that holds nothing of any, and return its partition count.

    `partitions` is fixed when a ledger is begun, and its id given. Raises NoLedger where there is none to open, and
    LayoutError if the ledger has another count or format, or if the server may evict keys.
    """
    await _refuse_eviction(store)
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise LayoutError(f"LEDGER_PARTITIONS must be 1 to {MAX_PARTITIONS}, not {partitions}")
    name = keys.meta()
    found_format, found, marked, restoring, known = await store.command(
        "HMGET", name, "format", "partitions", _MARKED, "restoring", "id", key=name
    )
    if restoring is not None:
        raise LayoutError("This ledger is being restored: wait for syncledger restore, or run it again if it broke off")
    if found is None and not begin:
        raise NoLedger("There is no ledger in this store")
    if found is None or known is None:  # ledgers of earlier versions have none
        await store.command("HSETNX", name, "id", uuid4().hex, key=name)
    if found is None:
        # The count goes last and only once, so a ledger has a count or is not there; the others just repeat themselves.
        await store.command("HSETNX", name, "created_at_us", now_us, key=name)
        await store.command("HSETNX", name, "format", FORMAT, key=name)
        await store.command("HSETNX", name, INDEXED, now_us, key=name)
        await store.command("HSETNX", name, "partitions", partitions, key=name)
        found_format, found = await store.command("HMGET", name, "format", "partitions", key=name)
    check_format(int(found_format))
    if int(found) != partitions:
        raise LayoutError(
            f"This ledger was created with {int(found)} partitions, and the count cannot change: "
            f"set LEDGER_PARTITIONS={int(found)} (it is {partitions})"
        )
    if marked is None:
        # Once in the life of a ledger, because later a partition of which nothing is said has lost its projections.
        await mark_new(store, partitions)
        await store.command("HSETNX", name, _MARKED, now_us, key=name)
    return int(found)


async def read_id(store: Store) -> str:
    """Tell the id of the ledger that a store holds, which stays the same through backups; '' if it holds none."""
    name = keys.meta()
    found = await store.command("HGET", name, "id", key=name)
    return "" if found is None else str(found, "utf-8", "backslashreplace")


def check_format(found: int) -> None:
    """Refuse a ledger that this version cannot read or write; raises LayoutError."""
    if found > FORMAT:
        raise LayoutError(f"This ledger has format {found}, this version reads up to {FORMAT}: upgrade the service")
    if found < OLDEST:
        raise LayoutError(
            f"This ledger has format {found}, this version reads from {OLDEST} on: upgrade it with a version in between"
        )


async def read_promise(store: Store) -> StorePromise:
    """Ask what the store promises of answered writes; the weakest of all primaries."""
    weakest = ("unknown", "off", "no", "everysec", "always")
    server, promises, eviction = "", [], ""
    for info in map(_facts, await store.each_primary("INFO")):
        server = (
            f"valkey {info['valkey_version']}" if "valkey_version" in info else f"redis {info.get('redis_version')}"
        )
        eviction = eviction or _eviction(info)
        promises.append("off" if info.get("aof_enabled") == "0" else "unknown")
    try:
        for index, reply in enumerate(await store.each_primary("CONFIG", "GET", "appendfsync")):
            if promises[index] != "off" and len(reply) == 2:
                promises[index] = reply[1].decode()
    except (StoreReplyError, NotPermitted):
        pass  # a managed server without CONFIG: the policy stays unknown, and is stated as such
    return StorePromise(server, min(promises, key=weakest.index), eviction)


def eviction_text(policy: str) -> str:
    """Say what a policy by which keys may be evicted means, and what to do; '' for none."""
    if not policy:
        return ""
    return (
        f"The server may evict keys (maxmemory-policy {policy}), which would lose sessions and events: "
        "set maxmemory-policy noeviction"
    )


async def _refuse_eviction(store: Store) -> None:
    for info in map(_facts, await store.each_primary("INFO", "memory")):
        if policy := _eviction(info):
            raise LayoutError(eviction_text(policy))


def _eviction(info: dict[str, str]) -> str:
    policy = info.get("maxmemory_policy", "noeviction")
    return "" if policy == "noeviction" else policy


def _facts(info: bytes) -> dict[str, str]:
    """Read an INFO reply into its fields."""
    return dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
