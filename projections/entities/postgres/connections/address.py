"""A database's URL, as libpq, hosters and other drivers write them. Pure.

What the driver reads stays in the URL; the rest is taken out: the driver would hand it to the server as a setting.
A parameter that nobody here knows is refused by its name. No message repeats a value: it may be a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from msgspec import Struct

SCHEMES: Final = ("postgresql", "postgres")
PORT: Final = 5432

_DRIVER: Final = frozenset(
    {
        *("host", "port", "dbname", "database", "user", "password", "passfile", "service", "krbsrvname", "gsslib"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "options"),
    }
)
"""What the driver takes; `options` it hands to the server."""
_NOTHING: Final = frozenset(
    {
        *("application_name", "fallback_application_name"),  # the horizon knows our sessions by their name
        *("uselibpqcompat", "sslsni", "sslcompression", "sslcertmode", "client_encoding"),
        *("load_balance_hosts", "keepalives"),
    }
)
"""What changes nothing here, or is read below."""
_READ: Final = frozenset(
    {
        *("channel_binding", "connect_timeout", "gssencmode", "keepalives_idle", "keepalives_interval"),
        *("keepalives_count", "pgbouncer", "schema", "search_path", "ssl", "statement_cache_size"),
        *("target_session_attrs", "tcp_user_timeout"),
    }
)
"""What is read here."""
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OTHER_SSL_MODES: Final = {"no-verify": "require"}
"""As node-postgres calls them."""
_HINTS: Final = {
    "connection_limit": "LEDGER_POSTGRES_POOL sets how many connections there are",
    "pool_timeout": "LEDGER_POSTGRES_WAIT sets how long one is waited for",
    "pool_size": "LEDGER_POSTGRES_POOL sets how many connections there are",
    "statement_timeout": "LEDGER_POSTGRES_TIMEOUT sets how long a statement may take",
    "require_auth": "the driver cannot do it; sslmode=verify-full makes sure of the server",
    "requirepeer": "the driver cannot do it",
    "hostaddr": "write the address as the host",
    "currentschema": "the schema is chosen by schema",
}


class AddressError(ValueError):
    """A URL that cannot be used; the message names the parameter and says what is expected, without its value."""


class Keepalive(Struct, frozen=True):
    """How a connection is looked after while nothing is sent; seconds, and how often it may stay unanswered.

    `unsent_s`: how long what was sent may stay without a word that it arrived. 0 leaves it to the system.
    """

    idle_s: int = 60
    interval_s: int = 10
    count: int = 3
    unsent_s: float = 15.0


class Address(Struct, frozen=True):
    """Where a database is, and how it is spoken to.

    `dsn` is what the driver reads. `hosts` are several to choose from; empty: what the DSN names. `primary`: only one
    that takes writes will do. `pooled`: statements of one session may reach the server by several connections that
    others use too (PgBouncer), so nothing may be kept there behind a transaction. `search_path` is as SQL has it;
    empty: the role's own. `notes` are worth a line in the log.
    """

    dsn: str
    hosts: tuple[tuple[str, int], ...] = ()
    primary: bool = False
    pooled: bool = False
    statement_cache_size: int | None = None
    search_path: str = ""
    connect_timeout_s: float = 0.0
    keepalive: Keepalive | None = Keepalive()
    notes: tuple[str, ...] = ()


def read_address(url: str) -> Address:
    """Read a database's URL; raises AddressError."""
    scheme, separator, rest = url.partition("://")
    if scheme not in SCHEMES or not separator or not rest or not url.isprintable() or " " in url:
        schemes = " or ".join(f"{scheme}://" for scheme in SCHEMES)
        raise AddressError(f"a database's URL begins with {schemes}, like postgresql://ledger@db/immich")
    try:
        parts = urlsplit(url)
        given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise AddressError("the database's URL cannot be read: escape what is special in it, like %40 for @") from None
    query = {name: value for name, value in given if value}
    _refuse_unknown(name for name, _ in given)
    kept = {name: value for name, value in query.items() if name in _DRIVER}
    if mode := _ssl_mode(query):
        kept["sslmode"] = mode
    hosts = _hosts(parts.netloc, query)
    pooled = _flag(query, "pgbouncer", default=False)
    return Address(
        urlunsplit(parts._replace(query=urlencode(kept))),
        hosts if len(hosts) > 1 else (),
        _needs_primary(query, several=len(hosts) > 1),
        pooled,
        0 if pooled else _number(query, "statement_cache_size", 0, 1_000_000),
        _search_path(query),
        float(_number(query, "connect_timeout", 0, 3600) or 0),
        _keepalive(query),
        tuple(_notes(query)),
    )


def _refuse_unknown(names: Iterable[str]) -> None:
    for name in names:
        if name in _DRIVER or name in _NOTHING or name in _READ:
            continue
        shown = name if name.isidentifier() and len(name) <= 64 else "(not shown)"
        hint = _HINTS.get(name.lower(), "leave it out")
        raise AddressError(f"the parameter {shown} of the database's URL is not known here: {hint}")


def _ssl_mode(query: Mapping[str, str]) -> str:
    mode = query.get("sslmode", "")
    if mode:
        mode = _OTHER_SSL_MODES.get(mode, mode)
        if mode not in _SSL_MODES:
            raise AddressError(f"sslmode must be one of {', '.join(_SSL_MODES)}")
        return mode
    return ("require" if _flag(query, "ssl", default=False) else "disable") if "ssl" in query else ""


def _hosts(netloc: str, query: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """List the hosts with their ports; a port that is named once is everybody's."""
    named = netloc.rpartition("@")[2]
    listed = [unquote(one) for one in named.split(",")] if named else query.get("host", "").split(",")
    ports = query.get("port", "").split(",") if query.get("port") else []
    if len(ports) not in (0, 1, len(listed)):
        raise AddressError("port must name one port, or one for each host")
    found = []
    for at, one in enumerate(listed):
        host, port = _host(one)
        port = port or (ports[at if len(ports) > 1 else 0] if ports else str(PORT))
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise AddressError("the host or port in the database's URL cannot be read")
        if not host and len(listed) > 1:
            raise AddressError("a host in the list of hosts is empty")
        found.append((host, int(port)))
    return tuple(found)


def _host(text: str) -> tuple[str, str]:
    if text.startswith("/"):
        return text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise AddressError("the host or port in the database's URL cannot be read")
        return host, rest[1:]
    if text.count(":") > 1:
        return text, ""
    host, _, port = text.partition(":")
    return host, port


def _needs_primary(query: Mapping[str, str], *, several: bool) -> bool:
    """Tell whether only the primary will do: of several hosts always, as only it knows who writes."""
    wanted = query.get("target_session_attrs", "any")
    if wanted in ("primary", "read-write"):
        return True
    if wanted != "any":
        says = "must be primary, read-write or any: how far a database can be read is known to its primary alone"
        raise AddressError(f"target_session_attrs {says}")
    return several


def _search_path(query: Mapping[str, str]) -> str:
    if "schema" in query:
        return '"' + query["schema"].replace('"', '""') + '"'
    return query.get("search_path", "")


def _keepalive(query: Mapping[str, str]) -> Keepalive | None:
    if query.get("keepalives") == "0":
        return None
    default = Keepalive()
    numbers = {name: _number(query, f"keepalives_{name}", 0, 86_400) or 0 for name in ("idle", "interval", "count")}
    unsent_ms = _number(query, "tcp_user_timeout", 0, 86_400_000)
    return Keepalive(
        numbers["idle"] or default.idle_s,
        numbers["interval"] or default.interval_s,
        numbers["count"] or default.count,
        default.unsent_s if unsent_ms is None else unsent_ms / 1000,
    )


def _notes(query: Mapping[str, str]) -> list[str]:
    notes = []
    binding = query.get("channel_binding", "prefer")
    if binding not in ("prefer", "disable", "require"):
        raise AddressError("channel_binding must be one of prefer, disable, require")
    if binding == "require" and _ssl_mode(query) != "verify-full":
        notes.append(
            "the driver cannot bind a sign-in to its TLS channel (channel_binding=require): sslmode=verify-full makes "
            "sure of the server"
        )
    if query.get("gssencmode", "prefer") not in ("prefer", "disable"):
        raise AddressError("gssencmode must be prefer or disable: the driver does not encrypt by GSSAPI")
    return notes


def _flag(query: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = query.get(name, "")
    if not text:
        return default
    if text.lower() not in ("true", "false", "1", "0"):
        raise AddressError(f"{name} must be true or false")
    return text.lower() in ("true", "1")


def _number(query: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
        raise AddressError(f"{name} must be a whole number from {low} to {high}")
    return int(text)
