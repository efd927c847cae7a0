"""Which version of Immich a service says it is: apps ask for that version's request types and no others.

A version that is announced before its types are known would be asked for them and answer 400 to the whole stream. So
what is announced is at most NEWEST, whatever a backend beside the service has become.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_TEXT: Final = re.compile(r"v?([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})(?:[-+].{1,64})?", re.ASCII)


class ProtocolVersion(NamedTuple):
    """A version of Immich."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


OLDEST: Final = ProtocolVersion(3, 0, 0)
DEFAULT: Final = ProtocolVersion(3, 2, 2)
"""The newest one whose SDK is published."""
NEWEST: Final = ProtocolVersion(3, 3, 1)
"""All its types are in the registry; patches add none."""


def read_version(text: str) -> ProtocolVersion:
    """Read a version like `3.3.0` or `v3.3.0`; raises ValueError."""
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text.strip()[:40]!r} is not a version like {DEFAULT}")
    return ProtocolVersion(*map(int, found.groups()))


def announceable(text: str) -> ProtocolVersion:
    """Read a version that may be announced; raises ValueError."""
    found = read_version(text)
    if not found >= OLDEST or found[:2] > NEWEST[:2]:
        newest = f"{NEWEST.major}.{NEWEST.minor}"
        raise ValueError(f"{found} is not from {OLDEST} to {newest}: apps would ask for types that are not known here")
    return found


def announced_for(backend: ProtocolVersion) -> ProtocolVersion:
    """Tell which version to announce beside a backend: its own, as far as its types are known."""
    return max(OLDEST, backend if backend[:2] <= NEWEST[:2] else NEWEST)
