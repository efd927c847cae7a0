"""A store that loses its newest events, as after a power loss, a failover or a restored copy."""

from __future__ import annotations

from ledger.store.interface import Store


class Tail:
    """The newest events of a store: what a restored copy of it does not have."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[bytes, bytes] = {}

    async def note(self) -> None:
        """Note all that is stored now."""
        names = [name for names in await self._store.each_primary("KEYS", "{p*") for name in names]
        self._kept = {name: await self._store.command("DUMP", name, key=name) for name in names}

    async def lose(self) -> None:
        """Make the store what it was when that was noted."""
        names = [name for names in await self._store.each_primary("KEYS", "{p*") for name in names]
        for name in names:
            await self._store.command("DEL", name, key=name)
        for name, dumped in self._kept.items():
            await self._store.command("RESTORE", name, 0, dumped, key=name)
