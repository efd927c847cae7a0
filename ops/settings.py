"""All that can be configured, read once: `LEDGER_*` in the environment, overridden by the command line.

Secrets (the token key, a Redis URL with a password) come from the environment or from a file named by the variable
with `_FILE` behind it, never from the command line, where every user of the machine can read them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit, urlunsplit

import msgspec

from ledger.errors import InvalidInput
from ops.durations import format_duration, parse_duration

Durability = Literal["default", "fsync"]
Source = Literal["catalog"]
LogLevel = Literal["debug", "info", "warning", "error"]

REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one service runs with; nothing else reads the environment."""

    host: str = "127.0.0.1"
    port: int = 2283
    workers: int = 1
    data_dir: Path = Path("var")
    redis_url: str | None = None
    """None: the embedded server in `data_dir`."""
    partitions: int = 256
    durability: Durability = "default"
    source: Source = "catalog"
    stall_s: float = 600.0
    """How long a reader of a stream may take nothing before its connection is broken."""
    grace_s: float = 10.0
    """How long open streams may go on after SIGTERM."""
    idle_s: float = 90 * 86400.0
    tombstones_s: float = 30 * 86400.0
    expire_interval_s: float = 300.0
    redis_timeout_s: float = 5.0
    log: LogLevel = "info"
    token_key: str | None = None
    """Key that signs tokens; None: made on first start and kept in `data_dir`."""

    def __repr__(self) -> str:
        """Show everything but secrets."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown["token_key"] = "hidden" if self.token_key else None
        shown["redis_url"] = without_password(self.redis_url) if self.redis_url else None
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def __rich_repr__(self) -> Any:
        """Show the same as `repr`."""
        yield repr(self)


class Variable(NamedTuple):
    """How one setting is read: its variable, its parser (raises ValueError), and whether it is secret."""

    name: str
    parse: Callable[[str], Any]
    secret: bool = False


def without_password(url: str) -> str:
    """Return `url` with its password masked."""
    try:
        parts = urlsplit(url)
        has_password = parts.password is not None
    except ValueError:
        return "(unreadable)"
    if not has_password and "password=" not in parts.query:
        return url
    host = parts.netloc.rpartition("@")[2]
    query = "&".join("password=***" if item.startswith("password=") else item for item in parts.query.split("&"))
    user = f"{parts.username or ''}:***@" if has_password else ""
    return urlunsplit((parts.scheme, user + host, parts.path, query, parts.fragment))


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.strip().isascii() and text.strip().isdigit()) or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def _choice(options: Any) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.strip().lower() not in get_args(options):
            raise ValueError(f"{text!r} is none of {', '.join(get_args(options))}")
        return text.strip().lower()

    return parse


def _duration(shortest_s: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        duration_s = parse_duration(text)
        if duration_s < shortest_s:
            raise ValueError(f"{text!r} is shorter than {format_duration(shortest_s)}")
        return duration_s

    return parse


def _host(text: str) -> str:
    host = text.strip().removeprefix("[").removesuffix("]")
    if ":" in host:
        ipaddress.IPv6Address(host.partition("%")[0])
    if not host or any(c.isspace() or c == "/" for c in host):
        raise ValueError(f"{text!r} is not a host name or address")
    return host


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("a folder is expected")
    return Path(text).expanduser()


def _redis_url(text: str) -> str:
    url = text.strip()
    scheme, separator, rest = url.partition("://")
    if scheme not in REDIS_SCHEMES or not separator or not rest:
        schemes = ", ".join(f"{scheme}://" for scheme in REDIS_SCHEMES)
        raise ValueError(f"a Redis URL begins with one of {schemes}")  # its text may hold a password: never shown
    return url


def _token_key(text: str) -> str:
    if len(text) < 32:
        raise ValueError("a key of at least 32 characters is expected")
    return text


VARIABLES: dict[str, Variable] = {
    "host": Variable("LEDGER_HOST", _host),
    "port": Variable("LEDGER_PORT", _integer(0, 65535)),
    "workers": Variable("LEDGER_WORKERS", _integer(1, 256)),
    "data_dir": Variable("LEDGER_DATA_DIR", _path),
    "redis_url": Variable("LEDGER_REDIS", _redis_url, secret=True),
    "partitions": Variable("LEDGER_PARTITIONS", _integer(1, 4096)),
    "durability": Variable("LEDGER_DURABILITY", _choice(Durability)),
    "source": Variable("LEDGER_SOURCE", _choice(Source)),
    "stall_s": Variable("LEDGER_STALL", _duration(1)),
    "grace_s": Variable("LEDGER_GRACE", _duration(0)),
    "idle_s": Variable("LEDGER_IDLE", _duration(0)),
    "tombstones_s": Variable("LEDGER_TOMBSTONES", _duration(0)),
    "expire_interval_s": Variable("LEDGER_EXPIRE_INTERVAL", _duration(1)),
    "redis_timeout_s": Variable("LEDGER_REDIS_TIMEOUT", _duration(0.05)),
    "log": Variable("LEDGER_LOG", _choice(LogLevel)),
    "token_key": Variable("LEDGER_TOKEN_KEY", _token_key, secret=True),
}


CLIENT_VARIABLES = {"LEDGER_TOKEN", "LEDGER_API_KEY"}
"""What commands that talk to a service read themselves; a shell may have them set when it serves."""


def read_settings(environ: Mapping[str, str], **overrides: object) -> Settings:
    """Build the settings from `environ` and the command line's `overrides` (by field; None: not given).

    A string, wherever it comes from, is parsed; an empty variable counts as not set. Raises InvalidInput with one
    problem for each variable or option that does not fit; none of them shows a secret.
    """
    problems: list[tuple[tuple[str], str]] = []
    values: dict[str, Any] = {}
    for field, variable in VARIABLES.items():
        override = overrides.pop(field, None)
        name = variable.name if override is None else "--" + field.removesuffix("_url").replace("_", "-")
        try:
            given = _from_environment(variable, environ) if override is None else override
            if field == "redis_url" and isinstance(override, str):
                _refuse_password(override)
            if given is not None:
                values[field] = variable.parse(given) if isinstance(given, str) else given
        except (ValueError, OSError) as error:
            problems.append(((name,), str(error)))
    if overrides:
        raise TypeError(f"no such settings: {', '.join(overrides)}")
    if problems:
        raise InvalidInput(problems)
    return Settings(**values)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the `LEDGER_*` variables that no setting reads: misspelt ones, most likely."""
    known = (
        CLIENT_VARIABLES
        | {v.name for v in VARIABLES.values()}
        | {f"{v.name}_FILE" for v in VARIABLES.values() if v.secret}
    )
    return sorted(name for name in environ if name.startswith("LEDGER_") and name not in known)


def _from_environment(variable: Variable, environ: Mapping[str, str]) -> str | None:
    text = environ.get(variable.name) or None
    file = environ.get(f"{variable.name}_FILE") if variable.secret else None
    if not file:
        return text
    if text is not None:
        raise ValueError(f"set either {variable.name} or {variable.name}_FILE")
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a text file") from None


def _refuse_password(url: str) -> None:
    if without_password(url) != url:
        raise ValueError("everybody on this machine can read a password here: set LEDGER_REDIS or LEDGER_REDIS_FILE")
