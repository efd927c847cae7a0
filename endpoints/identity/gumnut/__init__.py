"""Gumnut as identity provider: who its users are, through its own SDK."""

from __future__ import annotations

from endpoints.identity.gumnut.provider import GumnutProvider
from projections.gumnut.config import GumnutConfig

__all__ = ["GumnutConfig", "GumnutProvider"]
