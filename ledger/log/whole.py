"""Whether a partition has all its projections: only then does a session that is not found not exist.

The key lies beside the projections, so whoever loses all of them loses it too. It says `1` while they are whole. A
rebuild says so in it from its beginning to its end, and so does a copy, in which no session may begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from ledger import keys
from ledger.errors import Rebuilding
from ledger.log.order import FILLED
from ledger.store.interface import Arg, Script, Store

WHOLE: Final = b"1"
REBUILDING: Final = b"rebuilding "
COPYING: Final = b"copying "

_BEGIN: Final = Script.load("ledger.log", "whole_begin.lua", allow_oom=True)  # a few bytes that heal the ledger
_FINISH: Final = Script.load("ledger.log", "whole_finish.lua", allow_oom=True)
_MARK: Final = Script.load("ledger.log", "whole_mark.lua", allow_oom=True)
_READ: Final = Script.load("ledger.log", "whole_read.lua", allow_oom=True)


async def read_marks(store: Store, partitions: int) -> list[bytes | None]:
    """Read what every partition's key says."""
    names = map(keys.whole, range(partitions))
    return list(await asyncio.gather(*(store.command("GET", name, key=name) for name in names)))


async def is_whole(store: Store, partition: int) -> bool:
    """Tell whether a partition has all its projections."""
    name = keys.whole(partition)
    return bool(await store.command("GET", name, key=name) == WHOLE)


async def read_if_whole(store: Store, partition: int, command: str, key: bytes, *args: Arg) -> Any:
    """Carry out a reading command that needs all projections; raises Rebuilding if they are not whole."""
    whole, reply = await store.script(_READ, (keys.whole(partition), key), (command, *args))
    if not whole:
        raise Rebuilding
    return reply


async def mark_new(store: Store, partitions: int) -> None:
    """Say of all partitions that nothing was said of that they are whole, and of empty ones that their index is."""
    kinds = (keys.whole, keys.sids, keys.stream, keys.activity, keys.ended)
    names = (tuple(kind(number) for kind in kinds) for number in range(partitions))
    await asyncio.gather(*(store.script(_MARK, each, (FILLED,)) for each in names))


async def begin(store: Store, partition: int, token: str, copied: bytes = b"") -> tuple[bytes, bool]:
    """Begin to rebuild a partition and return what its key says from now on, for `finish`, and whether it was whole.

    Rebuilds at the same time share it. A partition that is being copied stays so, unless by the copy that is over.
    """
    mine = b"%b%b" % (REBUILDING, token.encode())
    says, was_whole = await store.script(_BEGIN, (keys.whole(partition),), (mine, copied))
    return says, bool(was_whole)


async def mark_broken(store: Store, partition: int, broken: Mapping[str, str]) -> None:
    """Note sessions whose events are damaged, and where: not found, they are not known to have ended."""
    name = keys.broken(partition)
    await asyncio.gather(*(store.command("HSET", name, sid, what, key=name) for sid, what in broken.items()))


async def finish(store: Store, partition: int, says: bytes) -> bool:
    """Say that a partition is whole; False if its key was deleted since `begin`, and so perhaps much beside it."""
    return bool(await store.script(_FINISH, (keys.whole(partition),), (says,)))
