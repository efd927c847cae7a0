"""The limits' own connections to the store: a few of redis-py's, because `limits` brings its scripts with it.

URLs are read as the ledger reads them (`ledger/store/connect.py`). The keys begin with `ledger:limits:`, each has a
time to live, and none of them holds state: on a server that loses them all counts begin anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from limits.aio.storage import RedisClusterStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection
from redis.exceptions import RedisClusterException, RedisError

from endpoints.http.limits import AT_ONCE, LimitRules, Limits
from ledger.errors import LayoutError, StoreUnavailable
from ledger.keys import LIMITS
from ledger.store.connect import Target

_TROUBLE: Final = (RedisError, RedisClusterException)


async def open_limits(redis_url: str, rules: LimitRules, timeout_s: float) -> Limits:
    """Prepare the limits that are counted at a store's URL; one question tells whether that is a cluster.

    Raises ValueError for a rule that cannot be read, LayoutError for an unusable URL, StoreUnavailable when nobody
    answers. What is opened is closed by the limits' `close`.
    """
    target = Target.from_url(redis_url)
    if target.wants_cluster:
        return _on_cluster(target, rules, timeout_s)
    pool = ConnectionPool(target.connection_class, max_connections=AT_ONCE, **target.connection_options(timeout_s))
    try:
        info = await Redis(connection_pool=pool).info("cluster")
    except (RedisError, OSError) as exc:
        await pool.aclose()
        raise StoreUnavailable(f"the store at {target.name} cannot be reached: {exc}", maybe_done=False) from exc
    if info["cluster_enabled"]:
        await pool.aclose()
        return _on_cluster(target, rules, timeout_s)
    # Where to connect to is the pool's matter; the URL is only there because the library asks for one.
    storage = RedisStorage(
        "async+redis://",
        implementation="redispy",
        key_prefix=LIMITS,
        connection_pool=pool,  # type: ignore[arg-type] # the library passes on what it is given
    )
    return _limits(storage, rules, timeout_s, AT_ONCE, pool.aclose)


def _on_cluster(target: Target, rules: LimitRules, timeout_s: float) -> Limits:
    host, port = target.address
    options = target.connection_options(timeout_s)
    del options["host"], options["port"]
    if issubclass(target.connection_class, SSLConnection):
        options["ssl"] = True
    try:
        storage = RedisClusterStorage(
            "async+redis+cluster://",
            implementation="redispy",
            key_prefix=LIMITS,
            startup_nodes=[ClusterNode(host, port)],  # type: ignore[arg-type] # as above
            **options,
        )
    except (TypeError, RedisClusterException) as exc:
        raise LayoutError(f"the store's URL has an option that is unusable with a cluster: {exc}") from exc
    client: RedisCluster = storage.bridge.storage  # type: ignore[attr-defined] # its own name for the client
    # NOTE: one at a time. In redis-py 8.1 tasks that share a cluster client close each other's connections when one of
    # them meets a lost one, or when the first of all come together; what follows are AttributeErrors.
    return _limits(storage, rules, timeout_s, 1, client.aclose)


def _limits(
    storage: RedisStorage, rules: LimitRules, timeout_s: float, at_once: int, close: Callable[[], Awaitable[None]]
) -> Limits:
    limiter = MovingWindowRateLimiter(storage)
    return Limits(limiter, rules, timeout_s=timeout_s, at_once=at_once, trouble=_TROUBLE, close=close)
