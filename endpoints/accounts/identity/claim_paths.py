"""Claims by their path, as settings name them: `sub`, `realm_access.user`, `https://example\\.org/user`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

MAX_PARTS: Final = 16
MAX_PATH_CHARS: Final = 512


@lru_cache(64)
def parts_of(path: str) -> tuple[str, ...]:
    """Split a path at its dots; `\\.` is a dot in a name, `\\\\` a backslash. Raises ValueError for what is no path."""
    parts, escaped = [""], False
    for char in path:
        if escaped and char not in ".\\":
            raise ValueError(r"a backslash stands only before a dot or another one: \. is a dot within a name")
        if char == "\\" and not escaped:
            escaped = True
            continue
        if char == "." and not escaped:
            parts.append("")
        else:
            parts[-1] += char
        escaped = False
    if escaped or not all(parts) or len(parts) > MAX_PARTS or len(path) > MAX_PATH_CHARS:
        raise ValueError(
            f"a claim is a name, or up to {MAX_PARTS} names with dots between them, like realm_access.user; "
            rf"a dot within a name is written \. (at most {MAX_PATH_CHARS} characters)"
        )
    return tuple(parts)


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """Return the claim at a path; None where there is none, or an empty one.

    A claim whose whole name is written like the path goes first, so that a name with dots is found without escapes.
    """
    value: Any = claims.get(path)
    if value is None:
        value = claims
        for part in parts_of(path):
            value = value.get(part) if isinstance(value, Mapping) else None
    return None if value == "" else value
