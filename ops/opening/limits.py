"""The limits' own connection to the store, over which the scripts of `limits` run.

The library's storages bring clients of their own, which know neither how our URLs are read nor how a store is followed
that moves. So its scripts and its arithmetic are used, and the way to the server is ours. The keys begin with
`ledger:limits:`, each has a time to live, and none of them holds state: on a server that loses them all counts begin
anew.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec
from limits import parse
from limits.aio.storage import MovingWindowSupport, Storage
from limits.aio.storage.redis.bridge import RedisBridge
from limits.aio.strategies import MovingWindowRateLimiter

from endpoints.http.limits import LimitRules, Limits
from ledger.errors import LedgerError
from ledger.keys import LIMITS
from ledger.store.cluster import KnownNodes
from ledger.store.interface import Script, Store, open_store

_ACQUIRE: Final = Script("acquire_moving_window", RedisBridge.SCRIPT_ACQUIRE_MOVING_WINDOW.decode())
_WINDOW: Final = Script("moving_window", RedisBridge.SCRIPT_MOVING_WINDOW.decode())


async def open_limits(redis_url: str, rules: LimitRules, timeout_s: float, known: KnownNodes | None = None) -> Limits:
    """Prepare the limits that are counted at a store's URL.

    Raises ValueError for a rule that cannot be read, LayoutError for an unusable URL, StoreUnavailable when nobody
    answers. What is opened is closed by the limits' `close`.
    """
    for rule in msgspec.structs.astuple(rules):
        parse(rule)
    store = await open_store(redis_url, timeout_s=timeout_s, known=known)
    try:
        limiter = MovingWindowRateLimiter(_Windows(store))
        return Limits(limiter, rules, timeout_s=timeout_s, trouble=(LedgerError,), close=store.close)
    except BaseException:
        await store.close()
        raise


class _Windows(Storage, MovingWindowSupport):
    """The moving windows of `limits` on a store of ours; its other kinds of counts are not used."""

    STORAGE_SCHEME = None

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` more within the last `expiry` seconds; False if that would be more than `limit`."""
        args = (_number(time.time()), limit, expiry, amount)
        return bool(await self._store.script(_ACQUIRE, [_name(key)], args))

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Tell when the oldest of the last `expiry` seconds was, and how many they are."""
        now_s = time.time()
        window = await self._store.script(_WINDOW, [_name(key)], (_number(now_s - expiry), limit))
        return (float(window[0]), int(window[1])) if window else (now_s, 0)

    @property
    def base_exceptions(self) -> type[Exception]:
        """What is wrapped in errors of the library's own, where that is asked for."""
        return LedgerError

    async def check(self) -> bool:
        """Tell whether the storage is healthy: who counts learns it."""
        return True

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count without a window."""
        raise NotImplementedError

    async def get(self, key: str) -> int:
        """Read a count without a window."""
        raise NotImplementedError

    async def get_expiry(self, key: str) -> float:
        """Tell the end of a count without a window."""
        raise NotImplementedError

    async def reset(self) -> int | None:
        """Forget all counts."""
        raise NotImplementedError

    async def clear(self, key: str) -> None:
        """Forget a count."""
        await self._store.command("DEL", _name(key), key=_name(key))


def _name(key: str) -> bytes:
    return f"{LIMITS}:{key}".encode()


def _number(seconds: float) -> str:
    """Write as redis-py does, without loss: Lua reads it back."""
    return repr(seconds)
