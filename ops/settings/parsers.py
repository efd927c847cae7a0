"""How the text of a setting is read: each parser returns the value or raises ValueError saying what is expected.

No message repeats a text that may be a secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

from endpoints.accounts.identity.claim_paths import parts_of
from ledger.errors import InvalidInput
from ledger.keys import check_name
from ops.settings.durations import format_duration, parse_duration
from projections.accounts.addresses import problem_of
from projections.accounts.credentials import Cipher
from projections.entities.postgres.connections.address import read_address

REDIS_SCHEMES: Final = (
    "redis",
    "rediss",
    "unix",
    "redis+cluster",
    "rediss+cluster",
    "redis+sentinel",
    "rediss+sentinel",
)
LONGEST_TEXT: Final = 2048
MOST_HOSTS: Final = 16
MOST: Final = 1_000_000
_ORIGIN: Final = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?", re.ASCII | re.IGNORECASE)


def integer(low: int, high: int) -> Callable[[str], int]:
    """Read a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        if not (text.strip().isascii() and text.strip().isdigit()) or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def choice(options: Any) -> Callable[[str], str]:
    """Read one word of a Literal type."""

    def parse(text: str) -> str:
        if text.strip().lower() not in get_args(options):
            raise ValueError(f"{text!r} is not one of {', '.join(get_args(options))}")
        return text.strip().lower()

    return parse


def choices(*options: str) -> Callable[[str], tuple[str, ...]]:
    """Read words with commas between them, at least one."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = listed(text)
        for each in chosen:
            if each not in options:
                raise ValueError(f"{each!r} is not one of {', '.join(options)}")
        if not chosen:
            raise ValueError(f"at least one is expected of {', '.join(options)}")
        return chosen

    return parse


def flag(text: str) -> bool:
    """Read true or false."""
    match text.strip().lower():
        case "true" | "yes" | "on" | "1":
            return True
        case "false" | "no" | "off" | "0":
            return False
    raise ValueError(f"{text!r} is neither true nor false")


def duration(shortest_s: float, longest_s: float = float("inf")) -> Callable[[str], float]:
    """Read a duration in seconds, like `15m`."""

    def parse(text: str) -> float:
        duration_s = parse_duration(text)
        if duration_s < shortest_s:
            raise ValueError(f"{text!r} is shorter than {format_duration(shortest_s)}")
        if duration_s > longest_s:
            raise ValueError(f"{text!r} is longer than {format_duration(longest_s)}")
        return duration_s

    return parse


def line(text: str) -> str:
    """Read a line of text as people write it."""
    if not text.strip().isprintable() or len(text) > LONGEST_TEXT:
        raise ValueError(f"one line of at most {LONGEST_TEXT} printable characters is expected")
    return text.strip()


def claim(text: str) -> str:
    """Read the path of a claim; empty for none."""
    path = line(text)
    if path:
        parts_of(path)
    return path


def needed_claim(text: str) -> str:
    """Read the path of a claim that every token has."""
    path = claim(text)
    if not path:
        raise ValueError("the name of a claim is expected, such as sid")
    return path


def name(text: str) -> str:
    """Read the id of a user or a library."""
    try:
        return check_name("", text.strip())
    except InvalidInput as error:
        raise ValueError(error.problems[0][1]) from None


def scope(text: str) -> str:
    """Read what an OpenID Connect provider is asked for: words, `openid` among them."""
    words = listed(text)
    if "openid" not in words or not text.isascii() or any(not word.isprintable() for word in words):
        raise ValueError("words are expected, `openid` among them, such as: openid email profile")
    return " ".join(words)


def secret(text: str) -> str:
    """Read a secret that somebody else made."""
    value = text.strip()
    if not value or not value.isprintable() or len(value) > LONGEST_TEXT:
        raise ValueError(f"one line of at most {LONGEST_TEXT} printable characters is expected")
    return value


def listed(text: str) -> tuple[str, ...]:
    """Read what commas or spaces separate, each once; empty for nothing."""
    return tuple(dict.fromkeys(part for part in re.split(r"[\s,]+", text) if part))


def hosts(text: str) -> tuple[str, ...]:
    """Read host names or addresses with commas between them, each once."""
    found = tuple(dict.fromkeys(_host(each) for each in text.split(",")))
    if len(found) > MOST_HOSTS:
        raise ValueError(f"at most {MOST_HOSTS} host names or addresses are expected")
    return found


def _host(text: str) -> str:
    """Read a host name or address."""
    given = text.strip().removeprefix("[").removesuffix("]")
    if ":" in given:
        ipaddress.IPv6Address(given.partition("%")[0])
    if not given or any(char.isspace() or char == "/" for char in given):
        raise ValueError(f"{text!r} is not a host name or address")
    return given


def networks(text: str) -> tuple[str, ...]:
    """Read addresses and networks, like `127.0.0.1, 10.0.0.0/8`."""
    for each in listed(text):
        try:
            ipaddress.ip_network(each)
        except ValueError as error:
            raise ValueError(f"{error}; addresses and networks like 127.0.0.1 or 10.0.0.0/8 are expected") from None
    return listed(text)


def path(text: str) -> Path:
    """Read the path of a folder."""
    if not text or "\0" in text:
        raise ValueError("a folder is expected")
    return Path(text).expanduser()


def redis_url(text: str) -> str:
    """Read the address of a Redis server."""
    url = text.strip()
    scheme, separator, rest = url.partition("://")
    if scheme not in REDIS_SCHEMES or not separator or not rest:
        schemes = ", ".join(f"{scheme}://" for scheme in REDIS_SCHEMES)
        raise ValueError(f"a Redis URL begins with one of {schemes}")  # its text may hold a password: never shown
    return url


def postgres_url(text: str) -> str:
    """Read the address of a PostgreSQL database."""
    read_address(text.strip())
    return text.strip()


def https_url(text: str) -> str:
    """Read an https URL without user, password and fragment; http is good enough on this machine only."""
    problem = problem_of(text.strip(), plain=True)
    if problem:
        raise ValueError(problem)
    return text.strip()


def https_address(text: str) -> str:
    """Read an https URL that also has no query, as an issuer's must not: OpenID Connect Discovery 1.0, section 3."""
    url = https_url(text)
    if "?" in url:
        raise ValueError("must not have a query")
    return url


def origin(text: str) -> str:
    """Read the origin of a site, as a browser writes it: scheme, host and perhaps a port, nothing behind."""
    match = _ORIGIN.fullmatch(text.strip())
    if match is None or not 0 < int(match[3] or 1) < 65536:
        raise ValueError(f"{text!r} is not an origin such as https://photos.example.org")
    scheme, place, port = match[1].lower(), match[2].lower(), match[3]
    return f"{scheme}://{place}" + ("" if port in (None, {"http": "80", "https": "443"}[scheme]) else f":{port}")


def rate(text: str) -> str:
    """Read one limit in the notation of the `limits` library, like `30/minute` or `20/10 minutes`."""
    from limits import parse_many  # PERF: 0.15 s, which a command that sets no limit need not wait for

    expected = f"{text!r} is not a limit such as 30/minute or 20/10 minutes"
    try:
        (limit,) = parse_many(text.strip())
    except ValueError:
        raise ValueError(expected) from None
    if not (0 < limit.amount <= MOST and 0 < limit.multiples <= MOST):
        raise ValueError(expected)
    return text.strip()


def fernet_keys(text: str) -> tuple[str, ...]:
    """Read encryption keys, newest first, with commas or spaces between them."""
    Cipher.from_keys(listed(text))
    return listed(text)
