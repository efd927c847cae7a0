"""How many rows a source holds back now, by reason, as far as it knows without looking at them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, Protocol, runtime_checkable

from ledger import keys
from ledger.store.interface import Store
from projections.entities.source import EntitySource, HeldBack

LIBRARIES: Final = 1000
"""Of how many libraries at most; of a ledger with more the others are not looked at."""


@runtime_checkable
class _Noting(Protocol):
    async def held_back_everywhere(self) -> Mapping[str, list[HeldBack]]: ...


async def held_back_rows(source: EntitySource, store: Store) -> Mapping[str, int]:
    """Count rows by `missing_parent` and `unfit`; raises StoreUnavailable.

    Of PostgreSQL it is known of unfit rows alone that others refer to, and were met by a stream.
    """
    found = Counter({"missing_parent": 0, "unfit": 0})
    if isinstance(source, _Noting):
        for held in (await source.held_back_everywhere()).values():
            for one in held:
                found[one.reason] += one.rows
    name = keys.unfit_parents()
    found["unfit"] += int(await store.command("HLEN", name, key=name))
    name = keys.catalog_libraries()
    libraries = await store.command("SRANDMEMBER", name, LIBRARIES, key=name)
    for library in libraries:
        waiting = keys.catalog_waiting(library.decode())
        found["missing_parent"] += int(await store.command("HLEN", waiting, key=waiting))
    return found
