"""What everybody calls to reach Redis: commands and scripts, on one server or a cluster.

Commands issued in one turn of the event loop leave in one write and share a round trip. A store belongs to the event
loop it was opened in. Blocking commands, MULTI and SUBSCRIBE must not be sent: all tasks share the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol, runtime_checkable

from ledger.errors import StoreUnavailable
from ledger.figures.of_store import StoreFigures
from ledger.store.addresses import read_url
from ledger.store.cluster import ClusterStore, KnownNodes
from ledger.store.scripts import Arg, Script
from ledger.store.shared_connection import Mux
from ledger.store.standalone import StandaloneStore

__all__ = [
    "Arg",
    "Kinds",
    "Scan",
    "Script",
    "Store",
    "TakesPacked",
    "check_writes",
    "key_types",
    "open_store",
    "scan",
    "scan_keys",
]

Scan = Literal["HSCAN", "ZSCAN"]
_MAY_WRITE: Final = "#!lua\nreturn 1"
_SCANNED: Final = 500
"""How many keys or members a step of going through them looks at, about."""


class Store(Protocol):
    """Redis as the ledger uses it.

    Replies are raw RESP2 values: bytes, int, None or lists of them. Raises StoreReplyError when the server refuses a
    command, StoreFull at its memory limit, StoreUnavailable when it does not answer; only with `maybe_done` may the
    command have been carried out, and no such command is ever sent twice. A caller that is cancelled knows nothing
    of its command's outcome.
    """

    async def command(self, *args: Arg, key: bytes) -> Any:
        """Run one command on the server that owns `key`'s slot; `key` only routes and is not sent."""

    async def script(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg]) -> Any:
        """Run a script, loading it where the server does not have it; all `keys`, at least one, share a slot."""

    async def each_primary(self, *args: Arg) -> list[Any]:
        """Run one command on every primary; one server is its own only primary."""

    async def close(self) -> None:
        """Close all connections; commands without a reply fail with StoreUnavailable."""


class Kinds(NamedTuple):
    """Of which classes stores are made: some watch what they are asked."""

    standalone: type[StandaloneStore] = StandaloneStore
    cluster: type[ClusterStore] = ClusterStore


@runtime_checkable
class TakesPacked(Protocol):
    """A store that is given calls as they go to the server, as a part of `Store` that not every one has."""

    def packed(self, script: Script, key: bytes, call: bytes) -> Awaitable[Any]:
        """Run a script by a call that was packed beforehand, all of whose keys share the slot of `key`.

        Raises what `script` raises, and NoScript where the server may not have it: nothing was done then, and it is to
        be loaded.
        """

    async def load(self, script: Script, key: bytes) -> None:
        """Have the server that owns `key`'s slot know a script."""


async def open_store(
    url: str,
    *,
    timeout_s: float = 5.0,
    known: KnownNodes | None = None,
    figures: StoreFigures | None = None,
    kinds: Kinds = Kinds(),  # noqa: B008 - nothing changes it
) -> Store:
    """Connect to the store of a URL (`addresses.py`); a server in cluster mode is recognised.

    `timeout_s` bounds a connection attempt and the wait for a reply (up to a quarter second more). Lost connections are
    made again in the background. `known`: where the nodes of a cluster are noted. `figures`: where its links are
    counted. `kinds`: of which class it is. Raises LayoutError for an unusable URL, StoreUnavailable when nobody
    answers.
    """
    target = read_url(url)
    if target.wants_cluster:
        return await kinds.cluster.open(target, timeout_s, known, figures)
    store = kinds.standalone(Mux(target, timeout_s, figures))
    try:
        (info,) = await store.each_primary("INFO", "cluster")
    except BaseException:
        await store.close()
        raise
    if b"cluster_enabled:1" not in info:
        return store
    await store.close()
    return await kinds.cluster.open(target, timeout_s, known, figures)


async def check_writes(store: Store) -> None:
    """See that every primary takes writes; raises StoreUnavailable, StoreFull.

    A script that may write but does not is refused just where one that writes is: on a replica, where the disk failed,
    where replicas are missing, at the memory limit.
    """
    await store.each_primary("EVAL", _MAY_WRITE, 0)
    if isinstance(store, ClusterStore):
        for info in await store.each_primary("CLUSTER", "INFO"):
            if b"cluster_state:ok" not in info:
                raise StoreUnavailable("a node of the store says that its cluster is down", maybe_done=False)


async def key_types(store: Store, names: Sequence[bytes]) -> list[str]:
    """Tell the types of keys, as TYPE does: `none` of one that is not there."""
    types = await asyncio.gather(*(store.command("TYPE", name, key=name) for name in names))
    return [kind.decode() if isinstance(kind, bytes) else str(kind) for kind in types]


async def scan(store: Store, command: Scan, name: bytes) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """Go through a hash's fields and values, or a sorted set's members and scores, in pages, some perhaps twice."""
    cursor = b""
    while cursor != b"0":
        cursor, flat = await store.command(command, name, cursor or b"0", "COUNT", _SCANNED, key=name)
        if flat:
            yield list(zip(flat[::2], flat[1::2], strict=True))


async def scan_keys(store: Store, pattern: str) -> AsyncIterator[list[bytes]]:
    """Go through all keys of a pattern in pages, some perhaps twice; those of one server after those of another.

    While a cluster moves slots some keys may be missed.
    """
    servers, number = 1, 0
    while number < servers:
        cursor = b""
        while cursor != b"0":
            replies = await store.each_primary("SCAN", cursor or b"0", "MATCH", pattern, "COUNT", _SCANNED)
            servers = len(replies)
            if number >= servers:
                return
            cursor, names = replies[number]
            if names:
                yield names
        number += 1
