"""Devices across all users: who needs help first, or those that were asked for; a page at a time."""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.log.service import Ledger
from projections.devices.told import DevicesPage, Order
from projections.entities.source import EntitySource
from projections.history.event_pages import EventPages

MAX_LIMIT: Final = 200


class Asked(msgspec.Struct, frozen=True):
    """Which devices: all, those of one `user`, or those whose ids begin like `session` (4 hex digits or more).

    `ended`: those too that have ended; of all devices only where `user` or `session` is given. `order` is that of
    all devices, and of a user's; those found by their ids come in the order of these.
    """

    order: Order = "help"
    user: str | None = None
    session: str | None = None
    ended: bool = False


class Devices:
    """What lists devices. All methods raise StoreUnavailable where no partition can be read."""

    def __init__(self, ledger: Ledger, past: EventPages, source: EntitySource) -> None:
        """`source` counts how far devices are behind."""
        self._ledger = ledger
        self._past = past
        self._source = source

    async def page(self, asked: Asked, cursor: str | None = None, limit: int = 50) -> DevicesPage:
        """Read up to `limit` devices beyond `cursor`, the `next` of the page before; raises InvalidInput for none."""
        raise NotImplementedError
