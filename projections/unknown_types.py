"""Types of the protocol that apps asked for and this version does not know.

Beside a photo backend the app asks the backend for its version and this service for that version's types, and the
backend updates itself at night. So what is well-formed and unknown is left out there, counted and told, and the rest is
served: phones lack what those types hold until this service is upgraded, and sync for all else.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from ledger import keys
from ledger.errors import LedgerError
from ledger.positions import iso_from_us
from ledger.store.interface import Store
from ledger.store.scripts import Script
from projections.counters import Counters

log = logging.getLogger(__name__)

MOST: Final = 32
"""How many names are kept; a name more is left out and counted all the same."""
KEPT_US: Final = 30 * 86_400_000_000
"""A name that was not asked for in so long is forgotten."""
AGAIN_S: Final = 3600.0
"""How often a process notes a name again."""

NOTE: Final = Script.load("projections", "unknown_types.lua")
_WELL_FORMED: Final = re.compile(r"[A-Z][A-Za-z]{1,59}V[1-9][0-9]?", re.ASCII)


def is_well_formed(name: str) -> bool:
    """Tell whether a later version of the protocol might have a type of this name, as in `AssetFacesV3`."""
    return _WELL_FORMED.fullmatch(name) is not None


class UnknownType(NamedTuple):
    """A name, and when an app asked for it last."""

    name: str
    last_us: int


class UnknownTypes:
    """What all processes on one ledger came across."""

    def __init__(self, store: Store, now_s: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._counters = Counters(store)
        self._now_s = now_s
        self._noted_s: dict[str, float] = {}

    async def note(self, names: Collection[str], now_us: int) -> None:
        """Count names and keep them; what could not be is logged, since nobody depends on it."""
        await self._counters.note("unknown_types", len(names))
        now_s = self._now_s()
        due = [name for name in names if now_s - self._noted_s.get(name, -AGAIN_S) >= AGAIN_S]
        if not due:
            return
        try:
            await self._store.script(NOTE, [keys.unknown_types()], (now_us, now_us - KEPT_US, MOST, *due[:MOST]))
        except LedgerError as error:
            log.error("not noted: apps ask for %s: %s", ", ".join(due[:MOST]), error)
            return
        if len(self._noted_s) + len(due) > MOST:
            self._noted_s = {name: at_s for name, at_s in self._noted_s.items() if now_s - at_s < AGAIN_S}
        for name in due:
            if len(self._noted_s) < MOST:
                if name not in self._noted_s:
                    log.warning("apps ask for %s, which this version does not know: left out of streams", name)
                self._noted_s[name] = now_s

    async def all(self, now_us: int) -> list[UnknownType]:
        """List what was asked for of late, by name; raises StoreUnavailable."""
        flat = await self._store.command("HGETALL", keys.unknown_types(), key=keys.unknown_types())
        found = (UnknownType(name.decode(), int(at)) for name, at in zip(flat[::2], flat[1::2], strict=True))
        return sorted(each for each in found if each.last_us >= now_us - KEPT_US)


def told(found: Collection[UnknownType]) -> str:
    """Say in words what is left out."""
    names = ", ".join(f"{each.name} (last at {iso_from_us(each.last_us)})" for each in found)
    return (
        f"Apps ask for types that this version does not know: {names}. They are left out of streams, so phones lack "
        "what they hold: upgrade this service."
    )
