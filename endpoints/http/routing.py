"""Which route a path is: exactly the one that was added, for a proxy in front decides by the same path who may ask."""

from __future__ import annotations

from typing import Any

import falcon
from falcon.routing import CompiledRouter


class Router(CompiledRouter):
    """Falcon's router, but that slashes too many and encoded ones are no slashes.

    Falcon drops all at the beginning, and servers decode `%2F` before it sees the path: `//metrics` or `/x%2F..` would
    get past a proxy that forbids `/metrics`.
    """

    def find(self, uri: str, req: falcon.Request | None = None) -> Any:
        """Find the route of a path; None if there is none."""
        if "//" in uri or (req is not None and b"%2f" in _raw_path(req).lower()):
            return None
        return super().find(uri, req)


def _raw_path(req: Any) -> bytes:
    """Return the path as it was sent; empty where the server does not tell."""
    raw: bytes = req.scope.get("raw_path") or b""
    return raw
