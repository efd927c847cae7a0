"""A store's address: one server, several nodes of a cluster, or Sentinels that know which server is the primary.

`redis://`, `rediss://` and `unix://` are redis-py's own URLs; `redis+cluster://a,b:6380` and `redis+sentinel://a,b/name`
(with `rediss+…` over TLS) may name several hosts, of which any that answers will do.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import RedisError

from ledger.errors import LayoutError
from ledger.store.connect import Address, Target
from ledger.store.sentinel import SentinelTarget

CLUSTER: Final = "+cluster"
SENTINEL: Final = "+sentinel"
SENTINEL_USER: Final = "sentinel_username"
SENTINEL_PASSWORD: Final = "sentinel_password"  # noqa: S105 - the name of an option
MAX_HOSTS: Final = 100
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_NOT_FOR_CONNECTIONS: Final = ("cluster", "max_connections", "timeout")


def read_url(url: str) -> Target:
    """Read a store's URL; raises LayoutError, whose message never repeats the URL (it may hold a password)."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return _target(url, (), None, {})
        scheme, kind = parts.scheme, ""
        for suffix in (CLUSTER, SENTINEL):
            if scheme.endswith(suffix):
                scheme, kind = scheme.removesuffix(suffix), suffix
        hosts = _hosts(parts, _SENTINEL_PORT if kind == SENTINEL else _PORT)
        path, service, query = parts.path, "", parts.query
        sentinel: dict[str, str] = {}
        if kind == SENTINEL:
            service, path = _service(parts.path)
            pairs = parse_qsl(query, keep_blank_values=True)
            sentinel = {name: value for name, value in pairs if name in (SENTINEL_USER, SENTINEL_PASSWORD)}
            query = urlencode([pair for pair in pairs if pair[0] not in sentinel])
        elif len(hosts) > 1 and not kind:
            raise LayoutError(
                "the store's URL names several hosts, which only the nodes of a cluster (redis+cluster://a,b) or "
                "Sentinels (redis+sentinel://a,b/name) may be"
            )
        user, at, _ = parts.netloc.rpartition("@")
        host, port = hosts[0]
        netloc = f"{user}{at}[{host}]:{port}" if ":" in host else f"{user}{at}{host}:{port}"
        plain = urlunsplit((scheme, netloc, path, query, ""))
        return _target(plain, hosts, service if kind == SENTINEL else None, sentinel, wants_cluster=kind == CLUSTER)
    except ValueError as exc:
        raise LayoutError(f"the store's URL is not usable: {exc}") from None


def with_sentinel_password(url: str, password: str) -> str:
    """Put the Sentinels' own password into a URL that names them; raises ValueError for any other."""
    parts = urlsplit(url)
    if not parts.scheme.endswith(SENTINEL):
        raise ValueError("goes with a URL of Sentinels: redis+sentinel://host,host/name")
    if SENTINEL_PASSWORD in dict(parse_qsl(parts.query)):
        raise ValueError("the URL has one already")
    added = urlencode({SENTINEL_PASSWORD: password})
    return urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added))


def _hosts(parts: SplitResult, default_port: int) -> tuple[Address, ...]:
    """Take the hosts of a URL apart; raises ValueError."""
    listed = parts.netloc.rpartition("@")[2].split(",")
    if len(listed) > MAX_HOSTS:
        raise ValueError(f"it names more than {MAX_HOSTS} hosts")
    found = []
    for each in listed:
        one = urlsplit(f"//{each.strip()}")
        if not one.hostname and len(listed) > 1:
            raise ValueError("a host between its commas is empty")
        found.append((one.hostname or "localhost", one.port or default_port))
    return tuple(dict.fromkeys(found))


def _service(path: str) -> tuple[str, str]:
    """Take `/name` or `/name/db` apart; the name is what Sentinels call the primary."""
    name, _, database = path.removeprefix("/").partition("/")
    if not name or (database and not database.isdecimal()):
        raise ValueError(
            "behind the Sentinels' hosts comes the name of the primary, like redis+sentinel://a,b/mymaster"
        )
    return unquote(name), f"/{database}" if database else ""


def _target(
    url: str, hosts: tuple[Address, ...], service: str | None, sentinel: dict[str, str], *, wants_cluster: bool = False
) -> Target:
    options: dict[str, Any] = dict(parse_url(url))
    wants_cluster = wants_cluster or str(options.get("cluster", "")).lower() in {"true", "1", "yes"}
    if wants_cluster and options.get("db"):
        raise LayoutError("the store's URL names a database, and a cluster is used with number 0 alone")
    for name in _NOT_FOR_CONNECTIONS:
        options.pop(name, None)
    connection_class = options.pop("connection_class", Connection)
    options.update(protocol=2, decode_responses=False, health_check_interval=0)
    if issubclass(connection_class, Connection):
        options = {"host": "localhost", "port": _PORT, "socket_keepalive": True} | options
    if service is None:
        target = Target(connection_class, options, wants_cluster, hosts)
    else:
        target = SentinelTarget(connection_class, options, hosts, service, sentinel)
    try:
        target.connection(1.0)
    except (TypeError, ValueError, RedisError) as exc:
        raise LayoutError(f"the store's URL has an unusable option: {exc}") from None
    return target
