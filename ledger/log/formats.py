"""Which format of a ledger may be written: two versions may run beside each other while it is upgraded.

A version reads and writes the formats from OLDEST to FORMAT. What it writes is the ledger's own format, which
`ledger:meta` tells. Each process that serves notes itself there, with the newest format it knows, for a lease; the
ledger's format is raised once none is noted that does not know the next one. From then on older versions refuse the
ledger, with words. Whatever writes something new asks `Formats.current` first.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ledger import keys
from ledger.store.interface import Script, Store

FORMAT: Final = 2
"""The newest layout this version knows; raised when keys or stored fields change so that an older one misreads them.

2: all who write keep the index of devices (`ledger.log.order`).
"""
OLDEST: Final = 1
"""The oldest layout this version reads and writes; what is older must be upgraded by a version in between."""
LEASE_US: Final = 300_000_000
"""How long a note of who runs is good for; it is renewed several times in that."""
_FORMATS: Final = Script.load("ledger.log", "formats.lua", allow_oom=True)


class Runs(NamedTuple):
    """A process that serves a ledger: its name, the newest format it knows, and its version."""

    name: str
    newest: int
    version: str


class Formats:
    """The formats of one ledger, as one process sees them."""

    def __init__(self, store: Store, newest: int = FORMAT) -> None:
        self.current = OLDEST
        """The format to write in, as was last learnt; the oldest until then."""
        self._store = store
        self._newest = newest

    async def note(self, name: str, version: str, now_us: int) -> list[Runs]:
        """Note that a process serves, and raise the format where that holds nobody up; returns who runs.

        Raises StoreUnavailable.
        """
        return await self._ask(name, version, now_us, self._newest)

    async def running(self, now_us: int) -> list[Runs]:
        """Tell who runs, and learn the ledger's format; raises StoreUnavailable."""
        return await self._ask("", "", now_us, 0)

    async def finish(self, now_us: int, *, whoever_runs: bool = False) -> list[Runs]:
        """Raise the format to the newest known here, unless an older version runs; returns those that do."""
        runs = await self._ask("", "", now_us, self._newest, whoever_runs)
        return [each for each in runs if each.newest < self._newest]

    async def _ask(self, name: str, version: str, now_us: int, target: int, whoever_runs: bool = False) -> list[Runs]:
        lease_ms = LEASE_US // 1000
        args = (name, self._newest, version, now_us // 1000, lease_ms, target, "1" if whoever_runs else "")
        current, *flat = await self._store.script(_FORMATS, [keys.meta()], args)
        self.current = max(OLDEST, int(current))
        named = [value.decode() for value in flat]
        triples = zip(named[::3], named[1::3], named[2::3], strict=True)
        return [Runs(who, int(newest), their) for who, newest, their in triples]
