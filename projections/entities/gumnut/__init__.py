"""Libraries at Gumnut as a source of entities."""

from __future__ import annotations

from projections.entities.gumnut.source import GumnutSource

__all__ = ["GumnutSource"]
