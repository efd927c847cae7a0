"""What HTTP asks of a server and the parser does not do (RFC 9110, 9112): heads to refuse, and fields to pass over."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote

VERSIONS: Final = ("1.0", "1.1")
"""HTTP/0.9 has no status to answer with, and whoever says 2.0 in a line of text does not speak it."""
MOST_PORT: Final = 65535
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE | re.DOTALL)
_HOST: Final = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*(?::([0-9]{0,5}))?"
    rb"|\[[0-9A-Fa-f:.]+\](?::([0-9]{0,5}))?"
)
_TARGET: Final = re.compile(rb"[!-~]+")

Fields = list[tuple[bytes, bytes]]


class Trailers(list[tuple[bytes, bytes]]):
    """Where the fields go that come behind a body: nowhere.

    They are no headers (RFC 9110, section 6.5.1), though the parser takes them for such: a proxy that cleans headers
    may let them through, and there is no end to them.
    """

    def append(self, _: tuple[bytes, bytes]) -> None:
        """Keep nothing."""


TRAILERS: Final = Trailers()


class BadHeadError(Exception):
    """Ends the parsing of a request whose head must be answered with 400; its text says why, in ASCII."""


class Target(NamedTuple):
    """What a request is about, as its line has it; `host` is None unless the line names one."""

    host: bytes | None
    raw_path: bytes
    query: bytes

    @property
    def path(self) -> str:
        """The path with its escapes undone, as ASGI has it."""
        text = self.raw_path.decode("ascii")
        return unquote(text) if "%" in text else text


def target_of(url: bytes) -> Target:
    """Read the target of a request in origin or absolute form (section 3.2); raises BadHeadError.

    A path may begin with two slashes, which no host follows, though a URL would have one there.
    """
    if b"#" in url or not _TARGET.fullmatch(url):
        raise BadHeadError("The target of a request holds no fragment and plain characters only")
    host = None
    if not url.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(url)
        if absolute is None:
            raise BadHeadError("The target of a request is a path, or a URL")
        host, url = absolute.groups()
        _check_host(host)
    path, _, query = url.partition(b"?")
    return Target(host, path or b"/", query)


def read_head(version: str, url: bytes, fields: Fields) -> Target:
    """Read what a request is about; raises BadHeadError for a head that HTTP has refused.

    A host that the target names takes the place of the one in `fields` (section 3.2.2).
    """
    if version not in VERSIONS:
        raise BadHeadError("HTTP/1.1 is spoken here, and HTTP/1.0")
    _check_hosts(version, fields)
    target = target_of(url)
    if target.host is not None:
        fields[:] = [(name, target.host if name == b"host" else value) for name, value in fields]
    return target


def size_of(url: bytes, fields: Fields) -> int:
    """Tell how long a head is, but for its method, its version and the ends of its lines."""
    between = len(b": \r\n")
    return len(url) + sum(len(name) + len(value) + between for name, value in fields)


def without_upgrade(method: bytes, url: bytes, version: str, fields: Fields) -> bytes:
    """Write a head without its wish for another protocol, which may be ignored (RFC 9110, section 7.8)."""
    line = b"%s %s HTTP/%s\r\n" % (method, url, version.encode())
    return b"".join([line, *(b"%s: %s\r\n" % field for field in fields if field[0] != b"upgrade"), b"\r\n"])


def _check_hosts(version: str, fields: Fields) -> None:
    """Refuse a head without a host, with several, or with none that could be one (section 3.2); raises BadHeadError.

    Two servers that choose another one of two would each take the request for another's.
    """
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) > 1 or (not hosts and version != "1.0"):
        raise BadHeadError("A request has one Host field")
    for host in hosts:
        _check_host(host.strip(b" \t"))


def _check_host(host: bytes) -> None:
    found = _HOST.fullmatch(host)
    if found is None or int(found[1] or found[2] or 0) > MOST_PORT:
        raise BadHeadError("A Host is a name or an address, perhaps with a port")
